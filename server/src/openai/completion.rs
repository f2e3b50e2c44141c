//! Text completions, OpenAI's older form: the request in its checked form, and the answer's objects.

use arrcoc_runtime::generate::{FinishReason, MaxTokens, TokenLogprob, Usage};
use serde_json::{Map, Value, json};

use super::chat::MAX_TOP_LOGPROBS;
use super::names::{self, REFUSED, REFUSED_IN_TEXTS};
use super::sampling::{self, SHARED, SamplingFields, choices, count, max_tokens, stops};
use super::{Head, finish_reason, finite, text_too_long, token_text};
use crate::config::Limits;
use crate::error::ApiError;
use crate::json::{Body, Field, Object};

/// Most tokens per answer where a request sets no limit: OpenAI's default. Chat has none.
pub const DEFAULT_MAX_TOKENS: usize = 16;

/// Fields that only texts have.
const OWN: [&str; 2] = ["prompt", "best_of"];

/// The body of `POST /v1/completions`, its form checked.
#[derive(Debug, Clone)]
pub struct Completion {
    /// Name of the model.
    pub model: Option<String>,
    /// The text to go on from.
    pub prompt: String,
    /// Answer in pieces.
    pub stream: bool,
    /// End the stream with token counts.
    pub include_usage: bool,
    /// Most tokens per answer.
    pub max_tokens: MaxTokens,
    /// Answers.
    pub choices: usize,
    /// How to pick tokens.
    pub sampling: SamplingFields,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Alternatives per token, when log-probabilities are asked for.
    pub top_logprobs: Option<usize>,
}

impl Body for Completion {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        let taken: Vec<&str> = SHARED.into_iter().chain(OWN).collect();
        names::check(body, &taken, &[REFUSED, REFUSED_IN_TEXTS])?;
        let choices = choices(body, limits)?;
        let best_of = body.field("best_of");
        if best_of.any_whole()?.is_some_and(|best_of| best_of != choices as i64) {
            return Err(ApiError::unsupported("best_of", "ask for `n` answers and choose among them"));
        }
        let (stream, include_usage) = sampling::stream(body)?;
        Ok(Self {
            model: sampling::model(body)?,
            stream,
            include_usage,
            max_tokens: max_tokens(&body.field("max_tokens"), DEFAULT_MAX_TOKENS, limits)?,
            choices,
            sampling: SamplingFields::read(body, limits.max_tokens.0)?,
            stop: stops(body)?,
            top_logprobs: count(&body.field("logprobs"), 0, MAX_TOP_LOGPROBS)?,
            prompt: prompt(&body.field("prompt"), limits.text.0)?,
        })
    }
}

fn prompt(field: &Field<'_>, limit: usize) -> Result<String, ApiError> {
    let expected = "text";
    field.required(expected)?;
    let only = if field.is_text() { field.clone() } else { only_text(field)? };
    let text = only.text()?.unwrap_or_default();
    if text.is_empty() {
        return Err(ApiError::invalid("prompt", "`prompt`: expected text, found none"));
    }
    if text.len() > limit {
        return Err(text_too_long("prompt", limit, text.len()));
    }
    Ok(text.into_owned())
}

/// The one text of a list.
fn only_text<'a>(field: &Field<'a>) -> Result<Field<'a>, ApiError> {
    if !field.is_list() {
        return Err(field.wrong("text"));
    }
    let one_only = || ApiError::unsupported("prompt", "send one prompt per request");
    let mut items = field.list("text", 1, "").map_err(|_| one_only())?.unwrap_or_default();
    match items.pop() {
        None => Err(field.wrong("text")),
        Some(item) if item.is_text() => Ok(item),
        Some(_) => Err(ApiError::unsupported("prompt", "send text; lists of token ids are not read")),
    }
}

/// Log-probabilities in the older form: parallel lists, and a dictionary of alternatives per token.
#[derive(Debug, Clone, Default)]
pub struct LegacyLogprobs {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<Value>,
}

impl LegacyLogprobs {
    /// Adds a token; `offset` counts the characters before it and is moved past it.
    pub fn push(&mut self, token: &TokenLogprob, offset: &mut usize) {
        self.tokens.push(token_text(&token.token.bytes).into());
        self.token_logprobs.push(finite(token.token.logprob).into());
        let top: Map<String, Value> =
            token.top.iter().map(|top| (token_text(&top.bytes), finite(top.logprob).into())).collect();
        self.top_logprobs.push(top.into());
        self.text_offset.push((*offset).into());
        // Bytes that begin a character: a character that several tokens share counts once, for the first of them.
        *offset += token.token.bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
    }

    /// The `logprobs` object.
    pub fn into_value(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}

/// One answer, or the next piece of one: `logprobs` is null unless asked for, `reason` null until the end.
pub fn choice(index: usize, text: &str, logprobs: Value, reason: Option<FinishReason>) -> Value {
    json!({
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": reason.map(finish_reason),
    })
}

/// A `text_completion`, whole or as a chunk; `usage` is absent where it is `None` and null where it holds `None`.
pub fn completion(head: &Head, choices: Vec<Value>, usage: Option<Option<Usage>>) -> Value {
    let mut object = head.object("text_completion");
    object["choices"] = choices.into();
    if let Some(usage) = usage {
        object["usage"] = usage.map_or(Value::Null, super::usage);
    }
    object
}

#[cfg(test)]
mod tests {
    use arrcoc_runtime::generate::Logprob;

    use super::*;

    #[test]
    fn offsets_count_characters_even_when_tokens_split_them() {
        let mut logprobs = LegacyLogprobs::default();
        let mut offset = 0;
        for bytes in ["aé".as_bytes(), &[0xe2, 0x82], &[0xac], b"!"] {
            let token = Logprob { id: 0, bytes: bytes.to_vec(), logprob: -0.5 };
            logprobs.push(&TokenLogprob { token, top: vec![] }, &mut offset);
        }
        let value = logprobs.into_value();
        assert_eq!(value["text_offset"], json!([0, 2, 3, 3]));
        assert_eq!(value["tokens"], json!(["aé", "bytes:\\xe2\\x82", "bytes:\\xac", "!"]));
        assert_eq!(offset, 4);
    }
}
