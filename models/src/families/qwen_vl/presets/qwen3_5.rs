//! Shapes of Qwen3.5.

use serde_json::{Value, json};

use super::DIALOGUE;
use crate::families::contract::Preset;

pub(super) const PRESETS: [Preset; 2] = [
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
];

/// The sizes in which the presets differ.
struct Sizes {
    vision: Vision,
    text: Text,
    /// The least and the most pixels of a picture.
    pixels: [u64; 2],
}

struct Vision {
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    patch: usize,
    /// Side of the table of positions.
    table: usize,
}

struct Text {
    hidden: usize,
    layers: usize,
    /// The last of so many layers has attention.
    interval: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocab: usize,
    context: usize,
    theta: f64,
    sections: [usize; 3],
    /// Heads of keys and of values of the layers without attention.
    linear_heads: [usize; 2],
    linear_head_dim: usize,
}

const TINY: Sizes = Sizes {
    vision: Vision { hidden: 48, layers: 2, heads: 4, intermediate: 96, patch: 8, table: 8 },
    text: Text {
        hidden: 64,
        layers: 3,
        interval: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        intermediate: 128,
        vocab: 320,
        context: 4096,
        theta: 10_000.0,
        sections: [2, 1, 1],
        linear_heads: [2, 4],
        linear_head_dim: 32,
    },
    pixels: [32 * 32, 256 * 256],
};

const QWEN3_5_0_8B: Sizes = Sizes {
    vision: Vision { hidden: 768, layers: 12, heads: 12, intermediate: 3072, patch: 16, table: 48 },
    text: Text {
        hidden: 1024,
        layers: 24,
        interval: 4,
        heads: 8,
        kv_heads: 2,
        head_dim: 256,
        intermediate: 3584,
        vocab: 248_320,
        context: 262_144,
        theta: 10_000_000.0,
        sections: [11, 11, 10],
        linear_heads: [16, 16],
        linear_head_dim: 128,
    },
    pixels: [65_536, 16_777_216],
};

impl Sizes {
    /// The `config.json` with weights of type `dtype`.
    fn config(&self, dtype: &str) -> Value {
        json!({
            "architectures": ["Qwen3_5ForConditionalGeneration"],
            "model_type": "qwen3_5",
            "dtype": dtype,
            "image_token_id": DIALOGUE.id("<|image_pad|>"),
            "video_token_id": DIALOGUE.id("<|video_pad|>"),
            "vision_start_token_id": DIALOGUE.id("<|vision_start|>"),
            "vision_end_token_id": DIALOGUE.id("<|vision_end|>"),
            "tie_word_embeddings": true,
            "vision_config": self.vision.config(self.text.hidden),
            "text_config": self.text.config(),
        })
    }

    /// `preprocessor_config.json`.
    fn image_processor(&self) -> Value {
        json!({
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "do_convert_rgb": true,
            "do_resize": true,
            "do_rescale": true,
            "do_normalize": true,
            "resample": 3,
            "rescale_factor": 1.0 / 255.0,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "size": { "shortest_edge": self.pixels[0], "longest_edge": self.pixels[1] },
            "patch_size": self.vision.patch,
            "temporal_patch_size": 2,
            "merge_size": 2,
        })
    }
}

impl Vision {
    fn config(&self, out: usize) -> Value {
        json!({
            "model_type": "qwen3_5_vision",
            "depth": self.layers,
            "hidden_size": self.hidden,
            "hidden_act": "gelu_pytorch_tanh",
            "intermediate_size": self.intermediate,
            "num_heads": self.heads,
            "in_channels": 3,
            "patch_size": self.patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": out,
            "num_position_embeddings": self.table * self.table,
        })
    }
}

impl Text {
    fn config(&self) -> Value {
        let [key_heads, value_heads] = self.linear_heads;
        json!({
            "model_type": "qwen3_5_text",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "full_attention_interval": self.interval,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "linear_num_key_heads": key_heads,
            "linear_num_value_heads": value_heads,
            "linear_key_head_dim": self.linear_head_dim,
            "linear_value_head_dim": self.linear_head_dim,
            "linear_conv_kernel_dim": 4,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "mrope_interleaved": true,
                "mrope_section": self.sections,
                "partial_rotary_factor": 0.25,
                "rope_theta": self.theta,
                "rope_type": "default",
            },
            "attention_bias": false,
            "eos_token_id": DIALOGUE.id("<|im_end|>"),
            "pad_token_id": DIALOGUE.id("<|endoftext|>"),
        })
    }
}
