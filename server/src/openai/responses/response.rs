//! The object `response`.

use arrcoc_runtime::generate::{self, FinishReason, Receipt};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::item::Item;
use crate::openai::explanation::Explanation;

/// What a response repeats of its request.
#[derive(Debug, Clone)]
pub struct Echo {
    pub(super) instructions: Option<String>,
    pub(super) previous_response_id: Option<String>,
    pub(super) max_output_tokens: Option<usize>,
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) top_logprobs: Option<usize>,
    pub(super) parallel_tool_calls: bool,
    pub(super) tools: Vec<Value>,
    pub(super) tool_choice: Value,
    pub(super) text: Value,
    pub(super) effort: Option<String>,
    pub(super) metadata: Map<String, Value>,
}

/// A response, finished or not.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Response {
    pub(super) id: String,
    object: ResponseObject,
    /// Seconds since 1970
    created_at: u64,
    /// When it was finished
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) completed_at: Option<u64>,
    pub(super) status: ResponseStatus,
    /// Always false
    background: bool,
    pub(super) error: Option<ResponseError>,
    pub(super) incomplete_details: Option<IncompleteDetails>,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    model: String,
    pub(super) output: Vec<Item>,
    parallel_tool_calls: bool,
    previous_response_id: Option<String>,
    reasoning: Reasoning,
    temperature: Option<f32>,
    text: Value,
    tool_choice: Value,
    tools: Vec<Value>,
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<usize>,
    truncation: Truncation,
    pub(super) usage: Option<Usage>,
    user: (),
    metadata: Map<String, Value>,
    /// Where the visual tokens went, where the request asked
    #[serde(skip_serializing_if = "Option::is_none")]
    arrcoc: Option<Explanation>,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum ResponseObject {
    Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum ResponseStatus {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct ResponseError {
    pub(super) code: &'static str,
    pub(super) message: String,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct IncompleteDetails {
    reason: &'static str,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct Reasoning {
    effort: Option<String>,
    /// Always null
    summary: (),
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Truncation {
    Disabled,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "ResponseUsage")]
pub(super) struct Usage {
    input_tokens: usize,
    input_tokens_details: InputTokens,
    output_tokens: usize,
    output_tokens_details: OutputTokens,
    total_tokens: usize,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(inline)]
struct InputTokens {
    /// There is no cache of prompts: always 0
    cached_tokens: usize,
    cache_write_tokens: usize,
    /// Tokens that images got
    image_tokens: usize,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(inline)]
struct OutputTokens {
    reasoning_tokens: usize,
}

impl From<generate::Usage> for Usage {
    fn from(usage: generate::Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokens {
                cached_tokens: 0,
                cache_write_tokens: 0,
                image_tokens: usage.visual_tokens,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokens { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
        }
    }
}

impl Response {
    /// One that has begun.
    pub(super) fn begun(echo: Echo, model: &str, created_at: u64, receipts: Option<&[Receipt]>) -> Self {
        Self {
            id: super::item::new_id("resp"),
            object: ResponseObject::Response,
            created_at,
            completed_at: None,
            status: ResponseStatus::InProgress,
            background: false,
            error: None,
            incomplete_details: None,
            instructions: echo.instructions,
            max_output_tokens: echo.max_output_tokens,
            model: model.to_owned(),
            output: Vec::new(),
            parallel_tool_calls: echo.parallel_tool_calls,
            previous_response_id: echo.previous_response_id,
            reasoning: Reasoning { effort: echo.effort, summary: () },
            temperature: echo.temperature,
            text: echo.text,
            tool_choice: echo.tool_choice,
            tools: echo.tools,
            top_p: echo.top_p,
            top_logprobs: echo.top_logprobs,
            truncation: Truncation::Disabled,
            usage: None,
            user: (),
            metadata: echo.metadata,
            arrcoc: receipts.map(Explanation::from),
        }
    }

    /// Ends it.
    pub(super) fn finish(&mut self, reason: FinishReason, usage: generate::Usage, now: u64) {
        self.usage = Some(usage.into());
        self.completed_at = Some(now);
        self.status = match reason {
            FinishReason::Stop => ResponseStatus::Completed,
            FinishReason::Length => {
                self.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens" });
                ResponseStatus::Incomplete
            }
        };
    }

    /// Its identity.
    pub fn id(&self) -> &str {
        &self.id
    }
}
