//! Chat completions: the request in its checked form, and the answer's objects.

use std::borrow::Cow;

use arrcoc_runtime::generate::{Budget, MaxTokens, Selection, Sizing};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value};

use super::extension::Extension;
use super::fields::{
    self, Form as _, REFUSED, REFUSED_IN_CHATS, count, count_within, fields, flag, nested, raw,
};
use super::form::{Bound, Forms};
use super::sampling::{SamplingFields, Shared, max_tokens};
use crate::config::Limits;
use crate::error::ApiError;
use crate::json::{Body, Field, Object};

mod answer;
mod message;
mod sizing;
mod thinking;

pub use answer::{ChatCompletion, Chunk, Chunks, Finished};
pub use message::{Message, Piece};
use thinking::Thinking;

/// Most alternatives per token, as with OpenAI.
pub const MAX_TOP_LOGPROBS: usize = 20;

fields! {
    /// The fields that only chats have.
    struct Own<'a> {
        messages: Field<'a> = raw(message::list_schema).required(), "";
        max_completion_tokens: Option<usize> = count_within(1, |limits| limits.max_tokens.0),
            "Outranks max_tokens";
        logprobs: bool = flag(), "";
        top_logprobs: Option<usize> = count(0, MAX_TOP_LOGPROBS),
            "Alternatives per token; only with `logprobs`";
        mm_processor_kwargs: Sizing = nested::<sizing::Arguments, _>(sizing::Arguments::of), sizing::HELP;
        arrcoc: Extension = nested::<Extension, _>(Extension::of), "";
    }
}

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
    /// How they are chosen.
    pub selection: Selection,
    /// How large the model sees the images.
    pub sizing: Sizing,
    /// Return receipts.
    pub explain: bool,
    /// What the answers must look like.
    pub bound: Option<Bound>,
    /// Variables of the model's template.
    pub variables: Map<String, Value>,
    /// Return what the model thought before it answered.
    pub include_reasoning: bool,
}

impl JsonSchema for Chat {
    fn schema_name() -> Cow<'static, str> {
        "ChatRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Shared::describe, Own::describe, Forms::describe, Thinking::describe])
    }
}

impl Body for Chat {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        let taken = [Shared::NAMES, Own::NAMES, Forms::NAMES, Thinking::NAMES];
        fields::check(body, &taken, &[REFUSED, REFUSED_IN_CHATS])?;
        let (shared, own) = (Shared::read(body, limits)?, Own::read(body, limits)?);
        let thinking = Thinking::read(body, limits)?;
        let (stream, include_usage) = shared.stream()?;
        // The newer name wins, as with OpenAI.
        let (length_field, length) = match own.max_completion_tokens {
            Some(length) => ("max_completion_tokens", Some(length)),
            None => ("max_tokens", shared.max_tokens),
        };
        Ok(Self {
            stream,
            include_usage,
            max_tokens: max_tokens(length, limits.max_tokens.0, limits),
            length_field,
            choices: shared.n,
            sampling: SamplingFields::of(&shared),
            top_logprobs: top_logprobs(&own)?,
            budget: own.arrcoc.budget,
            selection: own.arrcoc.selection(),
            sizing: Sizing { skip_blank: own.arrcoc.skip_blank, ..own.mm_processor_kwargs },
            explain: own.arrcoc.explain,
            bound: Forms::read(body, limits)?.bound()?,
            variables: thinking.variables()?,
            include_reasoning: thinking.include_reasoning,
            messages: message::Reader::new(limits).messages(&own.messages)?,
            model: shared.model,
            stop: shared.stop,
        })
    }
}

impl Chat {
    /// Visual tokens per image of a model with these budgets. `detail: low` on every image is the smallest of
    /// them, unless the request names one; `default` is what images get whose request says nothing.
    pub fn budget(&self, budgets: &[usize], default: Budget) -> Budget {
        let images = || self.messages.iter().flat_map(|message| &message.content);
        let coarse = |piece: &Piece| !matches!(piece, Piece::Image { coarse: false, .. });
        match (self.budget, budgets.first()) {
            (Some(budget), _) => budget,
            (None, Some(&least)) if images().any(is_image) && images().all(coarse) => Budget::Tokens(least),
            (None, _) => self.selection.budget(default),
        }
    }
}

impl Chat {
    /// How large the model sees an image. A coarse look is the budget's to give, where the request has one.
    pub fn sizing_of(&self, coarse: bool) -> Sizing {
        Sizing { coarse: coarse && self.budget.is_none(), ..self.sizing }
    }
}

fn is_image(piece: &Piece) -> bool {
    matches!(piece, Piece::Image { .. })
}

fn top_logprobs(own: &Own<'_>) -> Result<Option<usize>, ApiError> {
    match (own.logprobs, own.top_logprobs) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message = "`top_logprobs` is only allowed together with `logprobs: true`";
            Err(ApiError::invalid("top_logprobs", message))
        }
    }
}
