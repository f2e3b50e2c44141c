//! Shapes of SmolVLM and Idefics3 that `init` knows by name, after the released checkpoints.

use serde_json::{Value, json};

use crate::families::contract::{Dialogue, Preset};

pub(super) static PRESETS: [Preset; 6] = [
    Preset {
        name: "smolvlm-tiny",
        about: "SmolVLM's mechanisms at a few hundred kilobytes: for tests and the demo",
        config: |dtype| TINY.config("smolvlm", dtype),
        image_processor: || TINY.image_processor("SmolVLMImageProcessor"),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "smolvlm-256m",
        about: "The shape of SmolVLM-256M-Instruct",
        config: |dtype| SMOLVLM_256M.config("smolvlm", dtype),
        image_processor: || SMOLVLM_256M.image_processor("SmolVLMImageProcessor"),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "smolvlm-500m",
        about: "The shape of SmolVLM-500M-Instruct",
        config: |dtype| SMOLVLM_500M.config("smolvlm", dtype),
        image_processor: || SMOLVLM_500M.image_processor("SmolVLMImageProcessor"),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "smolvlm-2.2b",
        about: "The shape of SmolVLM-Instruct",
        config: |dtype| SMOLVLM_2B.config("smolvlm", dtype),
        image_processor: || SMOLVLM_2B.image_processor("SmolVLMImageProcessor"),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "idefics3-tiny",
        about: "Idefics3's mechanisms at a few hundred kilobytes: for tests",
        config: |dtype| TINY.config("idefics3", dtype),
        image_processor: || TINY.image_processor("Idefics3ImageProcessor"),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "idefics3-8b",
        about: "The shape of Idefics3-8B-Llama3",
        config: |dtype| IDEFICS3_8B.config("idefics3", dtype),
        image_processor: || IDEFICS3_8B.image_processor("Idefics3ImageProcessor"),
        dialogue: &DIALOGUE,
    },
];

/// SmolVLM's dialogue format.
const DIALOGUE: Dialogue = Dialogue {
    control: &[
        "<|endoftext|>",
        "<|im_start|>",
        "<end_of_utterance>",
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
        "<row_1_col_1>",
        "<row_1_col_2>",
        "<row_1_col_3>",
        "<row_1_col_4>",
        "<row_1_col_5>",
        "<row_1_col_6>",
        "<row_2_col_1>",
        "<row_2_col_2>",
        "<row_2_col_3>",
        "<row_2_col_4>",
        "<row_2_col_5>",
        "<row_2_col_6>",
        "<row_3_col_1>",
        "<row_3_col_2>",
        "<row_3_col_3>",
        "<row_3_col_4>",
        "<row_3_col_5>",
        "<row_3_col_6>",
        "<row_4_col_1>",
        "<row_4_col_2>",
        "<row_4_col_3>",
        "<row_4_col_4>",
        "<row_4_col_5>",
        "<row_4_col_6>",
        "<row_5_col_1>",
        "<row_5_col_2>",
        "<row_5_col_3>",
        "<row_5_col_4>",
        "<row_5_col_5>",
        "<row_5_col_6>",
        "<row_6_col_1>",
        "<row_6_col_2>",
        "<row_6_col_3>",
        "<row_6_col_4>",
        "<row_6_col_5>",
        "<row_6_col_6>",
    ],
    ends: &["<end_of_utterance>", "<|endoftext|>"],
    template: "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}{% if message['content'][0]['type'] == 'image' %}{{ ':' }}\
{% else %}{{ ': ' }}{% endif %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}\
{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
};

/// The sizes in which the presets differ.
struct Sizes {
    vision: Vision,
    text: Text,
    scale_factor: usize,
    /// Side of a tile, pixels.
    tile: usize,
    longest_edge: usize,
}

struct Vision {
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    patch: usize,
}

struct Text {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    intermediate: usize,
    vocab: usize,
    context: usize,
    theta: f64,
}

const TINY: Sizes = Sizes {
    vision: Vision { hidden: 48, layers: 2, heads: 4, intermediate: 96, patch: 8 },
    text: Text {
        hidden: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        intermediate: 128,
        vocab: 320,
        context: 4096,
        theta: 10_000.0,
    },
    scale_factor: 2,
    tile: 64,
    longest_edge: 256,
};

const SIGLIP_BASE: Vision = Vision { hidden: 768, layers: 12, heads: 12, intermediate: 3072, patch: 16 };
const SIGLIP_LARGE: Vision = Vision { hidden: 1152, layers: 27, heads: 16, intermediate: 4304, patch: 14 };

const SMOLVLM_256M: Sizes = Sizes {
    vision: SIGLIP_BASE,
    text: Text {
        hidden: 576,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        intermediate: 1536,
        vocab: 49_280,
        context: 8192,
        theta: 100_000.0,
    },
    scale_factor: 4,
    tile: 512,
    longest_edge: 2048,
};

const SMOLVLM_500M: Sizes = Sizes {
    text: Text { hidden: 960, layers: 32, heads: 15, kv_heads: 5, intermediate: 2560, ..SMOLVLM_256M.text },
    ..SMOLVLM_256M
};

const SMOLVLM_2B: Sizes = Sizes {
    vision: SIGLIP_LARGE,
    text: Text {
        hidden: 2048,
        layers: 24,
        heads: 32,
        kv_heads: 32,
        intermediate: 8192,
        vocab: 49_155,
        context: 16_384,
        theta: 273_768.0,
    },
    scale_factor: 3,
    tile: 384,
    longest_edge: 1536,
};

const IDEFICS3_8B: Sizes = Sizes {
    vision: SIGLIP_LARGE,
    text: Text {
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        intermediate: 14_336,
        vocab: 128_259,
        context: 131_072,
        theta: 500_000.0,
    },
    scale_factor: 2,
    tile: 364,
    longest_edge: 1456,
};

impl Sizes {
    /// The `config.json` with weights of type `dtype`.
    fn config(&self, model_type: &str, dtype: &str) -> Value {
        let class = if model_type == "smolvlm" { "SmolVLM" } else { "Idefics3" };
        json!({
            "architectures": [format!("{class}ForConditionalGeneration")],
            "model_type": model_type,
            "dtype": dtype,
            "image_token_id": DIALOGUE.id("<image>"),
            "scale_factor": self.scale_factor,
            "tie_word_embeddings": false,
            "vision_config": self.vision.config(model_type, self.tile),
            "text_config": self.text.config(),
        })
    }

    /// `preprocessor_config.json`.
    fn image_processor(&self, class: &str) -> Value {
        json!({
            "image_processor_type": class,
            "do_convert_rgb": true,
            "do_image_splitting": true,
            "do_resize": true,
            "do_rescale": true,
            "do_normalize": true,
            "do_pad": true,
            "resample": 1,
            "rescale_factor": 1.0 / 255.0,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "max_image_size": { "longest_edge": self.tile },
            "size": { "longest_edge": self.longest_edge },
        })
    }
}

impl Vision {
    fn config(&self, model_type: &str, image_size: usize) -> Value {
        json!({
            "model_type": format!("{model_type}_vision"),
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_channels": 3,
            "image_size": image_size,
            "patch_size": self.patch,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
        })
    }
}

impl Text {
    fn config(&self) -> Value {
        json!({
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_parameters": { "rope_type": "default", "rope_theta": self.theta },
            "attention_bias": false,
            "mlp_bias": false,
            "eos_token_id": DIALOGUE.id("<end_of_utterance>"),
            "pad_token_id": DIALOGUE.id("<|endoftext|>"),
        })
    }
}
