//! Text completions, OpenAI's older form: the request in its checked form, and the answer's objects.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrcoc_runtime::generate::{self, MaxTokens, Prompt, PromptReport, PromptToken, TokenLogprob};
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
use crate::fields::{self, Form as _, count, count_within, fields, flag, raw};
use crate::json::{Body, Field, Object};

/// Most prompts of a request, and most answers of all of them.
const MOST_PROMPTS: usize = 256;

/// Most tokens per answer where a request sets no limit: OpenAI's default. Chat has none.
pub const DEFAULT_MAX_TOKENS: usize = 16;

fields! {
    /// The fields that only texts have.
    struct Own<'a> {
        prompt: Field<'a> = raw(prompt_schema).required(), "";
        best_of: Option<usize> = count_within(1, |limits| limits.choices.0),
            "Answers of which the `n` likeliest are returned, by their tokens' mean log-probability";
        echo: bool = flag(), "Answers begin with their prompt, and `logprobs` are those of its tokens too";
        logprobs: Option<usize> = count(0, MAX_TOP_LOGPROBS), "Alternatives per token";
    }
}

fn prompt_schema(_: &mut SchemaGenerator) -> Schema {
    let id = json_schema!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    let ids = json_schema!({"type": "array", "minItems": 1, "items": id});
    json_schema!({"oneOf": [
        {"type": "string"},
        ids,
        {"type": "array", "minItems": 1, "maxItems": MOST_PROMPTS, "items": {"oneOf": [{"type": "string"}, ids]}},
    ]})
}

/// The body of `POST /v1/completions`, its form checked.
#[derive(Debug, Clone)]
pub struct Completion {
    /// Name of the model.
    pub model: Option<String>,
    /// What to go on from: each has answers of its own.
    pub prompts: Vec<Prompt>,
    /// Answers begin with their prompt.
    pub echo: bool,
    /// What is to be told of prompts.
    pub report: PromptReport,
    /// Answers that are made of each prompt, of which the likeliest are returned.
    pub best_of: usize,
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
        let (stream, include_usage) = shared.stream()?;
        let best_of = own.best_of.unwrap_or(shared.n);
        if best_of < shared.n {
            let message = format!("`best_of`: expected at least `n` ({}), found {best_of}", shared.n);
            return Err(ApiError::invalid("best_of", message));
        }
        if stream && best_of > shared.n {
            return Err(ApiError::unsupported(
                "best_of",
                "which answer is the best is known at its end: do not stream",
            ));
        }
        let prompts = prompts(&own.prompt, limits)?;
        if prompts.len().saturating_mul(best_of) > MOST_PROMPTS {
            let found = prompts.len() * best_of;
            let message = format!(
                "`prompt`: expected at most {MOST_PROMPTS} answers of all prompts together, found {found}"
            );
            return Err(ApiError::invalid("prompt", message));
        }
        Ok(Self {
            stream,
            include_usage,
            max_tokens: max_tokens(shared.max_tokens, DEFAULT_MAX_TOKENS, limits),
            choices: shared.n,
            top_logprobs: own.logprobs,
            bound: Forms::read(body, limits)?.bound()?,
            prompts,
            echo: own.echo,
            best_of,
            report: match (own.echo, own.logprobs) {
                (true, Some(top)) => PromptReport::Logprobs(top),
                (true, None) => PromptReport::Tokens,
                (false, _) => PromptReport::Nothing,
            },
            sampling: sampling(&shared),
            model: shared.model,
            stop: shared.stop,
        })
    }
}

/// A text, token ids, or a list of either.
fn prompts(field: &Field<'_>, limits: &Limits) -> Result<Vec<Prompt>, ApiError> {
    let expected = "text, token ids, or a list of either";
    field.required(expected)?;
    let mut room = limits.text.0;
    if !field.is_list() {
        return Ok(vec![prompt(field, &mut room, expected)?]);
    }
    // A list of ids is one prompt.
    match field.ids() {
        Some(ids) if ids.is_empty() => return Err(field.wrong(expected)),
        Some(ids) => return Ok(vec![Prompt::Tokens(ids)]),
        None => {}
    }
    let items = field.list(expected, MOST_PROMPTS, "")?.unwrap_or_default();
    items.iter().map(|item| prompt(item, &mut room, expected)).collect()
}

/// One prompt; `room` is the text that there may yet be.
fn prompt(field: &Field<'_>, room: &mut usize, expected: &str) -> Result<Prompt, ApiError> {
    if field.is_list() {
        let ids = field.ids().filter(|ids| !ids.is_empty());
        return ids.map(Prompt::Tokens).ok_or_else(|| field.wrong("token ids"));
    }
    let text = field.text()?.ok_or_else(|| field.wrong(expected))?;
    if text.is_empty() {
        return Err(ApiError::invalid("prompt", "`prompt`: expected text, found none"));
    }
    let limit = *room;
    *room =
        limit.checked_sub(text.len()).ok_or_else(|| ApiError::text_too_long("prompt", limit, text.len()))?;
    Ok(Prompt::Text(text.into_owned()))
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
    /// Null for the first token of a prompt
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Vec<Option<Alternatives>>,
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
    /// Adds the tokens of a prompt.
    pub fn push_prompt(&mut self, tokens: &[PromptToken], offset: &mut usize) {
        for token in tokens {
            match &token.logprob {
                Some(logprob) => self.push(logprob, offset),
                None => {
                    self.tokens.push(token_text(&token.bytes));
                    self.token_logprobs.push(None);
                    self.top_logprobs.push(None);
                    self.text_offset.push(*offset);
                    *offset += characters(&token.bytes);
                }
            }
        }
    }

    /// Adds a token; `offset` counts the characters before it and is moved past it.
    pub fn push(&mut self, token: &TokenLogprob, offset: &mut usize) {
        self.tokens.push(token_text(&token.token.bytes));
        self.token_logprobs.push(Some(finite(&token.token)));
        let mut top: Vec<(String, f64)> = Vec::with_capacity(token.top.len());
        for (text, logprob) in token.top.iter().map(|top| (token_text(&top.bytes), finite(top))) {
            // Two tokens may have one text: an object has a name once, and the last of them counts.
            match top.iter_mut().find(|(earlier, _)| *earlier == text) {
                Some((_, earlier)) => *earlier = logprob,
                None => top.push((text, logprob)),
            }
        }
        self.top_logprobs.push(Some(Alternatives(top)));
        self.text_offset.push(*offset);
        *offset += characters(&token.token.bytes);
    }
}

/// Bytes that begin a character: one that several tokens share counts once, for the first of them.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
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
