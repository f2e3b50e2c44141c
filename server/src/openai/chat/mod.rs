//! Chat completions: the request in its checked form, and the answer's objects.

use arrcoc_runtime::generate::{Budget, MaxTokens};

use super::extension::Extension;
use super::names::{self, REFUSED, REFUSED_IN_CHATS};
use super::sampling::{self, SHARED, SamplingFields, choices, count, max_tokens, stops};
use crate::config::Limits;
use crate::error::ApiError;
use crate::json::{Body, Object};

mod answer;
mod message;

pub use answer::{Choice, Chunks, completion};
pub use message::{Message, Piece};

/// Most alternatives per token, as with OpenAI.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Fields that only chats have.
const OWN: [&str; 4] = ["messages", "max_completion_tokens", "top_logprobs", "arrcoc"];

/// The body of `POST /v1/chat/completions`, its form checked; its images are not loaded yet.
#[derive(Debug, Clone)]
pub struct Chat {
    /// Name of the model.
    pub model: Option<String>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// Answer in pieces.
    pub stream: bool,
    /// End the stream with token counts.
    pub include_usage: bool,
    /// Most tokens per answer.
    pub max_tokens: MaxTokens,
    /// The field that said so.
    pub length_field: &'static str,
    /// Answers.
    pub choices: usize,
    /// How to pick tokens.
    pub sampling: SamplingFields,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Alternatives per token, when log-probabilities are asked for.
    pub top_logprobs: Option<usize>,
    /// Visual tokens per image, where the request says so.
    pub budget: Option<Budget>,
    /// Return receipts.
    pub explain: bool,
}

impl Body for Chat {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        let taken: Vec<&str> = SHARED.into_iter().chain(OWN).collect();
        names::check(body, &taken, &[REFUSED, REFUSED_IN_CHATS])?;
        let (stream, include_usage) = sampling::stream(body)?;
        // The newer name wins, as with OpenAI.
        let length_field = match body.field("max_completion_tokens").is_set() {
            true => "max_completion_tokens",
            false => "max_tokens",
        };
        let Extension { budget, explain } = Extension::read(body)?;
        Ok(Self {
            model: sampling::model(body)?,
            stream,
            include_usage,
            max_tokens: max_tokens(&body.field(length_field), limits.max_tokens.0, limits)?,
            length_field,
            choices: choices(body, limits)?,
            sampling: SamplingFields::read(body, limits.max_tokens.0)?,
            stop: stops(body)?,
            top_logprobs: top_logprobs(body)?,
            budget,
            explain,
            messages: message::Reader::new(limits).messages(&body.field("messages"))?,
        })
    }
}

impl Chat {
    /// Visual tokens per image of a model with these budgets. `detail: low` on every image is the smallest of them,
    /// unless the request names one.
    pub fn budget(&self, budgets: &[usize]) -> Budget {
        let images = || self.messages.iter().flat_map(|message| &message.content);
        let coarse = |piece: &Piece| !matches!(piece, Piece::Image { coarse: false, .. });
        match (self.budget, budgets.first()) {
            (Some(budget), _) => budget,
            (None, Some(&least)) if images().any(is_image) && images().all(coarse) => Budget::Tokens(least),
            (None, _) => Budget::Auto,
        }
    }
}

fn is_image(piece: &Piece) -> bool {
    matches!(piece, Piece::Image { .. })
}

fn top_logprobs(body: &Object<'_>) -> Result<Option<usize>, ApiError> {
    let field = body.field("top_logprobs");
    let top = count(&field, 0, MAX_TOP_LOGPROBS)?;
    match (body.field("logprobs").flag()?.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message = "`top_logprobs` is only allowed together with `logprobs: true`";
            Err(ApiError::invalid("top_logprobs", message))
        }
    }
}
