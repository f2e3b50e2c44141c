//! `POST /v1/messages`: chats as Anthropic has them.

use axum::Json;
use axum::extract::State;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use schemars::JsonSchema;
use serde::Serialize;

use super::Endpoint;
use crate::anthropic::{self, Event, Message, MessagesRequest, Writer};
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::chat::{self, Asked};
use crate::error::ApiError;
use crate::openapi::{self, Answer, Key, Page};
use crate::state::App;
use crate::stream;

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/v1/messages",
        handler: post(handle).layer(map_response(anthropic::in_form)),
        page: Page {
            method: "post",
            id: "createMessage",
            summary: "Answer a conversation, as Anthropic's API does; its errors have that API's form",
            tag: "others",
            key: Key::Api,
            request: Some(openapi::of::<MessagesRequest>),
            answer: Answer::JsonOrStream(openapi::of::<Message>, openapi::of::<Event<'static>>),
            errors: &[400, 401, 404, 408, 413, 415, 429, 500, 503, 504],
        },
    }
}

pub(super) fn count() -> Endpoint {
    Endpoint {
        path: "/v1/messages/count_tokens",
        handler: post(handle_count).layer(map_response(anthropic::in_form)),
        page: Page {
            method: "post",
            id: "countMessageTokens",
            summary: "The length of a conversation in tokens",
            tag: "others",
            key: Key::Api,
            request: Some(openapi::of::<MessagesRequest>),
            answer: Answer::Json("The length", openapi::of::<Counted>),
            errors: &[400, 401, 404, 408, 413, 415, 500, 503],
        },
    }
}

/// What `/v1/messages/count_tokens` answers.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AnthropicCount")]
struct Counted {
    /// Images are counted with the most tokens that they may get
    input_tokens: usize,
}

async fn handle_count(
    _key: ApiKey,
    State(app): State<App>,
    JsonBody { value: asked, held, .. }: JsonBody<MessagesRequest>,
) -> Result<Json<Counted>, ApiError> {
    let serving = app.serving()?;
    serving.check_model(asked.chat.model.as_deref())?;
    let ids = chat::prompt_ids(&app, &serving, asked.chat, held).await?;
    Ok(Json(Counted { input_tokens: ids.len() }))
}

async fn handle(
    _key: ApiKey,
    State(app): State<App>,
    JsonBody { value: asked, held, arrived }: JsonBody<MessagesRequest>,
) -> Result<Response, ApiError> {
    let MessagesRequest { chat, stream } = asked;
    let serving = app.serving()?;
    serving.check_model(chat.model.as_deref())?;
    serving.admit()?;
    let (name, explain) = (serving.name.clone(), chat.explain);
    let Asked { running, started } = chat::start(&app, serving, chat, held, arrived).await?;
    let receipts = explain.then_some(started.receipts);
    let writer = Writer::new(&name, started.prompt_tokens, receipts.as_deref());
    if stream {
        return Ok(stream::events(running, writer, app.config.timeouts.keep_alive.0));
    }
    Ok(Json(stream::collect(running, writer).await?.into_message()).into_response())
}
