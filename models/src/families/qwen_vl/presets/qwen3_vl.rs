//! Shapes of Qwen3-VL that `init` knows by name, after the released checkpoints.

use serde_json::{Value, json};

use super::{CENTRED, DIALOGUE, Text, Tower, size, top_level};
use crate::families::contract::Preset;

pub(super) const PRESETS: [Preset; 4] = [
    Preset {
        name: "qwen3-vl-tiny",
        about: "Qwen3-VL's mechanisms at a few hundred kilobytes: for tests and the demo",
        config: |dtype| TINY.config(dtype),
        image_processor: || TINY.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen3-vl-2b",
        about: "The shape of Qwen3-VL-2B-Instruct",
        config: |dtype| QWEN3_VL_2B.config(dtype),
        image_processor: || QWEN3_VL_2B.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen3-vl-4b",
        about: "The shape of Qwen3-VL-4B-Instruct",
        config: |dtype| QWEN3_VL_4B.config(dtype),
        image_processor: || QWEN3_VL_4B.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen3-vl-8b",
        about: "The shape of Qwen3-VL-8B-Instruct",
        config: |dtype| QWEN3_VL_8B.config(dtype),
        image_processor: || QWEN3_VL_8B.image_processor(),
        dialogue: &DIALOGUE,
    },
];

/// The sizes in which the presets differ.
struct Sizes {
    tower: Tower,
    /// Side of the table of positions.
    table: usize,
    taps: &'static [usize],
    text: Text,
    head_dim: usize,
    theta: f64,
    sections: [usize; 3],
    /// The least and the most pixels of a picture.
    pixels: [u64; 2],
    tied: bool,
}

const TINY: Sizes = Sizes {
    tower: Tower { hidden: 48, layers: 3, heads: 4, intermediate: 96, patch: 8 },
    table: 8,
    taps: &[0, 2],
    text: Text { hidden: 64, layers: 3, heads: 4, kv_heads: 2, intermediate: 128, vocab: 320, context: 4096 },
    head_dim: 16,
    theta: 500_000.0,
    sections: [4, 2, 2],
    pixels: [32 * 32, 256 * 256],
    tied: true,
};

const TOWER: Tower = Tower { hidden: 1024, layers: 24, heads: 16, intermediate: 4096, patch: 16 };

const QWEN3_VL_2B: Sizes = Sizes {
    tower: TOWER,
    table: 48,
    taps: &[5, 11, 17],
    text: Text {
        hidden: 2048,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        intermediate: 6144,
        vocab: 151_936,
        context: 262_144,
    },
    head_dim: 128,
    theta: 5_000_000.0,
    sections: [24, 20, 20],
    pixels: [65_536, 16_777_216],
    tied: true,
};

const QWEN3_VL_4B: Sizes = Sizes {
    text: Text { hidden: 2560, layers: 36, heads: 32, intermediate: 9728, ..QWEN3_VL_2B.text },
    ..QWEN3_VL_2B
};

const QWEN3_VL_8B: Sizes = Sizes {
    tower: Tower { hidden: 1152, layers: 27, intermediate: 4304, ..TOWER },
    taps: &[8, 16, 24],
    text: Text { hidden: 4096, layers: 36, heads: 32, intermediate: 12_288, ..QWEN3_VL_2B.text },
    tied: false,
    ..QWEN3_VL_2B
};

impl Sizes {
    /// The `config.json` with weights of type `dtype`.
    fn config(&self, dtype: &str) -> Value {
        let tower = json!({
            "num_position_embeddings": self.table * self.table,
            "deepstack_visual_indexes": self.taps,
        });
        let text = json!({
            "model_type": "qwen3_vl_text",
            "head_dim": self.head_dim,
            "rope_theta": self.theta,
            "rope_scaling": {
                "mrope_interleaved": true, "mrope_section": self.sections, "rope_type": "default",
            },
            "attention_bias": false,
        });
        let sections = json!({
            "vision_config":
                self.tower.config("qwen3_vl_vision", "gelu_pytorch_tanh", self.text.hidden, tower),
            "text_config": self.text.config(text),
        });
        top_level("Qwen3VLForConditionalGeneration", "qwen3_vl", dtype, self.tied, sections)
    }

    /// `preprocessor_config.json`.
    fn image_processor(&self) -> Value {
        self.tower.image_processor("Qwen2VLImageProcessorFast", CENTRED, size(self.pixels))
    }
}
