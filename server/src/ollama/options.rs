//! `options`: how tokens are picked, and much that is the operator's to say here.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::chat::{self, SamplingFields};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{self, Refused, any_whole, by, fields, number, refused, whole};
use crate::json::Field;
use crate::openai::{stops, stops_schema};

fields! {
    /// `options`.
    #[derive(Default)]
    pub(super) struct Options {
        temperature: Option<f32> = number(0.0, 2.0), "";
        top_p: Option<f32> = number(0.0, 1.0).above(), "";
        top_k: Option<i64> = whole(-1, i64::from(u32::MAX)), "";
        min_p: Option<f32> = number(0.0, 1.0), "";
        repeat_penalty: Option<f32> = number(0.01, 10.0), "";
        presence_penalty: Option<f32> = number(-2.0, 2.0), "";
        frequency_penalty: Option<f32> = number(-2.0, 2.0), "";
        seed: Option<i64> = any_whole(), "";
        num_predict: Option<i64> = whole(-2, i64::from(u32::MAX)), "Most tokens; 0 and less: as many as there is room for";
        stop: Vec<String> = by(stops, stops_schema), "";
    }
}

/// Options that would change the answer.
const REFUSED: &[Refused] = &[
    refused("mirostat", &["0"], "leave it out"),
    refused("typical_p", &["1", "1.0"], "leave it out"),
    refused("tfs_z", &["1", "1.0"], "leave it out"),
];

/// Options of Ollama's engine, whose like the operator sets here, and `num_ctx`: the context is as long as it
/// is, and what does not fit is refused by name.
const WITHOUT_EFFECT: &[&str] = &[
    "num_ctx",
    "num_keep",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "use_mmap",
    "use_mlock",
    "numa",
    "low_vram",
    "f16_kv",
    "vocab_only",
    "logits_all",
    "embedding_only",
    "repeat_last_n",
    "penalize_newline",
    "mirostat_tau",
    "mirostat_eta",
    "draft_num_predict",
];

impl Options {
    pub(super) fn of(field: &Field<'_>, limits: &Limits) -> Result<Self, ApiError> {
        let Some(object) = field.object("an object")? else { return Ok(Self::default()) };
        fields::check(&object, &[Self::NAMES], &[REFUSED], WITHOUT_EFFECT)?;
        Self::read(&object, limits)
    }

    pub(super) fn sampling(&self) -> SamplingFields {
        SamplingFields {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: chat::top_k(self.top_k),
            min_p: self.min_p,
            repetition_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: chat::seed(self.seed),
            ..SamplingFields::default()
        }
    }

    /// Most tokens of an answer.
    pub(super) fn length(&self, limits: &Limits) -> usize {
        let most = limits.max_tokens.0;
        let asked = self.num_predict.and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
        asked.map_or(most, |count| count.min(most))
    }
}

impl JsonSchema for Options {
    fn schema_name() -> Cow<'static, str> {
        "OllamaOptions".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Self::describe])
    }
}
