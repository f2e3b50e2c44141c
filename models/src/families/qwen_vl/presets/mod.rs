//! Shapes that `init` knows by name, and how their prompts look.

use serde_json::{Value, json};

use crate::families::contract::{Dialogue, Preset};

mod qwen2_5_vl;
mod qwen3_5;
mod qwen3_vl;

/// All of them.
pub(super) static PRESETS: [Preset; 13] = {
    let [a, b, c, d] = qwen2_5_vl::PRESETS;
    let [e, f, g, h] = qwen3_vl::PRESETS;
    let [i, j, k, l, m] = qwen3_5::PRESETS;
    [a, b, c, d, e, f, g, h, i, j, k, l, m]
};

/// The dialogue format of Qwen's models with vision.
static DIALOGUE: Dialogue = Dialogue {
    control: &[
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ],
    ends: &["<|im_end|>", "<|endoftext|>"],
    template: "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}\
{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}\
<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
};

/// What the towers of all presets state.
struct Tower {
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    patch: usize,
}

impl Tower {
    /// `vision_config`: what all towers state, and what this one has of its `own`.
    fn config(&self, model_type: &str, activation: &str, out: usize, own: Value) -> Value {
        let shared = json!({
            "model_type": model_type,
            "depth": self.layers,
            "hidden_size": self.hidden,
            "hidden_act": activation,
            "intermediate_size": self.intermediate,
            "num_heads": self.heads,
            "in_channels": 3,
            "patch_size": self.patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": out,
        });
        with(shared, own)
    }

    /// `preprocessor_config.json`, with statistics of pixels, and the limits in the spelling of the class.
    fn image_processor(&self, class: &str, [mean, std]: [[f64; 3]; 2], limits: Value) -> Value {
        let shared = json!({
            "image_processor_type": class,
            "do_convert_rgb": true,
            "do_resize": true,
            "do_rescale": true,
            "do_normalize": true,
            "resample": 3,
            "rescale_factor": 1.0 / 255.0,
            "image_mean": mean,
            "image_std": std,
            "patch_size": self.patch,
            "temporal_patch_size": 2,
            "merge_size": 2,
        });
        with(shared, limits)
    }
}

/// What the decoders of all presets state.
struct Text {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    intermediate: usize,
    vocab: usize,
    context: usize,
}

impl Text {
    /// The decoder's keys, and what this one has of its `own`.
    fn config(&self, own: Value) -> Value {
        let shared = json!({
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-6,
            "eos_token_id": DIALOGUE.id("<|im_end|>"),
            "pad_token_id": DIALOGUE.id("<|endoftext|>"),
        });
        with(shared, own)
    }
}

/// The top level of a `config.json` with weights of type `dtype`, and what it has besides.
fn top_level(class: &str, model_type: &str, dtype: &str, tied: bool, rest: Value) -> Value {
    let shared = json!({
        "architectures": [class],
        "model_type": model_type,
        "dtype": dtype,
        "image_token_id": DIALOGUE.id("<|image_pad|>"),
        "video_token_id": DIALOGUE.id("<|video_pad|>"),
        "vision_start_token_id": DIALOGUE.id("<|vision_start|>"),
        "vision_end_token_id": DIALOGUE.id("<|vision_end|>"),
        "tie_word_embeddings": tied,
    });
    with(shared, rest)
}

/// The keys of both objects.
fn with(mut shared: Value, own: Value) -> Value {
    if let (Value::Object(all), Value::Object(own)) = (&mut shared, own) {
        all.extend(own);
    }
    shared
}

/// Limits of pictures as newer files state them, pixels.
fn size([least, most]: [u64; 2]) -> Value {
    json!({ "size": { "shortest_edge": least, "longest_edge": most } })
}

/// Pixels in -1..1.
const CENTRED: [[f64; 3]; 2] = [[0.5; 3]; 2];
