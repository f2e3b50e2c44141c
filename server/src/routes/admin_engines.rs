//! `GET /admin/engines`: which engines there are, which are loaded, and how they fare.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use schemars::JsonSchema;
use serde::Serialize;

use super::Endpoint;
use crate::auth::AdminKey;
use crate::engines::Found;
use crate::error::ApiError;
use crate::openai::{List, unix_seconds};
use crate::openapi::{self, Answer, Key, Page};
use crate::state::{App, Phase, Purpose, Serving};

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/admin/engines",
        handler: get(handle),
        page: Page {
            method: "get",
            id: "listEngines",
            summary: "The engines, their state, memory and load, and those that could be swapped to",
            tag: "admin",
            key: Key::Admin,
            request: None,
            answer: Answer::Json("The engines", openapi::of::<List<Engine>>),
            errors: &[401, 403, 500],
        },
    }
}

async fn handle(_key: AdminKey, State(app): State<App>) -> Result<Json<List<Engine>>, ApiError> {
    let mut engines = Vec::new();
    if let Phase::Loading(since) = app.phase() {
        engines.push(Engine::Loading { state: LoadingState::Loading, since: unix_seconds(since) });
    }
    let loaded = app.loaded();
    engines.extend(
        loaded
            .iter()
            .map(|(purpose, serving)| Engine::Loaded(LoadedEngine::new(serving, *purpose, app.draining()))),
    );
    if let Some(source) = app.source.clone() {
        let found = tokio::task::spawn_blocking(move || source.list()).await.map_err(ApiError::internal)?;
        let found = found.map_err(ApiError::internal)?;
        engines.extend(found.iter().filter(|found| !is_loaded(found, &loaded)).map(candidate));
    }
    Ok(Json(engines.into()))
}

/// Whether an engine is in memory to stay.
fn is_loaded(found: &Found, loaded: &[(Purpose, Arc<Serving>)]) -> bool {
    let Ok(engine) = &found.engine else { return false };
    loaded.iter().any(|(purpose, serving)| *purpose != Purpose::Retiring && engine.is(serving.engine.info()))
}

/// An engine, in memory or not.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum Engine {
    /// The first engine, until it is there
    Loading {
        state: LoadingState,
        /// Seconds since 1970
        since: u64,
    },
    /// In memory
    Loaded(LoadedEngine),
    /// On disk
    Available(AvailableEngine),
    /// On disk, and wrong
    Unusable {
        state: UnusableState,
        directory: Option<String>,
        /// Why it cannot be used
        reason: String,
    },
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum LoadingState {
    Loading,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum UnusableState {
    Unusable,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum AvailableState {
    Available,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum LoadedState {
    /// New requests go to it
    Ready,
    /// It finishes what it has, and the server ends
    Draining,
    /// It cannot answer any more
    Unhealthy,
    /// It was swapped away from and can be swapped back to at once
    Kept,
    /// It was swapped away from and ends with its last request
    Unloading,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct AvailableEngine {
    model: String,
    precision: &'static str,
    target: &'static str,
    state: AvailableState,
    directory: Option<String>,
    context_length: usize,
    token_budgets: Vec<usize>,
    memory: Memory,
}

/// An engine in memory.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LoadedEngine {
    model: String,
    precision: &'static str,
    target: &'static str,
    runtime: String,
    checkpoint_sha256: String,
    state: LoadedState,
    /// Seconds since 1970
    since: u64,
    context_length: usize,
    token_budgets: Vec<usize>,
    kv_slots: usize,
    memory: Memory,
    load: Busy,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Memory {
    weight_bytes: u64,
    kv_bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Busy {
    running: usize,
    waiting: usize,
    kv_usage: f64,
}

/// An engine that is not loaded.
fn candidate(found: &Found) -> Engine {
    let directory = found.dir.file_name().map(|name| name.to_string_lossy().into_owned());
    match &found.engine {
        Err(reason) => Engine::Unusable { state: UnusableState::Unusable, directory, reason: reason.clone() },
        Ok(engine) => Engine::Available(AvailableEngine {
            model: engine.model.clone(),
            precision: engine.precision.name(),
            target: engine.target.name(),
            state: AvailableState::Available,
            directory,
            context_length: engine.context_length,
            token_budgets: engine.token_budgets.clone(),
            memory: Memory { weight_bytes: engine.weight_bytes, kv_bytes: engine.kv_bytes },
        }),
    }
}

impl LoadedEngine {
    pub(super) fn new(serving: &Serving, purpose: Purpose, draining: bool) -> Self {
        let (info, load) = (serving.engine.info(), serving.engine.occupancy());
        let state = match (serving.engine.healthy(), purpose) {
            (false, _) => LoadedState::Unhealthy,
            (true, Purpose::Kept) => LoadedState::Kept,
            (true, Purpose::Retiring) => LoadedState::Unloading,
            (true, Purpose::Serving) if draining => LoadedState::Draining,
            (true, Purpose::Serving) => LoadedState::Ready,
        };
        Self {
            model: serving.name.clone(),
            precision: info.precision.name(),
            target: info.target.name(),
            runtime: info.runtime.clone(),
            checkpoint_sha256: info.checkpoint_sha256.clone(),
            state,
            since: unix_seconds(serving.since),
            context_length: info.context_length,
            token_budgets: info.token_budgets.clone(),
            kv_slots: info.kv_slots,
            memory: Memory { weight_bytes: info.weight_bytes, kv_bytes: info.kv_bytes },
            load: Busy { running: load.running, waiting: load.waiting, kv_usage: load.kv_usage },
        }
    }
}
