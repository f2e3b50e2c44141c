//! The items of a response's output.

use schemars::JsonSchema;
use serde::Serialize;

use crate::openai::ChosenToken;

/// An item.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "ResponseItem")]
pub(super) enum Item {
    /// What the model said.
    Message { id: String, status: Status, role: Role, content: Vec<Part> },
    /// What it calls.
    FunctionCall {
        id: String,
        call_id: String,
        name: String,
        /// JSON, as the model wrote it
        arguments: String,
        status: Status,
    },
    /// What it thought before.
    Reasoning {
        id: String,
        /// Always empty
        summary: [(); 0],
        content: Vec<Part>,
        status: Status,
    },
}

/// A part of a message, or of thoughts.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "ResponsePart")]
pub(super) enum Part {
    OutputText {
        text: String,
        /// Always empty
        annotations: [(); 0],
        logprobs: Vec<ChosenToken>,
    },
    ReasoningText {
        text: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Status {
    InProgress,
    Completed,
    /// Broken off by a limit
    Incomplete,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum Role {
    Assistant,
}

/// An identity of a kind: `msg_`, `fc_`, `rs_`, `resp_`.
pub(super) fn new_id(kind: &str) -> String {
    format!("{kind}_{}", uuid::Uuid::new_v4().simple())
}
