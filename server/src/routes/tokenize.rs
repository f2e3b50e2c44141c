//! `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrcoc_runtime::generate::{Budget, MaxTokens, Prompt, PromptReport, Request, Sampling, Selection};
use axum::Json;
use axum::extract::State;
use axum::routing::{get, post};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::Endpoint;
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::chat::{self, Chat};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{self, Form as _, fields, flag, raw, text};
use crate::json::{Body, Field, Object};
use crate::openai::chat::ChatRequest;
use crate::openapi::{self, Answer, Key, Page};
use crate::state::App;

pub(super) fn tokenize() -> Endpoint {
    Endpoint {
        path: "/tokenize",
        handler: post(handle),
        page: Page {
            method: "post",
            id: "tokenize",
            summary: "The token ids of a text, or of a conversation",
            tag: "others",
            key: Key::Api,
            request: Some(openapi::of::<Tokenize>),
            answer: Answer::Json("The ids", openapi::of::<Tokens>),
            errors: &[400, 401, 404, 408, 413, 415, 500, 503],
        },
    }
}

pub(super) fn detokenize() -> Endpoint {
    Endpoint {
        path: "/detokenize",
        handler: post(handle_back),
        page: Page {
            method: "post",
            id: "detokenize",
            summary: "The text of token ids",
            tag: "others",
            key: Key::Api,
            request: Some(openapi::of::<Detokenize>),
            answer: Answer::Json("The text", openapi::of::<Text>),
            errors: &[400, 401, 404, 408, 413, 415, 500, 503],
        },
    }
}

pub(super) fn info() -> Endpoint {
    Endpoint {
        path: "/tokenizer_info",
        handler: get(handle_info),
        page: Page {
            method: "get",
            id: "tokenizerInfo",
            summary: "The tokens that the tokenizer names, as `eos_token`",
            tag: "others",
            key: Key::Api,
            request: None,
            answer: Answer::Json("Their texts by name", openapi::of::<BTreeMap<String, String>>),
            errors: &[401, 503],
        },
    }
}

async fn handle_info(
    _key: ApiKey,
    State(app): State<App>,
) -> Result<Json<BTreeMap<String, String>>, ApiError> {
    let serving = app.serving()?;
    Ok(Json(serving.engine.info().named_tokens.iter().cloned().collect()))
}

fields! {
    /// `POST /tokenize`.
    struct OfText {
        model: Option<String> = text(), "Name of the model; the only one there is unless given";
        prompt: Option<String> = text(), "A text; or `messages`, with all that /v1/chat/completions takes beside";
        return_token_strs: bool = flag(), "Return the tokens' texts too";
    }
}

/// What to tokenise.
#[derive(Debug, Clone)]
struct Tokenize {
    of: Of,
    with_texts: bool,
}

#[derive(Debug, Clone)]
enum Of {
    Text { model: Option<String>, prompt: String },
    Chat(Box<Chat>),
}

impl Body for Tokenize {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        if body.field("messages").is_set() {
            let ChatRequest { chat, .. } = ChatRequest::read(body, limits)?;
            let with_texts = body.field("return_token_strs").flag()?.unwrap_or(false);
            return Ok(Self { of: Of::Chat(Box::new(chat)), with_texts });
        }
        fields::check(body, &[OfText::NAMES], &[], &["add_special_tokens"])?;
        let OfText { model, prompt, return_token_strs } = OfText::read(body, limits)?;
        let prompt = prompt.ok_or_else(|| body.field("prompt").wrong("a text; or `messages`"))?;
        if prompt.len() > limits.text.0 {
            return Err(ApiError::text_too_long("prompt", limits.text.0, prompt.len()));
        }
        Ok(Self { of: Of::Text { model, prompt }, with_texts: return_token_strs })
    }
}

impl JsonSchema for Tokenize {
    fn schema_name() -> Cow<'static, str> {
        "TokenizeRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[OfText::describe])
    }
}

/// What `/tokenize` answers.
#[derive(Debug, Serialize, JsonSchema)]
struct Tokens {
    count: usize,
    max_model_len: usize,
    /// An image's placeholder stands there once for every token that the image may get
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

async fn handle(
    _key: ApiKey,
    State(app): State<App>,
    JsonBody { value: Tokenize { of, with_texts }, held, .. }: JsonBody<Tokenize>,
) -> Result<Json<Tokens>, ApiError> {
    let serving = app.serving()?;
    let tokens = match of {
        Of::Chat(chat) => {
            serving.check_model(chat.model.as_deref())?;
            chat::prompt_ids(&app, &serving, *chat, held).await?
        }
        Of::Text { model, prompt } => {
            serving.check_model(model.as_deref())?;
            let engine = Arc::clone(&serving.engine);
            let ids = tokio::task::spawn_blocking(move || engine.prompt_ids(&request(prompt))).await;
            ids.map_err(ApiError::internal)??
        }
    };
    let text = |id: &u32| String::from_utf8_lossy(&serving.engine.token_bytes(*id)).into_owned();
    let token_strs = with_texts.then(|| tokens.iter().map(text).collect());
    let max_model_len = serving.engine.info().context_length;
    Ok(Json(Tokens { count: tokens.len(), max_model_len, tokens, token_strs }))
}

fn request(prompt: String) -> Request {
    Request {
        prompt: Prompt::Text(prompt),
        budget: Budget::Auto,
        selection: Selection::default(),
        explain: false,
        sampling: Sampling::default(),
        choices: 1,
        max_tokens: MaxTokens::AtMost(0),
        stop: Vec::new(),
        top_logprobs: None,
        prompt_report: PromptReport::Nothing,
        form: None,
    }
}

fields! {
    /// `POST /detokenize`.
    struct Detokenize<'a> {
        model: Option<String> = text(), "Name of the model; the only one there is unless given";
        tokens: Field<'a> = raw(|_| json_schema!({"type": "array", "items": {"type": "integer"}})).required(), "";
    }
}

/// What to turn back into text.
#[derive(Debug, Clone)]
struct Back {
    model: Option<String>,
    tokens: Vec<u32>,
}

impl Body for Back {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        fields::check(body, &[Detokenize::NAMES], &[], &["skip_special_tokens"])?;
        let Detokenize { model, tokens } = Detokenize::read(body, limits)?;
        tokens.required("a list of token ids")?;
        let tokens = tokens.ids().ok_or_else(|| tokens.wrong("a list of token ids"))?;
        Ok(Self { model, tokens })
    }
}

impl JsonSchema for Detokenize<'_> {
    fn schema_name() -> Cow<'static, str> {
        "DetokenizeRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Self::describe])
    }
}

/// What `/detokenize` answers.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DetokenizedText")]
struct Text {
    prompt: String,
}

async fn handle_back(
    _key: ApiKey,
    State(app): State<App>,
    body: JsonBody<Back>,
) -> Result<Json<Text>, ApiError> {
    let Back { model, tokens } = body.into_small();
    let serving = app.serving()?;
    serving.check_model(model.as_deref())?;
    let mut bytes = Vec::new();
    for id in tokens {
        let token = serving.engine.token_bytes(id);
        if token.is_empty() {
            let message = format!("`tokens`: expected ids of the model's tokens, found {id}");
            return Err(ApiError::invalid("tokens", message));
        }
        bytes.extend(token);
    }
    Ok(Json(Text { prompt: String::from_utf8_lossy(&bytes).into_owned() }))
}
