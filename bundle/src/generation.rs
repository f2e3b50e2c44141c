//! How tokens are picked where a request does not say: what a checkpoint's `generation_config.json` asks for.

use serde::{Deserialize, Serialize};

/// The sampling defaults of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct GenerationSpec {
    /// Whether tokens are drawn; the likeliest one is taken otherwise.
    pub do_sample: bool,
    /// 1 is the model's own distribution; asked for where `do_sample` is true.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probability reaches this, 0..=1.
    pub top_p: f32,
    /// Keep only this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep only tokens at least this share of the likeliest one's probability, 0..=1; 0 keeps all.
    pub min_p: f32,
    /// Divides (multiplies, when negative) the logit of every token seen so far; 1 does nothing.
    pub repetition_penalty: f32,
    /// Most tokens of an answer, where the checkpoint says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
}

impl Default for GenerationSpec {
    /// The model's own distribution, as OpenAI's API has it: for bundles that say nothing.
    fn default() -> Self {
        Self {
            do_sample: true,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_new_tokens: None,
        }
    }
}

impl GenerationSpec {
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
