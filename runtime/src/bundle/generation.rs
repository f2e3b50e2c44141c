//! How tokens are picked where a request does not say: what a checkpoint's `generation_config.json` asks for.

use serde::{Deserialize, Serialize};

use crate::generate::{MaxTokens, Sampling};

/// The sampling defaults of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct GenerationSpec {
    /// Whether tokens are drawn; the likeliest one is taken otherwise.
    pub do_sample: bool,
    /// See [`Sampling`]; asked for where `do_sample` is true.
    pub temperature: f32,
    /// See [`Sampling`].
    pub top_p: f32,
    /// See [`Sampling`].
    pub top_k: usize,
    /// See [`Sampling`].
    pub min_p: f32,
    /// See [`Sampling`].
    pub repetition_penalty: f32,
    /// Most tokens of an answer, where the checkpoint says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
}

impl Default for GenerationSpec {
    /// The model's own distribution, as OpenAI's API has it: for bundles that say nothing.
    fn default() -> Self {
        let Sampling { temperature, top_p, top_k, min_p, repetition_penalty, .. } = Sampling::default();
        Self { do_sample: true, temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens: None }
    }
}

impl GenerationSpec {
    /// What a request gets that says nothing about sampling.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: if self.do_sample { self.temperature } else { 0.0 },
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            ..Sampling::default()
        }
    }

    /// The length of an answer whose request left it open.
    pub fn limit(&self, length: MaxTokens) -> MaxTokens {
        match (length, self.max_new_tokens) {
            (MaxTokens::AtMost(most), Some(own)) => MaxTokens::AtMost(most.min(own)),
            (length, _) => length,
        }
    }

    /// The first field whose value makes no sense, with what would and what is there.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str, String)> {
        let fields = [
            (
                "temperature",
                "a number above 0, at most 100",
                self.temperature > 0.0 && self.temperature <= 100.0,
                self.temperature,
            ),
            ("top_p", "a number above 0, at most 1", self.top_p > 0.0 && self.top_p <= 1.0, self.top_p),
            ("min_p", "0 to 1", (0.0..=1.0).contains(&self.min_p), self.min_p),
            (
                "repetition_penalty",
                "0.01 to 100",
                (0.01..=100.0).contains(&self.repetition_penalty),
                self.repetition_penalty,
            ),
        ];
        let wrong = fields.into_iter().find(|(_, _, sane, _)| !sane);
        let wrong = wrong.map(|(field, expected, _, found)| (field, expected, found.to_string()));
        wrong.or_else(|| {
            let zero = self.max_new_tokens == Some(0);
            zero.then(|| ("max_new_tokens", "at least 1", "0".to_owned()))
        })
    }
}
