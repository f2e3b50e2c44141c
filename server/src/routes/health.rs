//! `GET /health`: the process is alive. For liveness probes: up while loading and draining, down only when a restart
//! would help.

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};

use super::Endpoint;
use crate::error::ApiError;
use crate::openapi::{errors, json_response};
use crate::state::{App, Slot};

pub(super) const PATH: &str = "/health";

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: PATH,
        handler: get(handle),
        document: json!({"get": {
            "operationId": "health",
            "summary": "Whether the process is alive",
            "tags": ["operation"],
            "responses": errors(json_response("Alive", "Status"), &[500]),
        }}),
    }
}

async fn handle(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    match app.slot() {
        Slot::Ready(serving) if !serving.engine.healthy() => Err(ApiError::internal(
            "the engine cannot answer any more, for a reason that was logged; restart the server",
        )),
        _ => Ok(Json(json!({"status": "ok"}))),
    }
}
