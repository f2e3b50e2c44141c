//! Shapes of Qwen3.5.
//!
//! The decoders of 0.8B, 4B and 9B are those of public training scripts and of transformers' defaults
//! (`Qwen3_5TextConfig`, `Qwen3_5VisionConfig`), and so is the tower of 9B. The decoder of 2B and the other
//! towers were not compared with a released file.

use serde_json::{Value, json};

use super::{CENTRED, DIALOGUE, Text, Tower, size, top_level};
use crate::families::contract::Preset;

pub(super) const PRESETS: [Preset; 5] = [
    Preset {
        name: "qwen3.5-tiny",
        about: "Qwen3.5's mechanisms in a megabyte or two: for tests and the demo",
        config: |dtype| TINY.config(dtype),
        image_processor: || TINY.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen3.5-0.8b",
        about: "The shape of Qwen3.5-0.8B",
        config: |dtype| QWEN3_5_0_8B.config(dtype),
        image_processor: || QWEN3_5_0_8B.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen3.5-2b",
        about: "The shape of Qwen3.5-2B",
        config: |dtype| QWEN3_5_2B.config(dtype),
        image_processor: || QWEN3_5_2B.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen3.5-4b",
        about: "The shape of Qwen3.5-4B",
        config: |dtype| QWEN3_5_4B.config(dtype),
        image_processor: || QWEN3_5_4B.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen3.5-9b",
        about: "The shape of Qwen3.5-9B",
        config: |dtype| QWEN3_5_9B.config(dtype),
        image_processor: || QWEN3_5_9B.image_processor(),
        dialogue: &DIALOGUE,
    },
];

/// The sizes in which the presets differ.
struct Sizes {
    tower: Tower,
    /// Side of the table of positions.
    table: usize,
    text: Text,
    /// The last of so many layers has attention.
    interval: usize,
    head_dim: usize,
    theta: f64,
    sections: [usize; 3],
    /// Heads of keys and of values of the layers without attention.
    linear_heads: [usize; 2],
    linear_head_dim: usize,
    /// The least and the most pixels of a picture.
    pixels: [u64; 2],
    /// Whether the output head is the table of embeddings.
    tied: bool,
}

const TINY: Sizes = Sizes {
    tower: Tower { hidden: 48, layers: 2, heads: 4, intermediate: 96, patch: 8 },
    table: 8,
    text: Text { hidden: 64, layers: 3, heads: 4, kv_heads: 2, intermediate: 128, vocab: 320, context: 4096 },
    interval: 3,
    head_dim: 32,
    theta: 10_000.0,
    sections: [2, 1, 1],
    linear_heads: [2, 4],
    linear_head_dim: 32,
    pixels: [32 * 32, 256 * 256],
    tied: true,
};

const QWEN3_5_0_8B: Sizes = Sizes {
    tower: Tower { hidden: 768, layers: 12, heads: 12, intermediate: 3072, patch: 16 },
    table: 48,
    text: Text {
        hidden: 1024,
        layers: 24,
        heads: 8,
        kv_heads: 2,
        intermediate: 3584,
        vocab: 248_320,
        context: 262_144,
    },
    interval: 4,
    head_dim: 256,
    theta: 10_000_000.0,
    sections: [11, 11, 10],
    linear_heads: [16, 16],
    linear_head_dim: 128,
    pixels: [65_536, 16_777_216],
    tied: true,
};

const QWEN3_5_2B: Sizes = Sizes {
    tower: Tower { hidden: 1024, layers: 24, heads: 16, intermediate: 4096, patch: 16 },
    text: Text { hidden: 2048, intermediate: 6144, ..QWEN3_5_0_8B.text },
    ..QWEN3_5_0_8B
};

const QWEN3_5_4B: Sizes = Sizes {
    text: Text { hidden: 2560, layers: 32, heads: 16, kv_heads: 4, intermediate: 9216, ..QWEN3_5_0_8B.text },
    linear_heads: [16, 32],
    ..QWEN3_5_2B
};

const QWEN3_5_9B: Sizes = Sizes {
    tower: Tower { hidden: 1152, layers: 27, heads: 16, intermediate: 4304, patch: 16 },
    text: Text { hidden: 4096, intermediate: 12_288, ..QWEN3_5_4B.text },
    tied: false,
    ..QWEN3_5_4B
};

impl Sizes {
    /// The `config.json` with weights of type `dtype`.
    fn config(&self, dtype: &str) -> Value {
        let [key_heads, value_heads] = self.linear_heads;
        let tower = json!({ "num_position_embeddings": self.table * self.table });
        let text = json!({
            "model_type": "qwen3_5_text",
            "full_attention_interval": self.interval,
            "head_dim": self.head_dim,
            "linear_num_key_heads": key_heads,
            "linear_num_value_heads": value_heads,
            "linear_key_head_dim": self.linear_head_dim,
            "linear_value_head_dim": self.linear_head_dim,
            "linear_conv_kernel_dim": 4,
            "rope_parameters": {
                "mrope_interleaved": true,
                "mrope_section": self.sections,
                "partial_rotary_factor": 0.25,
                "rope_theta": self.theta,
                "rope_type": "default",
            },
            "attention_bias": false,
        });
        let sections = json!({
            "vision_config":
                self.tower.config("qwen3_5_vision", "gelu_pytorch_tanh", self.text.hidden, tower),
            "text_config": self.text.config(text),
        });
        top_level("Qwen3_5ForConditionalGeneration", "qwen3_5", dtype, self.tied, sections)
    }

    /// `preprocessor_config.json`.
    fn image_processor(&self) -> Value {
        self.tower.image_processor("Qwen2VLImageProcessorFast", CENTRED, size(self.pixels))
    }
}
