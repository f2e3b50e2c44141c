//! `GET /v1/models` and `GET /v1/models/{id}`: what can be asked for.

use arrcoc_runtime::generate::{Budget, Sampling};
use axum::Json;
use axum::extract::{Path, State};
use axum::routing::get;
use schemars::JsonSchema;
use serde::Serialize;

use super::Endpoint;
use crate::auth::ApiKey;
use crate::error::ApiError;
use crate::openai::{List, budget_schema, unix_seconds};
use crate::openapi::{self, Answer, Key, Page};
use crate::state::{App, Phase, Serving};

pub(super) fn list() -> Endpoint {
    Endpoint {
        path: "/v1/models",
        handler: get(handle_list),
        page: Page {
            method: "get",
            id: "listModels",
            summary: "The models that can be asked; none while loading",
            tag: "openai",
            key: Key::Api,
            request: None,
            answer: Answer::Json("The models", openapi::of::<List<Model>>),
            errors: &[401],
        },
    }
}

pub(super) fn one() -> Endpoint {
    Endpoint {
        // The rest of the path: a model's name may hold slashes.
        path: "/v1/models/{*id}",
        handler: get(handle_one),
        page: Page {
            method: "get",
            id: "retrieveModel",
            summary: "One model",
            tag: "openai",
            key: Key::Api,
            request: None,
            answer: Answer::Json("The model", openapi::of::<Model>),
            errors: &[401, 404, 503],
        },
    }
}

async fn handle_list(_key: ApiKey, State(app): State<App>) -> Json<List<Model>> {
    let models = match app.phase() {
        Phase::Ready(serving) => vec![Model::new(&serving, app.config.limits.images)],
        Phase::Loading(_) => vec![],
    };
    Json(models.into())
}

async fn handle_one(
    _key: ApiKey,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    let Phase::Ready(serving) = app.phase() else { return Err(ApiError::loading()) };
    serving.check_model(Some(&id))?;
    Ok(Json(Model::new(&serving, app.config.limits.images)))
}

/// A model that can be asked.
#[derive(Debug, Serialize, JsonSchema)]
struct Model {
    id: String,
    object: ModelObject,
    /// When it was ready, in seconds since 1970
    created: u64,
    owned_by: &'static str,
    /// Longest prompt plus answer, tokens
    max_model_len: usize,
    arrcoc: Details,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum ModelObject {
    Model,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Details {
    precision: &'static str,
    target: &'static str,
    /// Visual tokens that a request may ask for; empty where it may ask for any number
    token_budgets: Vec<usize>,
    /// How a request may have tokens chosen; empty where the model has an allocator of its own
    selectors: Vec<&'static str>,
    /// Which levels of rows for deeper layers a request may grant; empty where there are none
    depths: Vec<&'static str>,
    max_images: usize,
    /// Whether images go before the text of their message
    images_first: bool,
    defaults: Defaults,
}

/// What a request gets that does not say
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Defaults {
    /// Visual tokens per image, as `arrcoc.budget` has it
    #[schemars(schema_with = "budget_schema")]
    budget: Budget,
    temperature: f64,
    top_p: f64,
    top_k: usize,
    min_p: f64,
    repetition_penalty: f64,
    max_tokens: Option<usize>,
}

impl Model {
    fn new(serving: &Serving, max_images: usize) -> Self {
        let info = serving.engine.info();
        let sampling = Sampling::of(&info.generation);
        Self {
            id: serving.name.clone(),
            object: ModelObject::Model,
            created: unix_seconds(serving.since),
            owned_by: "arrcoc",
            max_model_len: info.context_length,
            arrcoc: Details {
                precision: info.precision.name(),
                target: info.target.name(),
                token_budgets: info.token_budgets.clone(),
                selectors: info.selectors.iter().map(|selector| selector.name()).collect(),
                depths: info.depths.iter().map(|depth| depth.name()).collect(),
                max_images,
                images_first: info.images_first,
                defaults: Defaults {
                    budget: info.default_budget,
                    temperature: sampling.temperature.into(),
                    top_p: sampling.top_p.into(),
                    top_k: sampling.top_k,
                    min_p: sampling.min_p.into(),
                    repetition_penalty: sampling.repetition_penalty.into(),
                    max_tokens: info.generation.max_new_tokens,
                },
            },
        }
    }
}
