//! A list behind `<|tool_call|>`: Granite 3.
//!
//! <https://huggingface.co/ibm-granite/granite-3.1-8b-instruct/blob/main/tokenizer_config.json>

use super::{Body, PLAIN_LIST, Syntax};
use arrcoc_bundle::ToolSyntax;

pub(super) const SYNTAX: Syntax = Syntax {
    name: ToolSyntax::Granite,
    opening: &["<|tool_call|>"],
    closing: &[],
    bare: false,
    body: Body::Json,
    bound: PLAIN_LIST,
    signs: &["<|tool_call|>"],
};
