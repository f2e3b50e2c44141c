//! Configurations that `init` knows by name.

use serde_json::{Value, json};

/// A named configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// A few megabytes, every mechanism: for tests and the demo.
    ArrCocOvisTiny,
    /// SAM-base at 1024 px, CLIP-L/14 width, Qwen3-0.6B decoder: about 1 B parameters.
    ArrCocOvisBase,
    /// The widths of base with fewer layers and words: for parity tests at real shapes.
    ArrCocOvisWide,
}

/// The sizes in which the presets differ.
struct Sizes {
    sam: Sam,
    allocator: (usize, usize),
    compressor_hidden: usize,
    clip: Clip,
    adapter_hidden: usize,
    qwen: Qwen,
}

struct Sam {
    hidden: usize,
    layers: usize,
    heads: usize,
    mlp: usize,
    image: usize,
    window: usize,
    global: &'static [usize],
    output: usize,
}

struct Clip {
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
}

struct Qwen {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocab: usize,
    context: usize,
}

/// Every mechanism at the smallest widths that keep it: two of four SAM layers windowed, two query heads per KV head.
const TINY: Sizes = Sizes {
    sam: Sam {
        hidden: 64,
        layers: 4,
        heads: 2,
        mlp: 256,
        image: 512,
        window: 7,
        global: &[1, 3],
        output: 64,
    },
    allocator: (32, 2),
    compressor_hidden: 64,
    clip: Clip { hidden: 64, layers: 2, heads: 4, intermediate: 256 },
    adapter_hidden: 96,
    qwen: Qwen {
        hidden: 96,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        intermediate: 256,
        vocab: 320,
        context: 4096,
    },
};

/// `facebook/sam-vit-base`, `openai/clip-vit-large-patch14` and `Qwen/Qwen3-0.6B`, by their own configurations.
const BASE: Sizes = Sizes {
    sam: Sam {
        hidden: 768,
        layers: 12,
        heads: 12,
        mlp: 3072,
        image: 1024,
        window: 14,
        global: &[2, 5, 8, 11],
        output: 256,
    },
    allocator: (256, 4),
    compressor_hidden: 512,
    clip: Clip { hidden: 1024, layers: 24, heads: 16, intermediate: 4096 },
    adapter_hidden: 1024,
    qwen: Qwen {
        hidden: 1024,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        intermediate: 3072,
        vocab: 151_936,
        context: 40_960,
    },
};

const WIDE: Sizes = Sizes {
    sam: Sam { layers: 3, global: &[1], ..BASE.sam },
    clip: Clip { layers: 2, ..BASE.clip },
    qwen: Qwen { layers: 2, vocab: 4096, ..BASE.qwen },
    ..BASE
};

impl Preset {
    /// The `config.json` of this preset with weights of type `dtype` (`float32`, `bfloat16`, `float16`).
    pub fn config(self, dtype: &str) -> Value {
        let sizes = match self {
            Self::ArrCocOvisTiny => TINY,
            Self::ArrCocOvisBase => BASE,
            Self::ArrCocOvisWide => WIDE,
        };
        let (allocator_hidden, allocator_heads) = sizes.allocator;
        json!({
            "architectures": ["ArrCocOvisForConditionalGeneration"],
            "model_type": "arr_coc_ovis",
            "dtype": dtype,
            "image_token_id": super::tokenizer::IMAGE_PAD,
            "token_budgets": [64, 100, 160, 256, 400],
            "image_sizes": [512, 640, 800, 1024, 1280],
            "vision_config": sizes.sam.config(),
            "allocator_config": { "hidden_size": allocator_hidden, "num_attention_heads": allocator_heads },
            "compressor_config": { "hidden_size": sizes.compressor_hidden, "gist_grid": 4 },
            "clip_config": sizes.clip.config(),
            "adapter_config": {
                "hidden_size": sizes.adapter_hidden,
                "target_mean": 0.0,
                "target_std": 0.02,
                "target_sparsity": 0.0,
            },
            "text_config": sizes.qwen.config(),
        })
    }

    /// The side of the square image that the vision encoder is made for, pixels.
    pub fn image_size(self) -> usize {
        match self {
            Self::ArrCocOvisTiny => TINY.sam.image,
            Self::ArrCocOvisBase => BASE.sam.image,
            Self::ArrCocOvisWide => WIDE.sam.image,
        }
    }
}

impl Sam {
    /// Keys of transformers' `SamVisionConfig`.
    fn config(&self) -> Value {
        json!({
            "model_type": "sam_vision_model",
            "hidden_size": self.hidden,
            "output_channels": self.output,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_channels": 3,
            "image_size": self.image,
            "patch_size": 16,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
            "qkv_bias": true,
            "use_abs_pos": true,
            "use_rel_pos": true,
            "window_size": self.window,
            "global_attn_indexes": self.global,
            "mlp_dim": self.mlp,
        })
    }
}

impl Clip {
    /// Keys of transformers' `CLIPVisionConfig`.
    fn config(&self) -> Value {
        json!({
            "model_type": "clip_vision_model",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_channels": 3,
            "image_size": 224,
            "patch_size": 14,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "attention_dropout": 0.0,
        })
    }
}

impl Qwen {
    /// Keys of transformers' `Qwen3Config`.
    fn config(&self) -> Value {
        json!({
            "model_type": "qwen3",
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
            "rope_theta": 1_000_000.0,
            "rope_scaling": null,
            "attention_bias": false,
            "attention_dropout": 0.0,
            "tie_word_embeddings": true,
            "use_sliding_window": false,
            "sliding_window": null,
            "bos_token_id": null,
            "eos_token_id": super::tokenizer::IM_END,
            "pad_token_id": super::tokenizer::END_OF_TEXT,
        })
    }
}
