//! `GET /admin/engines`: what is loaded, and how it fares. Read-only; swapping engines will be a route beside this one.

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};

use super::Endpoint;
use crate::auth::AdminKey;
use crate::openai::{engine_labels, unix_seconds};
use crate::openapi::{errors, json_response};
use crate::state::{App, Serving, Slot};

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/admin/engines",
        handler: get(handle),
        document: json!({"get": {
            "operationId": "listEngines",
            "summary": "The engines, their state, memory and load",
            "tags": ["admin"],
            "security": [{"adminKey": []}],
            "responses": errors(json_response("The engines", "EngineList"), &[401, 403]),
        }}),
    }
}

async fn handle(_key: AdminKey, State(app): State<App>) -> Json<Value> {
    let engine = match app.slot() {
        Slot::Loading(since) => json!({"state": "loading", "since": unix_seconds(since)}),
        Slot::Ready(serving) => describe(&serving, app.draining()),
    };
    Json(json!({"object": "list", "data": [engine]}))
}

fn describe(serving: &Serving, draining: bool) -> Value {
    let (info, load) = (serving.engine.info(), serving.engine.load_now());
    let (precision, target) = engine_labels(info);
    let state = match (serving.engine.healthy(), draining) {
        (false, _) => "unhealthy",
        (true, true) => "draining",
        (true, false) => "ready",
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
