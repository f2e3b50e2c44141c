//! The events of a stream.

use schemars::JsonSchema;
use serde::Serialize;

use super::item::{Item, Part};
use super::response::Response;
use crate::openai::ChosenToken;

/// An event and its number.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseEvent")]
pub struct Event<'r> {
    #[serde(flatten)]
    pub(super) kind: Kind<'r>,
    /// Counts events, from 0
    pub(super) sequence_number: u64,
}

/// What happened.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type")]
#[schemars(inline)]
pub(super) enum Kind<'r> {
    #[serde(rename = "response.created")]
    Created { response: &'r Response },
    #[serde(rename = "response.in_progress")]
    InProgress { response: &'r Response },
    #[serde(rename = "response.output_item.added")]
    ItemAdded { output_index: usize, item: Item },
    #[serde(rename = "response.content_part.added")]
    PartAdded { item_id: String, output_index: usize, content_index: usize, part: Part },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        item_id: String,
        output_index: usize,
        content_index: usize,
        delta: String,
        logprobs: Vec<ChosenToken>,
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        item_id: String,
        output_index: usize,
        content_index: usize,
        text: String,
        logprobs: Vec<ChosenToken>,
    },
    #[serde(rename = "response.reasoning_text.delta")]
    ThoughtDelta { item_id: String, output_index: usize, content_index: usize, delta: String },
    #[serde(rename = "response.reasoning_text.done")]
    ThoughtDone { item_id: String, output_index: usize, content_index: usize, text: String },
    #[serde(rename = "response.content_part.done")]
    PartDone { item_id: String, output_index: usize, content_index: usize, part: Part },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { item_id: String, output_index: usize, delta: String },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone { item_id: String, output_index: usize, arguments: String },
    #[serde(rename = "response.output_item.done")]
    ItemDone { output_index: usize, item: Item },
    #[serde(rename = "response.completed")]
    Completed { response: &'r Response },
    #[serde(rename = "response.incomplete")]
    Incomplete { response: &'r Response },
    #[serde(rename = "response.failed")]
    Failed { response: &'r Response },
}

impl Kind<'_> {
    /// Its name in the stream.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::ThoughtDelta { .. } => "response.reasoning_text.delta",
            Self::ThoughtDone { .. } => "response.reasoning_text.done",
            Self::PartDone { .. } => "response.content_part.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
        }
    }
}
