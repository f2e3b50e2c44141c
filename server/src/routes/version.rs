//! `GET /version`, as vLLM has it.

use axum::Json;
use axum::routing::get;
use schemars::JsonSchema;
use serde::Serialize;

use super::Endpoint;
use crate::auth::ApiKey;
use crate::openapi::{self, Answer, Key, Page};

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/version",
        handler: get(handle),
        page: Page {
            method: "get",
            id: "version",
            summary: "The server's version",
            tag: "operation",
            key: Key::Api,
            request: None,
            answer: Answer::Json("The version", openapi::of::<Version>),
            errors: &[401],
        },
    }
}

#[derive(Debug, Serialize, JsonSchema)]
struct Version {
    version: &'static str,
}

async fn handle(_key: ApiKey) -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}
