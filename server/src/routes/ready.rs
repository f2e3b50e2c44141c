//! `GET /ready`: requests are welcome. For readiness probes: 503 while loading and draining.

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};

use super::Endpoint;
use crate::error::ApiError;
use crate::openapi::{errors, json_response};
use crate::state::App;

pub(super) const PATH: &str = "/ready";

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: PATH,
        handler: get(handle),
        document: json!({"get": {
            "operationId": "ready",
            "summary": "Whether requests are welcome",
            "tags": ["operation"],
            "responses": errors(json_response("Ready", "Status"), &[500, 503]),
        }}),
    }
}

async fn handle(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    if app.serving()?.engine.healthy() {
        Ok(Json(json!({"status": "ready"})))
    } else {
        Err(ApiError::internal(
            "the engine cannot answer any more, for a reason that was logged; restart the server",
        ))
    }
}
