//! `GET /`: a page that asks a question about an image and shows where the tokens went. One static file, no scripts
//! from elsewhere.

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::Endpoint;

const PAGE: &str = include_str!("landing.html");

/// The page talks to this server only, and shows images that the user picked.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src blob: data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/",
        handler: get(handle),
        document: json!({"get": {
            "operationId": "landing",
            "summary": "A page to try the model",
            "tags": ["operation"],
            "responses": {"200": {
                "description": "HTML",
                "content": {"text/html": {"schema": {"type": "string"}}},
            }},
        }}),
    }
}

async fn handle() -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, POLICY)], PAGE).into_response()
}
