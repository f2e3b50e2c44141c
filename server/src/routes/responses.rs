//! `POST /v1/responses`, and what is kept of responses: `GET` and `DELETE /v1/responses/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{get, post};
use schemars::JsonSchema;
use serde::Serialize;

use super::Endpoint;
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::chat::{self, Asked, Message};
use crate::error::ApiError;
use crate::openai::responses::{Event, Keep, Response, ResponseRequest, Writer};
use crate::openapi::{self, Answer, Key, Page};
use crate::state::App;
use crate::stream;

pub(super) fn create() -> Endpoint {
    Endpoint {
        path: "/v1/responses",
        handler: post(handle),
        page: Page {
            method: "post",
            id: "createResponse",
            summary: "Answer a conversation in items, and keep it",
            tag: "openai",
            key: Key::Api,
            request: Some(openapi::of::<ResponseRequest>),
            answer: Answer::JsonOrStream(openapi::of::<Response>, openapi::of::<Event<'static>>),
            errors: &[400, 401, 404, 408, 413, 415, 429, 500, 503, 504],
        },
    }
}

/// Two methods of one path. The page is the first one's.
pub(super) fn one() -> Endpoint {
    Endpoint {
        path: "/v1/responses/{id}",
        handler: get(retrieve).delete(delete),
        page: Page {
            method: "get",
            id: "retrieveResponse",
            summary: "A response that is kept; DELETE forgets it",
            tag: "openai",
            key: Key::Api,
            request: None,
            answer: Answer::Json("The response", openapi::of::<Response>),
            errors: &[401, 404],
        },
    }
}

async fn handle(
    _key: ApiKey,
    State(app): State<App>,
    JsonBody { value: asked, held, arrived }: JsonBody<ResponseRequest>,
) -> Result<HttpResponse, ApiError> {
    let ResponseRequest { mut chat, instructed, previous, store, stream, echo } = asked;
    let serving = app.serving()?;
    serving.check_model(chat.model.as_deref())?;
    serving.admit()?;
    if let Some(previous) = previous {
        let stored = app
            .responses
            .get(&previous)
            .ok_or_else(|| ApiError::unknown_response(&previous, "previous_response_id"))?;
        let at = usize::from(instructed);
        chat.messages.splice(at..at, stored.messages.iter().cloned());
    }
    check_length(&app, &chat.messages)?;
    let kept = &chat.messages[usize::from(instructed)..];
    let keep = (store && app.responses.takes(kept))
        .then(|| Keep { store: Arc::clone(&app.responses), messages: kept.to_vec() });
    let (name, explain) = (serving.name.clone(), chat.explain);
    let Asked { running, started } = chat::start(&app, serving, chat, held, arrived).await?;
    let receipts = explain.then_some(started.receipts);
    let writer = Writer::new(echo, &name, receipts.as_deref(), keep);
    if stream {
        return Ok(stream::events(running, writer, app.config.timeouts.keep_alive.0));
    }
    Ok(Json(stream::collect(running, writer).await?.into_response()).into_response())
}

/// A conversation that goes on and on is held to the limits of one request.
fn check_length(app: &App, messages: &[Message]) -> Result<(), ApiError> {
    let (most, images) = (app.config.limits.messages.0, app.config.limits.images);
    let is_image = |piece: &&chat::Piece| matches!(piece, chat::Piece::Image { .. });
    let found = messages.iter().flat_map(|message| &message.content).filter(is_image).count();
    let refuse = |most, what: &str, found, limit: &str| {
        let message =
            format!("with what it goes on from: expected at most {most} {what}, found {found} ({limit})");
        Err(ApiError::invalid("previous_response_id", message))
    };
    if messages.len() > most {
        return refuse(most, "messages", messages.len(), "limits.messages");
    }
    if found > images { refuse(images, "images", found, "limits.images") } else { Ok(()) }
}

async fn retrieve(
    _key: ApiKey,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<HttpResponse, ApiError> {
    let stored = app.responses.get(&id).ok_or_else(|| ApiError::unknown_response(&id, "id"))?;
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((json, stored.response.clone()).into_response())
}

/// What `DELETE` answers.
#[derive(Debug, Serialize, JsonSchema)]
struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

async fn delete(
    _key: ApiKey,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, ApiError> {
    if !app.responses.delete(&id) {
        return Err(ApiError::unknown_response(&id, "id"));
    }
    Ok(Json(Deleted { id, object: "response", deleted: true }))
}
