//! `GET /metrics`: Prometheus' text format.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Endpoint;
use crate::error::ApiError;
use crate::openapi::{Answer, Key, Page};
use crate::state::{App, Phase};

pub(super) const PATH: &str = "/metrics";

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: PATH,
        handler: get(handle),
        page: Page {
            method: "get",
            id: "metrics",
            summary: "Prometheus metrics: vLLM's names, and ours under arrcoc_",
            tag: "operation",
            key: Key::None,
            request: None,
            answer: Answer::Other("Metrics in the text exposition format", "text/plain", "string"),
            errors: &[500],
        },
    }
}

async fn handle(State(app): State<App>) -> Result<Response, ApiError> {
    if let Phase::Ready(serving) = app.phase() {
        serving.metrics.set_occupancy(app.occupancy(), app.answers());
    }
    let text = app.metrics.render().map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
