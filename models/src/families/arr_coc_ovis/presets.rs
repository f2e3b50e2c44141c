//! Shapes of the composite that `init` knows by name.

use serde_json::{Value, json};

use crate::families::contract::{Dialogue, Preset};

pub(super) static PRESETS: [Preset; 3] = [
    Preset {
        name: "arr-coc-ovis-tiny",
        about: "A few megabytes, every mechanism: for tests and the demo",
        config: |dtype| config(&TINY, dtype),
        image_processor: || image_processor(TINY.sam.image),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "arr-coc-ovis-base",
        about: "SAM-base at 1024 px, CLIP-L/14 width, Qwen3-0.6B decoder: about 1 B parameters",
        config: |dtype| config(&BASE, dtype),
        image_processor: || image_processor(BASE.sam.image),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "arr-coc-ovis-wide",
        about: "The widths of base with fewer layers and words: for parity tests at real shapes",
        config: |dtype| config(&WIDE, dtype),
        image_processor: || image_processor(WIDE.sam.image),
        dialogue: &DIALOGUE,
    },
];

/// Qwen-VL's dialogue format; an image stands for one `<|image_pad|>`, which the runtime expands.
const DIALOGUE: Dialogue = Dialogue {
    control: &[
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
    ],
    ends: &["<|im_end|>", "<|endoftext|>"],
    template: r#"{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == 'image' or part.type == 'image_url' or 'image' in part or 'image_url' in part %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif 'text' in part %}
{{- part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
"#,
};

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

/// Every mechanism at the smallest widths that keep it: two of four SAM layers windowed, two query heads per
/// KV head.
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

/// `facebook/sam-vit-base`, `openai/clip-vit-large-patch14` and `Qwen/Qwen3-0.6B`, by their own
/// configurations.
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

/// The `config.json` of these sizes with weights of type `dtype`.
fn config(sizes: &Sizes, dtype: &str) -> Value {
    let (allocator_hidden, allocator_heads) = sizes.allocator;
    json!({
        "architectures": ["ArrCocOvisForConditionalGeneration"],
        "model_type": "arr_coc_ovis",
        "dtype": dtype,
        "image_token_id": DIALOGUE.id("<|image_pad|>"),
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

/// `preprocessor_config.json` of transformers' `SamImageProcessor`.
fn image_processor(image_size: usize) -> Value {
    json!({
        "image_processor_type": "SamImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "do_rescale": true,
        "do_normalize": true,
        "do_pad": true,
        "resample": 2,
        "rescale_factor": 1.0 / 255.0,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "size": { "longest_edge": image_size },
        "pad_size": { "height": image_size, "width": image_size },
    })
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
            "eos_token_id": DIALOGUE.id("<|im_end|>"),
            "pad_token_id": DIALOGUE.id("<|endoftext|>"),
        })
    }
}
