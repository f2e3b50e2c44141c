//! `POST /admin/engines/swap`: another precision takes over, and no request is lost.

use arrcoc_runtime::bundle::manifest::Precision;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};

use super::Endpoint;
use super::admin_engines::describe;
use crate::auth::AdminKey;
use crate::body::JsonBody;
use crate::config::Limits;
use crate::engines::swap::{SwapError, Swapped, Wanted, swap};
use crate::error::ApiError;
use crate::json::{Body, Object};
use crate::openai::names::check_own;
use crate::openapi::{body, errors, json_response};
use crate::state::{App, Role};

/// Longest name of a model, bytes.
const LONGEST_NAME: usize = 200;

/// What to swap to.
#[derive(Debug)]
struct SwapRequest {
    model: Option<String>,
    precision: Precision,
}

impl Body for SwapRequest {
    fn read(body: &Object<'_>, _: &Limits) -> Result<Self, ApiError> {
        check_own(body, "", &["model", "precision"])?;
        let field = body.field("precision");
        let precision = field.text()?.and_then(|name| name.parse().ok());
        let all = Precision::ALL.map(Precision::name).join(", ");
        let precision = precision.ok_or_else(|| field.wrong(format_args!("one of {all}")))?;
        let field = body.field("model");
        let model = field.text()?.map(String::from);
        // It goes into messages and the log: what no bundle can be called is refused here.
        if model.as_ref().is_some_and(|model| model.len() > LONGEST_NAME || model.contains(char::is_control))
        {
            return Err(field.wrong(format_args!("a name of at most {LONGEST_NAME} bytes")));
        }
        Ok(Self { model, precision })
    }
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/admin/engines/swap",
        handler: post(handle),
        document: json!({"post": {
            "operationId": "swapEngine",
            "summary": "Load an engine of another precision, switch to it, and unload the one before",
            "tags": ["admin"],
            "security": [{"adminKey": []}],
            "requestBody": body("SwapRequest"),
            "responses": errors(
                json_response("The engine in service", "Swap"),
                &[400, 401, 403, 404, 408, 409, 413, 415, 500, 503, 504, 507],
            ),
        }}),
    }
}

async fn handle(
    _key: AdminKey,
    State(app): State<App>,
    body: JsonBody<SwapRequest>,
) -> Result<Json<Value>, ApiError> {
    let SwapRequest { model, precision } = body.into_small();
    // A client that hangs up must not break off a swap half-way: it goes on as a task of its own.
    let task = tokio::spawn({
        let app = app.clone();
        async move { swap(&app, Wanted { model, precision }).await }
    });
    let Swapped { serving, changed, took } = task.await.map_err(ApiError::internal)??;
    Ok(Json(json!({
        "changed": changed,
        "seconds": took.as_secs_f64(),
        "engine": describe(&serving, Role::Serving, app.draining()),
    })))
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
