//! Shapes of Qwen3-VL that `init` knows by name, after the released checkpoints.

use serde_json::{Value, json};

use super::DIALOGUE;
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
    vision: Vision,
    text: Text,
    /// The least and the most pixels of a picture.
    pixels: [u64; 2],
    tied: bool,
}

struct Vision {
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    patch: usize,
    /// Side of the table of positions.
    table: usize,
    taps: &'static [usize],
}

struct Text {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocab: usize,
    context: usize,
    theta: f64,
    sections: [usize; 3],
}

const TINY: Sizes = Sizes {
    vision: Vision { hidden: 48, layers: 3, heads: 4, intermediate: 96, patch: 8, table: 8, taps: &[0, 2] },
    text: Text {
        hidden: 64,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        intermediate: 128,
        vocab: 320,
        context: 4096,
        theta: 500_000.0,
        sections: [4, 2, 2],
    },
    pixels: [32 * 32, 256 * 256],
    tied: true,
};

const TOWER: Vision = Vision {
    hidden: 1024,
    layers: 24,
    heads: 16,
    intermediate: 4096,
    patch: 16,
    table: 48,
    taps: &[5, 11, 17],
};

const QWEN3_VL_2B: Sizes = Sizes {
    vision: TOWER,
    text: Text {
        hidden: 2048,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        intermediate: 6144,
        vocab: 151_936,
        context: 262_144,
        theta: 5_000_000.0,
        sections: [24, 20, 20],
    },
    pixels: [65_536, 16_777_216],
    tied: true,
};

const QWEN3_VL_4B: Sizes = Sizes {
    text: Text { hidden: 2560, layers: 36, heads: 32, intermediate: 9728, ..QWEN3_VL_2B.text },
    ..QWEN3_VL_2B
};

const QWEN3_VL_8B: Sizes = Sizes {
    vision: Vision { hidden: 1152, layers: 27, intermediate: 4304, taps: &[8, 16, 24], ..TOWER },
    text: Text { hidden: 4096, layers: 36, heads: 32, intermediate: 12_288, ..QWEN3_VL_2B.text },
    tied: false,
    ..QWEN3_VL_2B
};

impl Sizes {
    /// The `config.json` with weights of type `dtype`.
    fn config(&self, dtype: &str) -> Value {
        json!({
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "dtype": dtype,
            "image_token_id": DIALOGUE.id("<|image_pad|>"),
            "video_token_id": DIALOGUE.id("<|video_pad|>"),
            "vision_start_token_id": DIALOGUE.id("<|vision_start|>"),
            "vision_end_token_id": DIALOGUE.id("<|vision_end|>"),
            "tie_word_embeddings": self.tied,
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
            "model_type": "qwen3_vl_vision",
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
            "deepstack_visual_indexes": self.taps,
        })
    }
}

impl Text {
    fn config(&self) -> Value {
        json!({
            "model_type": "qwen3_vl_text",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-6,
            "rope_theta": self.theta,
            "rope_scaling": {
                "mrope_interleaved": true, "mrope_section": self.sections, "rope_type": "default",
            },
            "attention_bias": false,
            "eos_token_id": DIALOGUE.id("<|im_end|>"),
            "pad_token_id": DIALOGUE.id("<|endoftext|>"),
        })
    }
}
