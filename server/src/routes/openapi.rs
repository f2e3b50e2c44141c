//! `GET /openapi.json`: this API, described.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::Endpoint;
use crate::openapi::document;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/openapi.json",
        handler: get(handle),
        document: json!({"get": {
            "operationId": "openapi",
            "summary": "This document",
            "tags": ["operation"],
            "responses": {"200": {
                "description": "An OpenAPI 3.1 document",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }},
        }}),
    }
}

async fn handle() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}
