//! Chat completions: the request in its checked form, and the answer's objects.

use std::borrow::Cow;

use arrcoc_runtime::generate::{FORM, Sizing};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::extension::Extension;
use super::form::Forms;
use super::names::{REFUSED, REFUSED_IN_CHATS, WITHOUT_EFFECT};
use super::sampling::{Shared, max_tokens, sampling};
use super::tools::ToolFields;
use crate::chat::{Chat, Names};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{self, Form as _, count, count_within, fields, flag, nested, raw};
use crate::json::{Body, Field, Object};

mod answer;
mod message;
mod sizing;
mod thinking;

pub use answer::{ChatCompletion, Chunk, Chunks};
use thinking::Thinking;
pub(super) use thinking::effort_of;

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

/// The body of `POST /v1/chat/completions`, its form checked.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// The conversation, and how to answer it.
    pub chat: Chat,
    /// Answer in pieces.
    pub stream: bool,
    /// End the stream with token counts.
    pub include_usage: bool,
    /// Return what the model thought before it answered.
    pub include_reasoning: bool,
    /// Tools came as `functions`, and calls are answered in that form.
    pub as_functions: bool,
}

impl JsonSchema for ChatRequest {
    fn schema_name() -> Cow<'static, str> {
        "ChatRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(
            generator,
            &[Shared::describe, Own::describe, Forms::describe, Thinking::describe, ToolFields::describe],
        )
    }
}

impl Body for ChatRequest {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        let taken = [Shared::NAMES, Own::NAMES, Forms::NAMES, Thinking::NAMES, ToolFields::NAMES];
        fields::check(body, &taken, &[REFUSED, REFUSED_IN_CHATS], WITHOUT_EFFECT)?;
        let (shared, own) = (Shared::read(body, limits)?, Own::read(body, limits)?);
        let thinking = Thinking::read(body, limits)?;
        let (stream, include_usage) = shared.stream()?;
        // The newer name wins, as with OpenAI.
        let (length_field, length) = match own.max_completion_tokens {
            Some(length) => ("max_completion_tokens", Some(length)),
            None => ("max_tokens", shared.max_tokens),
        };
        if length == Some(0) {
            return Err(body.field("max_tokens").wrong("a whole number above 0"));
        }
        let tools = ToolFields::read(body, limits)?;
        let (tools, as_functions) = tools.offered()?;
        let bound = Forms::read(body, limits)?.bound()?;
        let names = Names {
            max_tokens: length_field,
            form: bound.as_ref().map_or(FORM, |bound| bound.field),
            messages: "messages",
            tools: if as_functions { "functions" } else { "tools" },
        };
        let chat = Chat {
            max_tokens: max_tokens(length, limits.max_tokens.0, limits),
            choices: shared.n,
            sampling: sampling(&shared),
            top_logprobs: top_logprobs(&own)?,
            budget: own.arrcoc.budget,
            selection: own.arrcoc.selection(),
            sizing: Sizing { skip_blank: own.arrcoc.skip_blank, ..own.mm_processor_kwargs },
            explain: own.arrcoc.explain,
            form: bound.map(|bound| bound.form),
            variables: thinking.variables()?,
            messages: message::Reader::new(limits).messages(&own.messages)?,
            model: shared.model,
            stop: shared.stop,
            tools,
            names,
        };
        Ok(Self { chat, stream, include_usage, include_reasoning: thinking.include_reasoning, as_functions })
    }
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
