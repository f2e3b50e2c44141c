//! Functions and parameters as elements: Qwen3-Coder, Qwen3.5.
//!
//! <https://huggingface.co/Qwen/Qwen3-Coder-30B-A3B-Instruct/blob/main/qwen3coder_tool_parser.py>

use super::{Arguments, Body, Syntax, Written};
use arrcoc_bundle::ToolSyntax;

pub(super) const SYNTAX: Syntax = Syntax {
    name: ToolSyntax::QwenXml,
    // Models of this kind forget the outer tag now and then.
    opening: &["<tool_call>", "<function="],
    closing: &["</tool_call>"],
    bare: false,
    body: Body::Xml,
    bound: Written {
        around: ["", ""],
        between: "\n",
        call: ["<tool_call>\n<function=", ">\n", "</function>\n</tool_call>"],
        arguments: Arguments::Xml,
        bare: false,
    },
    signs: &["<function=kevuda>"],
};
