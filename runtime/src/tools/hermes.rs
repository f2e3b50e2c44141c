//! JSON between `<tool_call>` tags: Hermes 2 Pro, Qwen2.5, Qwen3, Qwen3-VL, SmolLM3, Granite 4.
//!
//! <https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct/blob/main/chat_template.json>

use super::{Arguments, Body, Syntax, Written};
use arrcoc_bundle::ToolSyntax;

pub(super) const SYNTAX: Syntax = Syntax {
    name: ToolSyntax::Hermes,
    opening: &["<tool_call>"],
    closing: &["</tool_call>"],
    bare: false,
    body: Body::Json,
    bound: Written {
        around: ["", ""],
        between: "\n",
        call: ["<tool_call>\n{\"name\": ", ", \"arguments\": ", "}\n</tool_call>"],
        arguments: Arguments::Json,
        bare: false,
    },
    signs: &["<tool_call>", "\"name\"", "\"arguments\""],
};
