//! What Ollama's clients ask of models before they use one.

use arrcoc_runtime::model::ModelInfo;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::moment;
use crate::state::Serving;

/// What `/api/tags` and `/api/ps` answer.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "OllamaTags")]
pub struct Tags {
    /// The models.
    pub models: Vec<Tag>,
}

/// A model of the list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OllamaTag")]
pub struct Tag {
    name: String,
    model: String,
    modified_at: String,
    /// Bytes of weights
    size: u64,
    digest: String,
    details: Details,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Details {
    parent_model: &'static str,
    format: &'static str,
    family: String,
    families: Vec<String>,
    parameter_size: &'static str,
    quantization_level: &'static str,
}

impl Details {
    fn of(info: &ModelInfo) -> Self {
        Self {
            parent_model: "",
            format: "onnx",
            family: info.family.clone(),
            families: vec![info.family.clone()],
            parameter_size: "",
            quantization_level: info.precision.name(),
        }
    }
}

impl Tag {
    /// The engine that serves.
    pub fn of(serving: &Serving) -> Self {
        let info = serving.engine.info();
        Self {
            name: serving.name.clone(),
            model: serving.name.clone(),
            modified_at: moment(serving.since),
            size: info.weight_bytes,
            digest: info.checkpoint_sha256.clone(),
            details: Details::of(info),
        }
    }
}

/// What `/api/show` answers.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OllamaModel")]
pub struct Shown {
    modelfile: &'static str,
    parameters: &'static str,
    template: &'static str,
    details: Details,
    model_info: Map<String, Value>,
    capabilities: Vec<&'static str>,
    modified_at: String,
}

impl Shown {
    /// The engine that serves.
    pub fn of(serving: &Serving) -> Self {
        let info = serving.engine.info();
        let family = &info.family;
        let facts = [
            ("general.architecture".to_owned(), Value::from(family.as_str())),
            (format!("{family}.context_length"), info.context_length.into()),
        ];
        Self {
            modelfile: "",
            parameters: "",
            template: "",
            details: Details::of(info),
            model_info: facts.into_iter().collect(),
            capabilities: vec!["completion", "vision", "tools"],
            modified_at: moment(serving.since),
        }
    }
}
