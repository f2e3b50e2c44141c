//! Text completions, OpenAI's older form: the request in its checked form, and the answer's objects.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrcoc_runtime::generate::{self, MaxTokens, TokenLogprob};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::chat::MAX_TOP_LOGPROBS;
use super::form::{Bound, Forms};
use super::names::{REFUSED, REFUSED_IN_TEXTS, WITHOUT_EFFECT};
use super::sampling::{Shared, max_tokens, sampling};
use super::{FinishReason, Head, Usage, finite, token_text};
use crate::chat::SamplingFields;
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{self, Form as _, any_whole, count, fields, raw};
use crate::json::{Body, Field, Object};

/// Most tokens per answer where a request sets no limit: OpenAI's default. Chat has none.
pub const DEFAULT_MAX_TOKENS: usize = 16;

fields! {
    /// The fields that only texts have.
    struct Own<'a> {
        prompt: Field<'a> = raw(prompt_schema).required(), "";
        best_of: Option<i64> = any_whole(), "Only the value of `n` is taken";
        logprobs: Option<usize> = count(0, MAX_TOP_LOGPROBS), "Alternatives per token";
    }
}

fn prompt_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"oneOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string"}},
    ]})
}

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
    /// What the answers must look like.
    pub bound: Option<Bound>,
}

impl JsonSchema for Completion {
    fn schema_name() -> Cow<'static, str> {
        "CompletionRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Shared::describe, Own::describe, Forms::describe])
    }
}

impl Body for Completion {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        fields::check(
            body,
            &[Shared::NAMES, Own::NAMES, Forms::NAMES],
            &[REFUSED, REFUSED_IN_TEXTS],
            WITHOUT_EFFECT,
        )?;
        let (shared, own) = (Shared::read(body, limits)?, Own::read(body, limits)?);
        if own.best_of.is_some_and(|best_of| best_of != shared.n as i64) {
            return Err(ApiError::unsupported("best_of", "ask for `n` answers and choose among them"));
        }
        let (stream, include_usage) = shared.stream()?;
        Ok(Self {
            stream,
            include_usage,
            max_tokens: max_tokens(shared.max_tokens, DEFAULT_MAX_TOKENS, limits),
            choices: shared.n,
            top_logprobs: own.logprobs,
            bound: Forms::read(body, limits)?.bound()?,
            prompt: prompt(&own.prompt, limits.text.0)?,
            sampling: sampling(&shared),
            model: shared.model,
            stop: shared.stop,
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
        return Err(ApiError::text_too_long("prompt", limit, text.len()));
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

/// A `text_completion`, whole or as a chunk.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Completion")]
pub struct TextCompletion<'h> {
    id: &'h str,
    object: TextObject,
    /// Seconds since 1970
    created: u64,
    model: &'h str,
    /// Checkpoint, precision and target
    system_fingerprint: &'h str,
    choices: Vec<Choice>,
    /// In a stream, with `stream_options.include_usage` alone: null until the last chunk
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
enum TextObject {
    #[serde(rename = "text_completion")]
    TextCompletion,
}

/// One answer, or the next piece of one.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Choice {
    /// Which answer.
    pub index: usize,
    /// Its text.
    pub text: String,
    /// Null unless asked for.
    pub logprobs: Option<LegacyLogprobs>,
    /// Null until the end.
    pub finish_reason: Option<FinishReason>,
}

impl<'h> TextCompletion<'h> {
    /// `usage` is absent where it is `None` and null where it holds `None`.
    pub fn new(head: &'h Head, choices: Vec<Choice>, usage: Option<Option<generate::Usage>>) -> Self {
        Self {
            id: &head.id,
            object: TextObject::TextCompletion,
            created: head.created,
            model: &head.model,
            system_fingerprint: &head.fingerprint,
            choices,
            usage: usage.map(|usage| usage.map(Usage::from)),
        }
    }
}

/// Log-probabilities in the older form: parallel lists, and a dictionary of alternatives per token.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct LegacyLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f64>,
    top_logprobs: Vec<Alternatives>,
    /// Characters before each token
    text_offset: Vec<usize>,
}

/// Tokens and their log-probabilities, in the order in which the runtime lists them.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline, with = "BTreeMap<String, f64>")]
struct Alternatives(Vec<(String, f64)>);

impl Serialize for Alternatives {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

impl LegacyLogprobs {
    /// Adds a token; `offset` counts the characters before it and is moved past it.
    pub fn push(&mut self, token: &TokenLogprob, offset: &mut usize) {
        self.tokens.push(token_text(&token.token.bytes));
        self.token_logprobs.push(finite(&token.token));
        let mut top: Vec<(String, f64)> = Vec::with_capacity(token.top.len());
        for (text, logprob) in token.top.iter().map(|top| (token_text(&top.bytes), finite(top))) {
            // Two tokens may have one text: an object has a name once, and the last of them counts.
            match top.iter_mut().find(|(earlier, _)| *earlier == text) {
                Some((_, earlier)) => *earlier = logprob,
                None => top.push((text, logprob)),
            }
        }
        self.top_logprobs.push(Alternatives(top));
        self.text_offset.push(*offset);
        // Bytes that begin a character: a character that several tokens share counts once, for the first of
        // them.
        *offset += token.token.bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrcoc_runtime::generate::Logprob;
    use serde_json::json;

    use super::*;

    #[test]
    fn offsets_count_characters_even_when_tokens_split_them() {
        let mut logprobs = LegacyLogprobs::default();
        let mut offset = 0;
        for bytes in ["aé".as_bytes(), &[0xe2, 0x82], &[0xac], b"!"] {
            let token = Logprob { id: 0, bytes: bytes.to_vec(), logprob: -0.5 };
            logprobs.push(&TokenLogprob { token, top: vec![] }, &mut offset);
        }
        let value = serde_json::to_value(logprobs).unwrap();
        assert_eq!(value["text_offset"], json!([0, 2, 3, 3]));
        assert_eq!(value["tokens"], json!(["aé", "bytes:\\xe2\\x82", "bytes:\\xac", "!"]));
        assert_eq!(offset, 4);
    }
}
