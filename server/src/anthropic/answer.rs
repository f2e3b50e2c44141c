//! The object `message`.

use arrcoc_runtime::generate::{self, FinishReason, Receipt};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::openai::explanation::Explanation;

/// An answer, finished or not.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "AnthropicMessage")]
pub struct Message {
    id: String,
    r#type: MessageType,
    role: Role,
    model: String,
    pub(super) content: Vec<Block>,
    pub(super) stop_reason: Option<StopReason>,
    /// Always null: which of the strings ended an answer is not said
    stop_sequence: (),
    pub(super) usage: Usage,
    /// Where the visual tokens went, where the request asked
    #[serde(skip_serializing_if = "Option::is_none")]
    arrcoc: Option<Explanation>,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum MessageType {
    Message,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Role {
    Assistant,
}

/// A block of an answer.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "AnthropicBlock")]
pub(super) enum Block {
    Text {
        text: String,
    },
    /// What the model thought before
    Thinking {
        thinking: String,
        /// Always empty
        signature: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum StopReason {
    EndTurn,
    MaxTokens,
    ToolUse,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "AnthropicUsage")]
pub(super) struct Usage {
    input_tokens: usize,
    pub(super) output_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
}

impl Usage {
    pub(super) fn of_prompt(tokens: usize) -> Self {
        Self {
            input_tokens: tokens,
            output_tokens: 0,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: 0,
        }
    }
}

impl Message {
    /// One that has begun.
    pub(super) fn begun(model: &str, prompt_tokens: usize, receipts: Option<&[Receipt]>) -> Self {
        Self {
            id: format!("msg_{}", uuid::Uuid::new_v4().simple()),
            r#type: MessageType::Message,
            role: Role::Assistant,
            model: model.to_owned(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: (),
            usage: Usage::of_prompt(prompt_tokens),
            arrcoc: receipts.map(Explanation::from),
        }
    }

    /// Ends it.
    pub(super) fn finish(&mut self, reason: FinishReason, usage: generate::Usage) {
        let called = self.content.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        self.stop_reason = Some(match reason {
            FinishReason::Length => StopReason::MaxTokens,
            FinishReason::Stop if called => StopReason::ToolUse,
            FinishReason::Stop => StopReason::EndTurn,
        });
        self.usage =
            Usage { output_tokens: usage.completion_tokens, ..Usage::of_prompt(usage.prompt_tokens) };
    }
}
