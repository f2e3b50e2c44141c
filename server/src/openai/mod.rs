//! OpenAI's wire format: what requests may say, and what answers look like.

use std::time::{SystemTime, UNIX_EPOCH};

use arrcoc_runtime::generate::{self, Logprob};
use arrcoc_runtime::model::ModelInfo;
use schemars::JsonSchema;
use serde::Serialize;

pub mod chat;
pub mod completion;
pub mod explanation;
mod extension;
pub(crate) use extension::{Extension, budget_schema};
pub use logprobs::ChosenToken;
pub(crate) use names::{ELSEWHERE, SAMPLING_ELSEWHERE};
pub(crate) use sampling::{stops, stops_schema};
pub(crate) use tools::{different, name as tool_name, offered, tools, tools_schema};
pub mod form;
mod logprobs;
mod names;
pub mod responses;
pub mod sampling;
mod tools;

/// Seconds since 1970.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// What every chunk of an answer repeats.
#[derive(Debug, Clone)]
pub struct Head {
    /// `chatcmpl-...` or `cmpl-...`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Name of the model in the API.
    pub model: String,
    /// Names weights and precision: answers with the same seed are comparable only where this is equal.
    pub fingerprint: String,
}

impl Head {
    /// A new identity for an answer.
    pub fn new(prefix: &str, model: &str, info: &ModelInfo) -> Self {
        let digest: String = info.checkpoint_sha256.chars().take(12).collect();
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: unix_seconds(SystemTime::now()),
            model: model.to_owned(),
            fingerprint: format!("{digest}-{}-{}", info.precision, info.target.name()),
        }
    }
}

/// `{"object": "list", "data": [...]}`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct List<T> {
    object: ListObject,
    data: Vec<T>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum ListObject {
    List,
}

impl<T> From<Vec<T>> for List<T> {
    fn from(data: Vec<T>) -> Self {
        Self { object: ListObject::List, data }
    }
}

/// Who speaks in an answer.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Speaker {
    Assistant,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End token or stop string.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The model calls tools, and has ended.
    ToolCalls,
    /// The same, where the request had `functions`.
    FunctionCall,
}

impl From<generate::FinishReason> for FinishReason {
    fn from(reason: generate::FinishReason) -> Self {
        match reason {
            generate::FinishReason::Stop => Self::Stop,
            generate::FinishReason::Length => Self::Length,
        }
    }
}

/// Token counts.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokens,
    completion_tokens_details: CompletionTokens,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(inline)]
struct CompletionTokens {
    /// Tokens that the model thought before it answered
    reasoning_tokens: usize,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(inline)]
struct PromptTokens {
    /// There is no cache of prompts: always 0
    cached_tokens: usize,
    /// `visual_tokens` under other servers' name
    image_tokens: usize,
    /// Tokens that images got
    visual_tokens: usize,
}

impl From<generate::Usage> for Usage {
    fn from(usage: generate::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptTokens {
                cached_tokens: 0,
                image_tokens: usage.visual_tokens,
                visual_tokens: usage.visual_tokens,
            },
            completion_tokens_details: CompletionTokens { reasoning_tokens: usage.reasoning_tokens },
        }
    }
}

/// A token as text: OpenAI writes `bytes:\xe2\x82` for one that is part of a character.
fn token_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{escaped}")
        }
    }
}

/// The logarithm of a probability. JSON has no infinity; OpenAI writes -9999 for "never".
fn finite(logprob: &Logprob) -> f64 {
    if logprob.logprob.is_finite() { logprob.logprob.into() } else { -9999.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_part_of_a_character_is_written_as_bytes() {
        assert_eq!(token_text("é".as_bytes()), "é");
        assert_eq!(token_text(&[0xe2, 0x82]), "bytes:\\xe2\\x82");
        assert_eq!(finite(&Logprob { id: 0, bytes: vec![], logprob: f32::NEG_INFINITY }), -9999.0);
    }
}
