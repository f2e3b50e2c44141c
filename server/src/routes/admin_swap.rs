//! `POST /admin/engines/swap`: another precision takes over, and no request is lost.

use std::borrow::Cow;

use arrcoc_bundle::Precision;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::Endpoint;
use super::admin_engines::LoadedEngine;
use crate::auth::AdminKey;
use crate::body::JsonBody;
use crate::config::Limits;
use crate::engines::swap::{SwapError, Swapped, Wanted, swap};
use crate::error::ApiError;
use crate::fields::{self, Form as _, by, check_own, fields};
use crate::json::{Body, Field, Object};
use crate::openapi::{self, Answer, Key, Page};
use crate::state::{App, Purpose};

/// Longest name of a model, bytes.
const LONGEST_NAME: usize = 200;

fields! {
    /// What to swap to.
    struct SwapRequest {
        model: Option<String> = by(model, model_schema),
            "The model's name in its bundle; the one in service unless given";
        precision: Precision = by(precision, precision_schema).required(), "";
    }
}

fn model(field: &Field<'_>, _: &Limits) -> Result<Option<String>, ApiError> {
    let model = field.text()?.map(String::from);
    // It goes into messages and the log: what no bundle can be called is refused here.
    if model.as_ref().is_some_and(|model| model.len() > LONGEST_NAME || model.contains(char::is_control)) {
        return Err(field.wrong(format_args!("a name of at most {LONGEST_NAME} bytes")));
    }
    Ok(model)
}

fn model_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "maxLength": LONGEST_NAME})
}

fn precision(field: &Field<'_>, _: &Limits) -> Result<Precision, ApiError> {
    let precision = field.text()?.and_then(|name| name.parse().ok());
    let all = Precision::ALL.map(Precision::name).join(", ");
    precision.ok_or_else(|| field.wrong(format_args!("one of {all}")))
}

fn precision_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"enum": Precision::ALL.map(Precision::name)})
}

impl JsonSchema for SwapRequest {
    fn schema_name() -> Cow<'static, str> {
        "SwapRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::only(generator, &[Self::describe])
    }
}

impl Body for SwapRequest {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        check_own(body, "", Self::NAMES)?;
        Self::read(body, limits)
    }
}

/// What came of it.
#[derive(Debug, Serialize, JsonSchema)]
struct Swap {
    /// False when it was in service already
    changed: bool,
    /// From the order to the switch
    seconds: f64,
    engine: LoadedEngine,
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/admin/engines/swap",
        handler: post(handle),
        page: Page {
            method: "post",
            id: "swapEngine",
            summary: "Load an engine of another precision, switch to it, and unload the one before",
            tag: "admin",
            key: Key::Admin,
            request: Some(openapi::of::<SwapRequest>),
            answer: Answer::Json("The engine in service", openapi::of::<Swap>),
            errors: &[400, 401, 403, 404, 408, 409, 413, 415, 500, 503, 504, 507],
        },
    }
}

async fn handle(
    _key: AdminKey,
    State(app): State<App>,
    body: JsonBody<SwapRequest>,
) -> Result<Json<Swap>, ApiError> {
    let SwapRequest { model, precision } = body.into_small();
    // A client that hangs up must not break off a swap half-way: it goes on as a task of its own.
    let task = tokio::spawn({
        let app = app.clone();
        async move { swap(&app, Wanted { model, precision }).await }
    });
    let Swapped { serving, changed, took } = task.await.map_err(ApiError::internal)??;
    let engine = LoadedEngine::new(&serving, Purpose::Serving, app.draining());
    Ok(Json(Swap { changed, seconds: took.as_secs_f64(), engine }))
}

impl From<SwapError> for ApiError {
    fn from(error: SwapError) -> Self {
        let message = error.to_string();
        let (status, kind, code) = match error {
            SwapError::NoEngines | SwapError::OtherModel { .. } => {
                (StatusCode::BAD_REQUEST, "invalid_request_error", "cannot_swap")
            }
            SwapError::Unknown { .. } => (StatusCode::NOT_FOUND, "not_found_error", "engine_not_found"),
            SwapError::Busy => (StatusCode::CONFLICT, "conflict_error", "swap_under_way"),
            SwapError::NotServing => (StatusCode::SERVICE_UNAVAILABLE, "server_error", "not_serving"),
            SwapError::Memory(_) => (StatusCode::INSUFFICIENT_STORAGE, "server_error", "no_memory"),
            SwapError::Slow(_) => (StatusCode::GATEWAY_TIMEOUT, "server_error", "engine_load_timeout"),
            SwapError::Load(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "engine_not_loaded"),
        };
        Self::new(status, kind, code, message)
    }
}
