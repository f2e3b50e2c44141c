//! Chat completions: the request as written, its checked form, and the answer's objects.

use arrcoc_runtime::generate::{
    Budget, FinishReason, MaxTokens, Receipt, Role, Sampling, TokenLogprob, Usage,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::field::{TextOr, unsupported, whole};
use super::sampling::{Extension, RawSampling, StreamOptions, choices, include_usage, max_tokens, stops};
use super::{Head, chat_logprob, explanation, finish_reason};
use crate::config::Limits;
use crate::error::ApiError;

/// Most alternatives per token, as with OpenAI.
pub const MAX_TOP_LOGPROBS: i64 = 20;

/// The body of `POST /v1/chat/completions`. Unknown fields are ignored, as OpenAI's own servers ignore them.
#[derive(Debug, Clone, Deserialize)]
pub struct ChatRequest {
    /// Name of the model.
    pub model: Option<String>,
    messages: Vec<RawMessage>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    n: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    seed: Option<i64>,
    stop: Option<TextOr<String>>,
    logprobs: Option<bool>,
    top_logprobs: Option<i64>,
    arrcoc: Option<Extension>,
    // Fields of OpenAI's API that would change the answer and are refused.
    tools: Option<Value>,
    tool_choice: Option<Value>,
    functions: Option<Value>,
    function_call: Option<Value>,
    response_format: Option<Value>,
    modalities: Option<Value>,
    audio: Option<Value>,
    logit_bias: Option<Value>,
    web_search_options: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawMessage {
    role: String,
    content: Option<TextOr<RawPart>>,
    tool_calls: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawPart {
    r#type: String,
    text: Option<String>,
    image_url: Option<ImageUrl>,
}

#[derive(Debug, Clone, Deserialize)]
struct ImageUrl {
    url: String,
}

/// A chat request whose form is right; its images are not loaded yet.
#[derive(Debug, Clone)]
pub struct Chat {
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
    pub sampling: Sampling,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Alternatives per token, when log-probabilities are asked for.
    pub top_logprobs: Option<usize>,
    /// Visual tokens per image.
    pub budget: Budget,
    /// Return receipts.
    pub explain: bool,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What, in order.
    pub content: Vec<Piece>,
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// An image, not loaded yet.
    Image {
        /// Its URL.
        url: String,
        /// Where in the request the URL stood.
        param: String,
    },
}

impl ChatRequest {
    /// Checks the form of every field.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn check(self, limits: &Limits) -> Result<Chat, ApiError> {
        self.refuse_unsupported()?;
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
        // The newer name wins, as with OpenAI.
        let (length_field, length) = match self.max_completion_tokens {
            Some(value) => ("max_completion_tokens", Some(value)),
            None => ("max_tokens", self.max_tokens),
        };
        let (budget, explain) = self.arrcoc.unwrap_or_default().check()?;
        Ok(Chat {
            messages: messages(self.messages, limits)?,
            stream,
            include_usage: include_usage(stream, self.stream_options)?,
            max_tokens: max_tokens(length_field, length, limits.max_tokens.0, limits)?,
            length_field,
            choices: choices(self.n, limits)?,
            sampling: sampling.check()?,
            stop: stops(self.stop)?,
            top_logprobs: top_logprobs(self.logprobs, self.top_logprobs)?,
            budget,
            explain,
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let no_tools = "describe the tools in the prompt and read the answer's text";
        let unforced = [json!("none"), json!("auto")];
        unsupported("tools", self.tools.as_ref(), &[], no_tools)?;
        unsupported("tool_choice", self.tool_choice.as_ref(), &unforced, no_tools)?;
        unsupported("functions", self.functions.as_ref(), &[], no_tools)?;
        unsupported("function_call", self.function_call.as_ref(), &unforced, no_tools)?;
        let text = [json!({"type": "text"})];
        unsupported("response_format", self.response_format.as_ref(), &text, "only {\"type\": \"text\"} is")?;
        unsupported("modalities", self.modalities.as_ref(), &[json!(["text"])], "only [\"text\"] is")?;
        unsupported("audio", self.audio.as_ref(), &[], "answers are text")?;
        unsupported("logit_bias", self.logit_bias.as_ref(), &[], "leave it out")?;
        unsupported("web_search_options", self.web_search_options.as_ref(), &[], "leave it out")
    }
}

fn top_logprobs(logprobs: Option<bool>, top: Option<i64>) -> Result<Option<usize>, ApiError> {
    match (logprobs.unwrap_or(false), top) {
        (true, top) => whole("top_logprobs", top.unwrap_or(0), 0, MAX_TOP_LOGPROBS).map(Some),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid(
            "top_logprobs",
            "`top_logprobs` is only allowed together with `logprobs: true`",
        )),
    }
}

fn messages(raw: Vec<RawMessage>, limits: &Limits) -> Result<Vec<Message>, ApiError> {
    if raw.is_empty() {
        return Err(ApiError::invalid("messages", "`messages`: expected at least one message, found none"));
    }
    let messages: Vec<Message> =
        raw.into_iter().enumerate().map(|(index, raw)| message(index, raw)).collect::<Result<_, _>>()?;
    let pieces = || messages.iter().flat_map(|message| &message.content);
    let images = pieces().filter(|piece| matches!(piece, Piece::Image { .. })).count();
    if images > limits.images {
        let message =
            format!("`messages`: expected at most {} images, found {images} (limits.images)", limits.images);
        return Err(ApiError::invalid("messages", message));
    }
    let bytes: usize = pieces().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 0 }).sum();
    check_text("messages", bytes, limits)?;
    Ok(messages)
}

/// Checks the length of a prompt's text.
pub(super) fn check_text(param: &str, bytes: usize, limits: &Limits) -> Result<(), ApiError> {
    if bytes <= limits.text.0 {
        return Ok(());
    }
    let limit = limits.text.0;
    Err(ApiError::invalid(
        param,
        format!("`{param}`: expected at most {limit} bytes of text, found {bytes} (limits.text)"),
    ))
}

fn message(index: usize, raw: RawMessage) -> Result<Message, ApiError> {
    let param = format!("messages[{index}]");
    let role = match raw.role.as_str() {
        // `developer` is OpenAI's newer word for the same thing.
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => {
            return Err(ApiError::unsupported(format!("{param}.role"), "tools are not supported"));
        }
        other => {
            let message =
                format!("`{param}.role`: expected system, developer, user or assistant, found `{other}`");
            return Err(ApiError::invalid(format!("{param}.role"), message));
        }
    };
    unsupported(&format!("{param}.tool_calls"), raw.tool_calls.as_ref(), &[], "tools are not supported")?;
    let content = match raw.content {
        Some(TextOr::Text(text)) => vec![Piece::Text(text)],
        Some(TextOr::List(parts)) => parts
            .into_iter()
            .enumerate()
            .map(|(at, part)| piece(format!("{param}.content[{at}]"), part))
            .collect::<Result<_, _>>()?,
        None => {
            let message = format!("`{param}.content`: expected a string or a list of parts, found nothing");
            return Err(ApiError::invalid(format!("{param}.content"), message));
        }
    };
    if role != Role::User && content.iter().any(|piece| matches!(piece, Piece::Image { .. })) {
        let message = format!("`{param}.content`: only messages of the role `user` may hold images");
        return Err(ApiError::invalid(format!("{param}.content"), message));
    }
    Ok(Message { role, content })
}

fn piece(param: String, part: RawPart) -> Result<Piece, ApiError> {
    let missing = |field: &str| {
        let name = format!("{param}.{field}");
        ApiError::invalid(
            &name,
            format!("`{name}`: expected it in a part of type `{}`, found nothing", part.r#type),
        )
    };
    match part.r#type.as_str() {
        "text" => part.text.map(Piece::Text).ok_or_else(|| missing("text")),
        "image_url" => match part.image_url {
            Some(ImageUrl { url }) => Ok(Piece::Image { url, param: format!("{param}.image_url.url") }),
            None => Err(missing("image_url")),
        },
        "input_audio" | "audio_url" | "video_url" | "file" => {
            Err(ApiError::unsupported(param, "only parts of type text and image_url are"))
        }
        other => {
            let message = format!("`{param}.type`: expected text or image_url, found `{other}`");
            Err(ApiError::invalid(format!("{param}.type"), message))
        }
    }
}

/// One finished answer.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// Log-probabilities of its tokens, when asked for.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Why it ended.
    pub reason: FinishReason,
}

/// The `logprobs` object of a choice or chunk.
fn logprobs(tokens: Option<&[TokenLogprob]>) -> Value {
    tokens.map_or(Value::Null, |tokens| {
        let content: Vec<Value> = tokens
            .iter()
            .map(|token| {
                let mut object = chat_logprob(&token.token);
                object["top_logprobs"] = token.top.iter().map(chat_logprob).collect();
                object
            })
            .collect();
        json!({"content": content, "refusal": null})
    })
}

/// A `chat.completion`.
pub fn completion(head: &Head, choices: &[Choice], usage: Usage, receipts: Option<&[Receipt]>) -> Value {
    let mut object = head.object("chat.completion");
    let choices = choices.iter().enumerate().map(|(index, choice)| {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": null},
            "logprobs": logprobs(choice.logprobs.as_deref()),
            "finish_reason": finish_reason(choice.reason),
        })
    });
    object["choices"] = choices.collect();
    object["usage"] = super::usage(usage);
    if let Some(receipts) = receipts {
        object["arrcoc"] = explanation(receipts);
    }
    object
}

/// Builds the `chat.completion.chunk`s of a stream.
#[derive(Debug, Clone)]
pub struct Chunks {
    /// What every chunk repeats.
    pub head: Head,
    /// Whether `usage` is in every chunk: null until the last, as OpenAI does it.
    pub include_usage: bool,
}

impl Chunks {
    fn chunk(&self, choices: Value) -> Value {
        let mut object = self.head.object("chat.completion.chunk");
        object["choices"] = choices;
        if self.include_usage {
            object["usage"] = Value::Null;
        }
        object
    }

    fn delta(&self, index: usize, delta: Value, logprobs: Value, reason: Option<FinishReason>) -> Value {
        self.chunk(json!([{
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason.map(finish_reason),
        }]))
    }

    /// The first chunk of a choice. That of the first choice carries the receipts.
    pub fn role(&self, index: usize, receipts: Option<&[Receipt]>) -> Value {
        let mut chunk = self.delta(index, json!({"role": "assistant", "content": ""}), Value::Null, None);
        if let Some(receipts) = receipts {
            chunk["arrcoc"] = explanation(receipts);
        }
        chunk
    }

    /// More text.
    pub fn content(&self, index: usize, text: &str, token: Option<&TokenLogprob>) -> Value {
        self.delta(index, json!({"content": text}), logprobs(token.map(std::slice::from_ref)), None)
    }

    /// The end of a choice.
    pub fn finish(&self, index: usize, reason: FinishReason) -> Value {
        self.delta(index, json!({}), Value::Null, Some(reason))
    }

    /// Token counts, after all choices.
    pub fn usage(&self, usage: Usage) -> Value {
        let mut chunk = self.chunk(json!([]));
        chunk["usage"] = super::usage(usage);
        chunk
    }
}
