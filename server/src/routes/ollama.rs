//! `/api/...`: for clients that speak Ollama's API. All of them in one file, since each is a few lines over
//! [`crate::ollama`].

use axum::Json;
use axum::extract::State;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use super::Endpoint;
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::chat::{self, Asked};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{self, fields, text};
use crate::json::{Body, Object};
use crate::ollama::{self, ChatBody, GenerateBody, Line, OllamaRequest, Shown, Tag, Tags, Writer};
use crate::openapi::{self, Answer, Key, Page, SchemaOf};
use crate::state::{App, Phase};
use crate::stream;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let line = openapi::of::<Line>;
    vec![
        endpoint(
            "/api/chat",
            post(answer_chat),
            "ollamaChat",
            "Answer a conversation, as Ollama's API does",
            Some(openapi::of::<ChatBody>),
            line,
        ),
        endpoint(
            "/api/generate",
            post(answer_text),
            "ollamaGenerate",
            "Answer a text, as Ollama's API does",
            Some(openapi::of::<GenerateBody>),
            line,
        ),
        endpoint(
            "/api/tags",
            get(tags),
            "ollamaTags",
            "The model, as Ollama's API lists it",
            None,
            openapi::of::<Tags>,
        ),
        endpoint(
            "/api/ps",
            get(tags),
            "ollamaRunning",
            "The model, which is loaded",
            None,
            openapi::of::<Tags>,
        ),
        endpoint(
            "/api/show",
            post(show),
            "ollamaShow",
            "What the model can do",
            Some(openapi::of::<Named>),
            openapi::of::<Shown>,
        ),
        endpoint(
            "/api/version",
            get(version),
            "ollamaVersion",
            "A version, for clients that want one",
            None,
            openapi::of::<Version>,
        ),
    ]
}

fn endpoint(
    path: &'static str,
    handler: MethodRouter<App>,
    id: &'static str,
    summary: &'static str,
    request: Option<SchemaOf>,
    answer: SchemaOf,
) -> Endpoint {
    Endpoint {
        path,
        page: Page {
            method: if request.is_some() { "post" } else { "get" },
            id,
            summary,
            tag: "others",
            key: Key::Api,
            request,
            answer: Answer::Json("The answer, or lines of it unless `stream` is false", answer),
            errors: if request.is_some() {
                &[400, 401, 404, 408, 413, 415, 429, 500, 503, 504]
            } else {
                &[401]
            },
        },
        handler: handler.layer(map_response(ollama::in_form)),
    }
}

async fn answer_chat(
    _key: ApiKey,
    State(app): State<App>,
    body: JsonBody<ChatBody>,
) -> Result<Response, ApiError> {
    let JsonBody { value: ChatBody(asked), held, arrived } = body;
    answer(&app, JsonBody { value: asked, held, arrived }, true).await
}

async fn answer_text(
    _key: ApiKey,
    State(app): State<App>,
    body: JsonBody<GenerateBody>,
) -> Result<Response, ApiError> {
    let JsonBody { value: GenerateBody(asked), held, arrived } = body;
    answer(&app, JsonBody { value: asked, held, arrived }, false).await
}

async fn answer(app: &App, body: JsonBody<OllamaRequest>, is_chat: bool) -> Result<Response, ApiError> {
    let JsonBody { value: OllamaRequest { chat, stream }, held, arrived } = body;
    let serving = app.serving()?;
    serving.check_model(chat.model.as_deref())?;
    let name = serving.name.clone();
    if chat.messages.is_empty() {
        return Ok(Json(Writer::loaded(&name, is_chat)).into_response());
    }
    serving.admit()?;
    let explain = chat.explain;
    let Asked { running, started } = chat::start(app, serving, chat, held, arrived).await?;
    let writer = Writer::new(&name, is_chat, explain.then_some(started.receipts));
    if stream {
        return Ok(stream::lines(running, writer));
    }
    Ok(Json(writer.collect(running).await?).into_response())
}

async fn tags(_key: ApiKey, State(app): State<App>) -> Json<Tags> {
    Json(match app.phase() {
        Phase::Ready(serving) => Tags { models: vec![Tag::of(&serving)] },
        Phase::Loading(_) => Tags::default(),
    })
}

fields! {
    /// `POST /api/show`.
    struct Named {
        model: Option<String> = text(), "Name of the model";
        name: Option<String> = text(), "Its older name";
    }
}

impl Body for Named {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        fields::check(body, &[Self::NAMES], &[], &["verbose", "system", "template", "options"])?;
        Self::read(body, limits)
    }
}

impl JsonSchema for Named {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OllamaName".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Self::describe])
    }
}

async fn show(_key: ApiKey, State(app): State<App>, body: JsonBody<Named>) -> Result<Json<Shown>, ApiError> {
    let named = body.into_small();
    let serving = app.serving()?;
    serving.check_model(named.model.or(named.name).as_deref().map(ollama::untagged))?;
    Ok(Json(Shown::of(&serving)))
}

/// What `/api/version` answers: the version of Ollama's API that this one is like.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OllamaVersion")]
struct Version {
    version: &'static str,
}

async fn version(_key: ApiKey) -> Json<Version> {
    Json(Version { version: "0.13.0" })
}
