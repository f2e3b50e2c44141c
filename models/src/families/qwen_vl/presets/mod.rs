//! Shapes that `init` knows by name, and how their prompts look.

use crate::families::contract::{Dialogue, Preset};

mod qwen2_5_vl;
mod qwen3_5;
mod qwen3_vl;

/// All of them.
pub(super) static PRESETS: [Preset; 10] = {
    let [a, b, c, d] = qwen2_5_vl::PRESETS;
    let [e, f, g, h] = qwen3_vl::PRESETS;
    let [i, j] = qwen3_5::PRESETS;
    [a, b, c, d, e, f, g, h, i, j]
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
