//! The fields that chat and text completions share, and their limits.

use arrcoc_runtime::generate::{Budget, MaxTokens, Sampling};
use serde::Deserialize;
use serde_json::Value;

use super::field::{TextOr, number, whole};
use crate::config::Limits;
use crate::error::ApiError;

/// Most stop strings.
const MAX_STOPS: usize = 16;
/// Longest stop string, bytes: text that might become one is held back from a stream.
const MAX_STOP_BYTES: usize = 1024;

/// The sampling fields of a request, as written.
#[derive(Debug, Clone, Default)]
pub(super) struct RawSampling {
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) top_k: Option<i64>,
    pub(super) repetition_penalty: Option<f64>,
    pub(super) presence_penalty: Option<f64>,
    pub(super) frequency_penalty: Option<f64>,
    pub(super) seed: Option<i64>,
}

impl RawSampling {
    pub(super) fn check(&self) -> Result<Sampling, ApiError> {
        let default = Sampling::default();
        let top_k = match self.top_k {
            // vLLM's way to say "all".
            None | Some(-1) => 0,
            Some(k) => whole("top_k", k, 0, i64::from(u32::MAX))?,
        };
        let top_p = number("top_p", self.top_p, 0.0, 1.0, default.top_p.into())?;
        if top_p == 0.0 {
            return Err(ApiError::invalid("top_p", "`top_p`: expected a number above 0, at most 1, found 0"));
        }
        Ok(Sampling {
            temperature: number("temperature", self.temperature, 0.0, 2.0, default.temperature.into())?,
            top_p,
            top_k,
            repetition_penalty: number("repetition_penalty", self.repetition_penalty, 0.01, 10.0, 1.0)?,
            presence_penalty: number("presence_penalty", self.presence_penalty, -2.0, 2.0, 0.0)?,
            frequency_penalty: number("frequency_penalty", self.frequency_penalty, -2.0, 2.0, 0.0)?,
            // A negative seed is as good as any other.
            seed: self.seed.map(i64::cast_unsigned),
        })
    }
}

/// `stop`: nothing, a string or a list.
pub(super) fn stops(stop: Option<TextOr<String>>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => Vec::new(),
        Some(TextOr::Text(text)) => vec![text],
        Some(TextOr::List(list)) => list,
    };
    if stops.len() > MAX_STOPS {
        let message = format!("`stop`: expected at most {MAX_STOPS} strings, found {}", stops.len());
        return Err(ApiError::invalid("stop", message));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        let message = format!("`stop`: expected strings of 1 to {MAX_STOP_BYTES} bytes");
        return Err(ApiError::invalid("stop", message));
    }
    Ok(stops)
}

/// `n`.
pub(super) fn choices(n: Option<i64>, limits: &Limits) -> Result<usize, ApiError> {
    whole("n", n.unwrap_or(1), 1, limits.choices.0 as i64)
}

/// `max_tokens` under either of its names; `default` where it is not set and the server allows as many.
pub(super) fn max_tokens(
    name: &str,
    value: Option<i64>,
    default: usize,
    limits: &Limits,
) -> Result<MaxTokens, ApiError> {
    let most = limits.max_tokens.0;
    match value {
        Some(value) => whole(name, value, 1, most as i64).map(MaxTokens::Exactly),
        None => Ok(MaxTokens::AtMost(default.min(most))),
    }
}

/// OpenAI's `stream_options`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct StreamOptions {
    /// Send usage in a last chunk.
    pub include_usage: Option<bool>,
}

/// Whether a stream ends with a usage chunk.
///
/// # Errors
/// 400 when `stream_options` come without `stream`, as with OpenAI.
pub(super) fn include_usage(stream: bool, options: Option<StreamOptions>) -> Result<bool, ApiError> {
    match options {
        Some(_) if !stream => Err(ApiError::invalid(
            "stream_options",
            "`stream_options` is only allowed together with `stream: true`",
        )),
        Some(options) => Ok(options.include_usage.unwrap_or(false)),
        None => Ok(false),
    }
}

/// Our extension.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Extension {
    budget: Option<Value>,
    explain: Option<bool>,
}

impl Extension {
    /// Budget and `explain`. Whether the model has that budget is the runtime's to say.
    pub(super) fn check(&self) -> Result<(Budget, bool), ApiError> {
        let budget = match &self.budget {
            None | Some(Value::Null) => Budget::Auto,
            Some(Value::String(text)) if text == "auto" => Budget::Auto,
            Some(Value::String(text)) if text == "full" => Budget::Full,
            Some(Value::Number(number)) if number.as_u64().is_some_and(|n| (1..=1 << 20).contains(&n)) => {
                Budget::Tokens(number.as_u64().unwrap_or_default() as usize)
            }
            Some(other) => {
                let message = format!(
                    "`arrcoc.budget`: expected \"auto\", \"full\" or a number of tokens, found {other}"
                );
                return Err(ApiError::invalid("arrcoc.budget", message));
            }
        };
        Ok((budget, self.explain.unwrap_or(false)))
    }
}
