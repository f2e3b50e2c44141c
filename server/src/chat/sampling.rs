//! What a request says about sampling, and what the model's defaults add.

use arrcoc_runtime::generate::Sampling;

/// What a request says about sampling; what it leaves out is the model's to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingFields {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) seed: Option<u64>,
    pub(crate) min_tokens: usize,
    pub(crate) ignore_eos: bool,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) logit_bias: Vec<(u32, f32)>,
}

/// `top_k` as it is asked for; -1 is vLLM's way to say "all".
pub(crate) fn top_k(asked: Option<i64>) -> Option<usize> {
    asked.map(|k| usize::try_from(k).unwrap_or(0))
}

/// `seed` as it is asked for: a negative one is as good as any other.
pub(crate) fn seed(asked: Option<i64>) -> Option<u64> {
    asked.map(i64::cast_unsigned)
}

impl SamplingFields {
    /// What the request says, and the model's defaults where it says nothing.
    pub fn over(&self, defaults: &Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            seed: self.seed,
            min_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
            stop_token_ids: self.stop_token_ids.clone(),
            logit_bias: self.logit_bias.clone(),
        }
    }
}
