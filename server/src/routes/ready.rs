//! `GET /ready`: requests are welcome. For readiness probes: 503 while loading and draining.

use axum::Json;
use axum::extract::State;
use axum::routing::get;

use super::{Endpoint, Status};
use crate::error::ApiError;
use crate::openapi::{self, Answer, Key, Page};
use crate::state::App;

pub(super) const PATH: &str = "/ready";

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: PATH,
        handler: get(handle),
        page: Page {
            method: "get",
            id: "ready",
            summary: "Whether requests are welcome",
            tag: "operation",
            key: Key::None,
            request: None,
            answer: Answer::Json("Ready", openapi::of::<Status>),
            errors: &[500, 503],
        },
    }
}

async fn handle(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    if app.serving()?.engine.healthy() {
        Ok(Json(Status { status: "ready" }))
    } else {
        Err(ApiError::internal(
            "the engine cannot answer any more, for a reason that was logged; restart the server",
        ))
    }
}
