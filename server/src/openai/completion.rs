//! Text completions, OpenAI's older form: the request as written, its checked form, and the answer's objects.

use arrcoc_runtime::generate::{FinishReason, MaxTokens, Sampling, TokenLogprob, Usage};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::chat::check_text;
use super::field::{TextOr, unsupported, whole};
use super::sampling::{RawSampling, StreamOptions, choices, include_usage, max_tokens, stops};
use super::{Head, finish_reason, finite, token_text};
use crate::config::Limits;
use crate::error::ApiError;

/// Most tokens per answer where a request sets no limit: OpenAI's default. Chat has none.
pub const DEFAULT_MAX_TOKENS: usize = 16;

/// The body of `POST /v1/completions`.
#[derive(Debug, Clone, Deserialize)]
pub struct CompletionRequest {
    /// Name of the model.
    pub model: Option<String>,
    prompt: TextOr<Value>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<i64>,
    n: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    seed: Option<i64>,
    stop: Option<TextOr<String>>,
    logprobs: Option<i64>,
    // Fields of OpenAI's API that would change the answer and are refused.
    echo: Option<Value>,
    suffix: Option<Value>,
    best_of: Option<i64>,
    logit_bias: Option<Value>,
}

/// A completion request whose form is right.
#[derive(Debug, Clone)]
pub struct Completion {
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
    pub sampling: Sampling,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Alternatives per token, when log-probabilities are asked for.
    pub top_logprobs: Option<usize>,
}

impl CompletionRequest {
    /// Checks the form of every field.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn check(self, limits: &Limits) -> Result<Completion, ApiError> {
        unsupported("echo", self.echo.as_ref(), &[], "prepend the prompt yourself")?;
        unsupported(
            "suffix",
            self.suffix.as_ref(),
            &[json!("")],
            "the model only goes on from the prompt's end",
        )?;
        unsupported("logit_bias", self.logit_bias.as_ref(), &[], "leave it out")?;
        let choices = choices(self.n, limits)?;
        if self.best_of.is_some_and(|best_of| best_of != choices as i64) {
            return Err(ApiError::unsupported("best_of", "ask for `n` answers and choose among them"));
        }
        let stream = self.stream.unwrap_or(false);
        let sampling = RawSampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
        };
        let prompt = prompt(self.prompt)?;
        check_text("prompt", prompt.len(), limits)?;
        Ok(Completion {
            prompt,
            stream,
            include_usage: include_usage(stream, self.stream_options)?,
            max_tokens: max_tokens("max_tokens", self.max_tokens, DEFAULT_MAX_TOKENS, limits)?,
            choices,
            sampling: sampling.check()?,
            stop: stops(self.stop)?,
            top_logprobs: self
                .logprobs
                .map(|top| whole("logprobs", top, 0, super::chat::MAX_TOP_LOGPROBS))
                .transpose()?,
        })
    }
}

fn prompt(prompt: TextOr<Value>) -> Result<String, ApiError> {
    let text = match prompt {
        TextOr::Text(text) => text,
        TextOr::List(mut list) => match (list.len(), list.pop()) {
            (1, Some(Value::String(text))) => text,
            (_, Some(Value::String(_))) => {
                return Err(ApiError::unsupported("prompt", "send one prompt per request"));
            }
            _ => return Err(ApiError::unsupported("prompt", "send text; lists of token ids are not read")),
        },
    };
    if text.is_empty() {
        return Err(ApiError::invalid("prompt", "`prompt`: expected text, found none"));
    }
    Ok(text)
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
