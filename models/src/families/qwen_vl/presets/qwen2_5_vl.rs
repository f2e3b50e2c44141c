//! Shapes of Qwen2.5-VL that `init` knows by name, after the released checkpoints, whose decoder has no
//! section of its own.

use serde_json::{Value, json};

use super::DIALOGUE;
use crate::families::contract::Preset;

pub(super) const PRESETS: [Preset; 4] = [
    Preset {
        name: "qwen2.5-vl-tiny",
        about: "Qwen2.5-VL's mechanisms at a few hundred kilobytes: for tests and the demo",
        config: |dtype| TINY.config(dtype),
        image_processor: || TINY.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen2.5-vl-3b",
        about: "The shape of Qwen2.5-VL-3B-Instruct",
        config: |dtype| QWEN2_5_VL_3B.config(dtype),
        image_processor: || QWEN2_5_VL_3B.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen2.5-vl-7b",
        about: "The shape of Qwen2.5-VL-7B-Instruct",
        config: |dtype| QWEN2_5_VL_7B.config(dtype),
        image_processor: || QWEN2_5_VL_7B.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen2.5-vl-32b",
        about: "The shape of Qwen2.5-VL-32B-Instruct",
        config: |dtype| QWEN2_5_VL_32B.config(dtype),
        image_processor: || QWEN2_5_VL_32B.image_processor(),
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
    /// Side of a window, pixels.
    window: usize,
    full: &'static [usize],
}

struct Text {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    intermediate: usize,
    vocab: usize,
    context: usize,
    sections: [usize; 3],
}

const TINY: Sizes = Sizes {
    vision: Vision { hidden: 48, layers: 3, heads: 4, intermediate: 96, patch: 8, window: 32, full: &[1] },
    text: Text {
        hidden: 64,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        intermediate: 128,
        vocab: 320,
        context: 4096,
        sections: [2, 3, 3],
    },
    pixels: [32 * 32, 256 * 256],
    tied: true,
};

const TOWER: Vision = Vision {
    hidden: 1280,
    layers: 32,
    heads: 16,
    intermediate: 3420,
    patch: 14,
    window: 112,
    full: &[7, 15, 23, 31],
};

const QWEN2_5_VL_3B: Sizes = Sizes {
    vision: TOWER,
    text: Text {
        hidden: 2048,
        layers: 36,
        heads: 16,
        kv_heads: 2,
        intermediate: 11_008,
        vocab: 151_936,
        context: 128_000,
        sections: [16, 24, 24],
    },
    pixels: [3136, 12_845_056],
    tied: true,
};

const QWEN2_5_VL_7B: Sizes = Sizes {
    text: Text {
        hidden: 3584,
        layers: 28,
        heads: 28,
        kv_heads: 4,
        intermediate: 18_944,
        vocab: 152_064,
        ..QWEN2_5_VL_3B.text
    },
    tied: false,
    ..QWEN2_5_VL_3B
};

const QWEN2_5_VL_32B: Sizes = Sizes {
    vision: Vision { intermediate: 3456, ..TOWER },
    text: Text {
        hidden: 5120,
        layers: 64,
        heads: 40,
        kv_heads: 8,
        intermediate: 27_648,
        vocab: 152_064,
        ..QWEN2_5_VL_3B.text
    },
    tied: false,
    ..QWEN2_5_VL_3B
};

impl Sizes {
    /// The `config.json` with weights of type `dtype`.
    fn config(&self, dtype: &str) -> Value {
        let Text { hidden, layers, heads, kv_heads, intermediate, vocab, context, sections } = self.text;
        json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "dtype": dtype,
            "image_token_id": DIALOGUE.id("<|image_pad|>"),
            "video_token_id": DIALOGUE.id("<|video_pad|>"),
            "vision_start_token_id": DIALOGUE.id("<|vision_start|>"),
            "vision_end_token_id": DIALOGUE.id("<|vision_end|>"),
            "tie_word_embeddings": self.tied,
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": context,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "rope_scaling": { "type": "mrope", "mrope_section": sections },
            "use_sliding_window": false,
            "eos_token_id": DIALOGUE.id("<|im_end|>"),
            "pad_token_id": DIALOGUE.id("<|endoftext|>"),
            "vision_config": self.vision.config(hidden),
        })
    }

    /// `preprocessor_config.json`.
    fn image_processor(&self) -> Value {
        json!({
            "image_processor_type": "Qwen2VLImageProcessor",
            "do_convert_rgb": true,
            "do_resize": true,
            "do_rescale": true,
            "do_normalize": true,
            "resample": 3,
            "rescale_factor": 1.0 / 255.0,
            // CLIP's.
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "min_pixels": self.pixels[0],
            "max_pixels": self.pixels[1],
            "patch_size": self.vision.patch,
            "temporal_patch_size": 2,
            "merge_size": 2,
        })
    }
}

impl Vision {
    fn config(&self, out: usize) -> Value {
        json!({
            "model_type": "qwen2_5_vl",
            "depth": self.layers,
            "hidden_size": self.hidden,
            "hidden_act": "silu",
            "intermediate_size": self.intermediate,
            "num_heads": self.heads,
            "in_channels": 3,
            "patch_size": self.patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": self.window,
            "out_hidden_size": out,
            "fullatt_block_indexes": self.full,
        })
    }
}
