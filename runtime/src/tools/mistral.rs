//! A list behind `[TOOL_CALLS]`, or, since version 11 of its tokenizers, names before `[ARGS]`: Mistral,
//! Pixtral, Ministral, Magistral.
//!
//! <https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-tool_calling>

use super::{Body, PLAIN_LIST, Syntax};
use arrcoc_bundle::ToolSyntax;

pub(super) const SYNTAX: Syntax = Syntax {
    name: ToolSyntax::Mistral,
    opening: &["[TOOL_CALLS]"],
    closing: &[],
    bare: false,
    body: Body::Named,
    bound: PLAIN_LIST,
    signs: &["[TOOL_CALLS]"],
};
