//! The OpenAPI 3.1 document that the server serves: the endpoints' own pages, and the schemas they share.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::routes::endpoints;

mod schemas;

/// The document.
pub fn document() -> Value {
    let paths: Map<String, Value> =
        // axum writes a rest-of-path parameter `{*id}`, OpenAPI knows only `{id}`.
        endpoints().into_iter().map(|endpoint| (endpoint.path.replace("{*", "{"), endpoint.document)).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "arrcoc-serve",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Query-aware vision-language models behind an OpenAI-compatible API",
            "description": "Images get visual tokens where the question needs them. The extension `arrcoc` in chat \
                            requests sets their number, and returns where they went.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "openai", "description": "As OpenAI's API, with extensions"},
            {"name": "operation", "description": "Probes, metrics and this document"},
            {"name": "admin", "description": "Engines; needs a key of its own"},
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "One of auth.api_keys, where any is set"},
                "adminKey": {"type": "http", "scheme": "bearer", "description": "One of auth.admin_keys"},
            },
            "schemas": schemas::schemas(),
        },
    })
}

/// A reference to a shared schema.
pub(crate) fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A JSON request body.
pub(crate) fn body(name: &str) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": schema(name)}}})
}

/// A 200 with JSON.
pub(crate) fn json_response(description: &str, name: &str) -> Value {
    json!({"200": {"description": description, "content": {"application/json": {"schema": schema(name)}}}})
}

/// A 200 with text.
pub(crate) fn text_response(description: &str) -> Value {
    json!({"200": {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}})
}

/// A 200 with an object, or with server-sent events when the request says `stream`.
pub(crate) fn json_or_stream(whole: &str, chunk: &str) -> Value {
    let events = format!("With `stream`: one event per chunk, its data a {chunk}; then `data: [DONE]`");
    json!({"200": {
        "description": "The answer",
        "content": {
            "application/json": {"schema": schema(whole)},
            "text/event-stream": {"schema": {"type": "string", "description": events}},
        },
    }})
}

/// Adds error responses, all of one form.
pub(crate) fn errors(mut responses: Value, statuses: &[u16]) -> Value {
    for status in statuses {
        let reason = StatusCode::from_u16(*status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Error");
        let mut response = json!({
            "description": reason,
            "content": {"application/json": {"schema": schema("Error")}},
        });
        if matches!(status, 429 | 503) {
            response["headers"] =
                json!({"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}});
        }
        responses[status.to_string()] = response;
    }
    responses
}
