//! Names and JSON between control tokens: DeepSeek V3, R1 (which fence the JSON), V3.1.
//!
//! <https://huggingface.co/deepseek-ai/DeepSeek-V3.1#toolcall>

use super::{Body, PLAIN_LIST, Syntax};
use arrcoc_bundle::ToolSyntax;

pub(super) const SYNTAX: Syntax = Syntax {
    name: ToolSyntax::DeepSeek,
    opening: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
    closing: &["```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
    bare: false,
    body: Body::Named,
    bound: PLAIN_LIST,
    signs: &["<｜tool▁call▁begin｜>"],
};
