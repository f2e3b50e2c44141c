//! `GET /openapi.json`: this API, described.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Endpoint, endpoints};
use crate::openapi::{Answer, Key, Page, document};

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    document(endpoints().into_iter().map(|endpoint| (endpoint.path, endpoint.page))).to_string()
});

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/openapi.json",
        handler: get(handle),
        page: Page {
            method: "get",
            id: "openapi",
            summary: "This document",
            tag: "operation",
            key: Key::None,
            request: None,
            answer: Answer::Other("An OpenAPI 3.1 document", "application/json", "object"),
            errors: &[],
        },
    }
}

async fn handle() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}
