//! `GET /admin/engines`: which engines there are, which are loaded, and how they fare.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};

use super::Endpoint;
use crate::auth::AdminKey;
use crate::engines::Found;
use crate::error::ApiError;
use crate::openai::{engine_labels, unix_seconds};
use crate::openapi::{errors, json_response};
use crate::state::{App, Role, Serving, Slot};

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/admin/engines",
        handler: get(handle),
        document: json!({"get": {
            "operationId": "listEngines",
            "summary": "The engines, their state, memory and load, and those that could be swapped to",
            "tags": ["admin"],
            "security": [{"adminKey": []}],
            "responses": errors(json_response("The engines", "EngineList"), &[401, 403, 500]),
        }}),
    }
}

async fn handle(_key: AdminKey, State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let mut engines = Vec::new();
    if let Slot::Loading(since) = app.slot() {
        engines.push(json!({"state": "loading", "since": unix_seconds(since)}));
    }
    let loaded = app.loaded();
    engines.extend(loaded.iter().map(|(role, serving)| describe(serving, *role, app.draining())));
    if let Some(source) = app.source.clone() {
        let found = tokio::task::spawn_blocking(move || source.list()).await.map_err(ApiError::internal)?;
        let found = found.map_err(ApiError::internal)?;
        engines.extend(found.iter().filter(|found| !is_loaded(found, &loaded)).map(candidate));
    }
    Ok(Json(json!({"object": "list", "data": engines})))
}

/// Whether an engine is in memory to stay.
fn is_loaded(found: &Found, loaded: &[(Role, Arc<Serving>)]) -> bool {
    let Ok(engine) = &found.engine else { return false };
    loaded.iter().any(|(role, serving)| *role != Role::Retiring && engine.is(serving.engine.info()))
}

/// An engine that is not loaded.
fn candidate(found: &Found) -> Value {
    let directory = found.dir.file_name().map(|name| name.to_string_lossy().into_owned());
    match &found.engine {
        Err(reason) => json!({"state": "unusable", "directory": directory, "reason": reason}),
        Ok(engine) => json!({
            "model": engine.model,
            "precision": engine.precision,
            "target": engine.target,
            "state": "available",
            "directory": directory,
            "context_length": engine.context_length,
            "token_budgets": engine.token_budgets,
            "memory": {"weight_bytes": engine.weight_bytes, "kv_bytes": engine.kv_bytes},
        }),
    }
}

/// A loaded engine.
pub(super) fn describe(serving: &Serving, role: Role, draining: bool) -> Value {
    let (info, load) = (serving.engine.info(), serving.engine.load_now());
    let (precision, target) = engine_labels(info);
    let state = match (serving.engine.healthy(), role) {
        (false, _) => "unhealthy",
        (true, Role::Kept) => "kept",
        (true, Role::Retiring) => "unloading",
        (true, Role::Serving) if draining => "draining",
        (true, Role::Serving) => "ready",
    };
    json!({
        "model": serving.name,
        "precision": precision,
        "target": target,
        "runtime": info.runtime,
        "checkpoint_sha256": info.checkpoint_sha256,
        "state": state,
        "since": unix_seconds(serving.since),
        "context_length": info.context_length,
        "token_budgets": info.token_budgets,
        "kv_slots": info.kv_slots,
        "memory": {"weight_bytes": info.weight_bytes, "kv_bytes": info.kv_bytes},
        "load": {"running": load.running, "waiting": load.waiting, "kv_usage": load.kv_usage},
    })
}
