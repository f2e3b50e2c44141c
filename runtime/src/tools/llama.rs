//! JSON as the whole answer: Llama 3.1 to 3.3, Llama 3.2 Vision.
//!
//! <https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/#json-based-tool-calling>

use super::{Arguments, Body, Syntax, Written};
use arrcoc_bundle::ToolSyntax;

pub(super) const SYNTAX: Syntax = Syntax {
    name: ToolSyntax::Llama,
    opening: &["<|python_tag|>"],
    closing: &[";"],
    bare: true,
    body: Body::Json,
    bound: Written {
        around: ["", ""],
        between: "; ",
        call: ["{\"name\": ", ", \"parameters\": ", "}"],
        arguments: Arguments::Json,
        bare: true,
    },
    signs: &["\"name\": \"kevuda\"", "\"parameters\": {\"mirosi\""],
};
