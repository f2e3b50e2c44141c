//! `GET /v1/models` and `GET /v1/models/{id}`: what can be asked for.

use axum::Json;
use axum::extract::{Path, State};
use axum::routing::get;
use serde_json::{Value, json};

use super::Endpoint;
use crate::auth::ApiKey;
use crate::error::ApiError;
use crate::openai::{engine_labels, unix_seconds};
use crate::openapi::{errors, json_response};
use crate::state::{App, Serving, Slot};

pub(super) fn list() -> Endpoint {
    Endpoint {
        path: "/v1/models",
        handler: get(handle_list),
        document: json!({"get": {
            "operationId": "listModels",
            "summary": "The models that can be asked; none while loading",
            "tags": ["openai"],
            "security": [{"apiKey": []}, {}],
            "responses": errors(json_response("The models", "ModelList"), &[401]),
        }}),
    }
}

pub(super) fn one() -> Endpoint {
    Endpoint {
        // The rest of the path: a model's name may hold slashes.
        path: "/v1/models/{*id}",
        handler: get(handle_one),
        document: json!({"get": {
            "operationId": "retrieveModel",
            "summary": "One model",
            "tags": ["openai"],
            "security": [{"apiKey": []}, {}],
            "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}],
            "responses": errors(json_response("The model", "Model"), &[401, 404, 503]),
        }}),
    }
}

async fn handle_list(_key: ApiKey, State(app): State<App>) -> Json<Value> {
    let models: Vec<Value> = match app.slot() {
        Slot::Ready(serving) => vec![model(&serving)],
        Slot::Loading(_) => vec![],
    };
    Json(json!({"object": "list", "data": models}))
}

async fn handle_one(
    _key: ApiKey,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let Slot::Ready(serving) = app.slot() else { return Err(ApiError::loading()) };
    serving.check_model(Some(&id))?;
    Ok(Json(model(&serving)))
}

fn model(serving: &Serving) -> Value {
    let info = serving.engine.info();
    let (precision, target) = engine_labels(info);
    let sampling = info.generation.sampling();
    json!({
        "id": serving.name,
        "object": "model",
        "created": unix_seconds(serving.since),
        "owned_by": "arrcoc",
        "max_model_len": info.context_length,
        "arrcoc": {
            "precision": precision,
            "target": target,
            "token_budgets": info.token_budgets,
            "max_images": info.max_images,
            "images_first": info.images_first,
            // What a request gets that does not say.
            "defaults": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "repetition_penalty": sampling.repetition_penalty,
                "max_tokens": info.generation.max_new_tokens,
            },
        },
    })
}
