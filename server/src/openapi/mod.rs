//! The OpenAPI 3.1 document that the server serves: the endpoints' own pages, and the schemas of the types
//! that they take and return.

use axum::http::StatusCode;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::error::ErrorBody;

/// Where the document has its schemas.
const SCHEMAS: &str = "/components/schemas";

/// What the document says of an endpoint.
pub struct Page {
    pub(crate) method: &'static str,
    /// Its name in clients that are made from the document.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) key: Key,
    /// What it takes.
    pub(crate) request: Option<SchemaOf>,
    /// What it returns with status 200.
    pub(crate) answer: Answer,
    /// The statuses of its errors, all of which have one form.
    pub(crate) errors: &'static [u16],
}

/// Who may use an endpoint.
pub(crate) enum Key {
    /// Everyone.
    None,
    /// Those with an API key, where the server has any.
    Api,
    /// Those with an administrator's key.
    Admin,
}

/// What an endpoint returns.
pub(crate) enum Answer {
    /// JSON of a type.
    Json(&'static str, SchemaOf),
    /// JSON of the first type, or server-sent events of the second when the request says `stream`.
    JsonOrStream(SchemaOf, SchemaOf),
    /// Something that is not described further: what it is, its media type, and JSON Schema's name of its
    /// type.
    Other(&'static str, &'static str, &'static str),
}

/// The schema of a type.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// [`SchemaOf`] of a type.
pub(crate) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The document of these endpoints, each with its path as axum writes it.
pub(crate) fn document(endpoints: impl Iterator<Item = (&'static str, Page)>) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = SCHEMAS.into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    // axum writes a rest-of-path parameter `{*id}`, OpenAPI knows only `{id}`.
    let paths: Map<String, Value> = endpoints
        .map(|(path, page)| (path.replace("{*", "{"), page))
        .map(|(path, page)| {
            let operation = page.operation(&path, &mut generator);
            (path, json!({page.method: operation}))
        })
        .collect();
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
            {"name": "others", "description": "As other servers' APIs, for clients that speak those"},
            {"name": "operation", "description": "Probes, metrics and this document"},
            {"name": "admin", "description": "Engines; needs a key of its own"},
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "One of auth.api_keys, where any is set"},
                "adminKey": {"type": "http", "scheme": "bearer", "description": "One of auth.admin_keys"},
            },
            "schemas": generator.take_definitions(true),
        },
    })
}

impl Page {
    fn operation(&self, path: &str, generator: &mut SchemaGenerator) -> Value {
        let mut operation = json!({"operationId": self.id, "summary": self.summary, "tags": [self.tag]});
        match self.key {
            Key::None => {}
            Key::Api => operation["security"] = json!([{"apiKey": []}, {}]),
            Key::Admin => operation["security"] = json!([{"adminKey": []}]),
        }
        let names = path.split(['{', '}']).skip(1).step_by(2);
        let parameter =
            |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
        let parameters: Vec<Value> = names.map(parameter).collect();
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(request) = self.request {
            operation["requestBody"] = json!({"required": true, "content": json_of(request(generator))});
        }
        operation["responses"] = self.responses(generator);
        operation
    }

    fn responses(&self, generator: &mut SchemaGenerator) -> Value {
        let mut responses = json!({"200": self.answer.response(generator)});
        for status in self.errors {
            let reason = StatusCode::from_u16(*status)
                .ok()
                .and_then(|status| status.canonical_reason())
                .unwrap_or("Error");
            let error = generator.subschema_for::<ErrorBody<'static>>();
            let mut response = json!({"description": reason, "content": json_of(error)});
            if matches!(status, 429 | 503) {
                response["headers"] =
                    json!({"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}});
            }
            responses[status.to_string()] = response;
        }
        responses
    }
}

impl Answer {
    fn response(&self, generator: &mut SchemaGenerator) -> Value {
        match self {
            Self::Json(description, schema) => {
                json!({"description": description, "content": json_of(schema(generator))})
            }
            Self::JsonOrStream(whole, chunk) => {
                let mut content = json_of(whole(generator));
                let chunk = chunk(generator);
                let reference = chunk.get("$ref").and_then(Value::as_str).unwrap_or_default();
                let name = reference.rsplit('/').next().unwrap_or_default();
                let events =
                    format!("With `stream`: one event per chunk, its data a {name}; then `data: [DONE]`");
                content["text/event-stream"] = json!({"schema": {"type": "string", "description": events}});
                json!({"description": "The answer", "content": content})
            }
            Self::Other(description, media_type, kind) => {
                json!({"description": description, "content": {*media_type: {"schema": {"type": kind}}}})
            }
        }
    }
}

fn json_of(schema: Schema) -> Value {
    json!({"application/json": {"schema": schema}})
}
