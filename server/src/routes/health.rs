//! `GET /health`: the process is alive. For liveness probes: up while loading and draining, down only when a
//! restart would help.

use axum::Json;
use axum::extract::State;
use axum::routing::get;

use super::{Endpoint, Status};
use crate::error::ApiError;
use crate::openapi::{self, Answer, Key, Page};
use crate::state::{App, Phase};

pub(super) const PATH: &str = "/health";

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: PATH,
        handler: get(handle),
        page: Page {
            method: "get",
            id: "health",
            summary: "Whether the process is alive",
            tag: "operation",
            key: Key::None,
            request: None,
            answer: Answer::Json("Alive", openapi::of::<Status>),
            errors: &[500],
        },
    }
}

async fn handle(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    match app.phase() {
        Phase::Ready(serving) if !serving.engine.healthy() => Err(ApiError::internal(
            "the engine cannot answer any more, for a reason that was logged; restart the server",
        )),
        _ => Ok(Json(Status { status: "ok" })),
    }
}
