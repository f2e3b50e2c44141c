//! The fields that chat and text completions share, and their limits.

use arrcoc_runtime::generate::{MaxTokens, Sampling};

use crate::config::Limits;
use crate::error::ApiError;
use crate::json::{Field, Object};

/// Most stop strings.
const MAX_STOPS: usize = 16;
/// Longest stop string, bytes: text that might become one is held back from a stream.
const MAX_STOP_BYTES: usize = 1024;
/// Most ids of `stop_token_ids`.
const MAX_STOP_IDS: usize = 128;

/// Names of the fields that both kinds of completion take.
pub(super) const SHARED: [&str; 18] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "logprobs",
];

/// What a request says about sampling; what it leaves out is the model's to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingFields {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<u64>,
    min_tokens: usize,
    ignore_eos: bool,
    stop_token_ids: Vec<u32>,
}

impl SamplingFields {
    pub(super) fn read(body: &Object<'_>, most_tokens: usize) -> Result<Self, ApiError> {
        let top_p = body.field("top_p");
        if top_p.number(0.0, 1.0)? == Some(0.0) {
            return Err(top_p.wrong("a number above 0, at most 1"));
        }
        // -1 is vLLM's way to say "all".
        let top_k = body.field("top_k").whole(-1, i64::from(u32::MAX))?;
        let min_tokens = body.field("min_tokens").whole(0, most_tokens as i64)?.unwrap_or(0);
        Ok(Self {
            temperature: body.field("temperature").number(0.0, 2.0)?,
            top_p: top_p.number(0.0, 1.0)?,
            top_k: top_k.map(|k| usize::try_from(k).unwrap_or(0)),
            min_p: body.field("min_p").number(0.0, 1.0)?,
            repetition_penalty: body.field("repetition_penalty").number(0.01, 10.0)?,
            presence_penalty: body.field("presence_penalty").number(-2.0, 2.0)?,
            frequency_penalty: body.field("frequency_penalty").number(-2.0, 2.0)?,
            // A negative seed is as good as any other.
            seed: body.field("seed").any_whole()?.map(i64::cast_unsigned),
            min_tokens: usize::try_from(min_tokens).unwrap_or(0),
            ignore_eos: body.field("ignore_eos").flag()?.unwrap_or(false),
            stop_token_ids: stop_token_ids(&body.field("stop_token_ids"))?,
        })
    }

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
        }
    }
}

fn stop_token_ids(field: &Field<'_>) -> Result<Vec<u32>, ApiError> {
    let ids = field.list("a list of token ids", MAX_STOP_IDS, "")?.unwrap_or_default();
    let id = |field: &Field<'_>| {
        let id = field.whole(0, i64::from(u32::MAX))?.and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| field.wrong("a token id"))
    };
    ids.iter().map(id).collect()
}

/// `stop`: nothing, a string or a list.
pub(super) fn stops(body: &Object<'_>) -> Result<Vec<String>, ApiError> {
    let field = body.field("stop");
    let stops = match field.is_text() {
        true => vec![field.clone()],
        false => field.list("a string or a list of strings", MAX_STOPS, "")?.unwrap_or_default(),
    };
    stops.iter().map(stop).collect()
}

fn stop(field: &Field<'_>) -> Result<String, ApiError> {
    let stop = field.text()?.filter(|stop| (1..=MAX_STOP_BYTES).contains(&stop.len()));
    let stop = stop.ok_or_else(|| field.wrong(format_args!("a string of 1 to {MAX_STOP_BYTES} bytes")))?;
    Ok(stop.into_owned())
}

/// `model`: any name; which one there is, is known later.
pub(super) fn model(body: &Object<'_>) -> Result<Option<String>, ApiError> {
    Ok(body.field("model").text()?.map(String::from))
}

/// `n`.
pub(super) fn choices(body: &Object<'_>, limits: &Limits) -> Result<usize, ApiError> {
    count(&body.field("n"), 1, limits.choices.0).map(|n| n.unwrap_or(1))
}

/// `max_tokens` under either of its names; `default` where it is not set and the server allows as many.
pub(super) fn max_tokens(field: &Field<'_>, default: usize, limits: &Limits) -> Result<MaxTokens, ApiError> {
    let most = limits.max_tokens.0;
    Ok(count(field, 1, most)?.map_or(MaxTokens::AtMost(default.min(most)), MaxTokens::Exactly))
}

/// A number of things.
pub(super) fn count(field: &Field<'_>, low: usize, high: usize) -> Result<Option<usize>, ApiError> {
    let (low, high) = (low as i64, i64::try_from(high).unwrap_or(i64::MAX));
    Ok(field.whole(low, high)?.and_then(|count| usize::try_from(count).ok()))
}

/// `stream`, and whether a stream ends with a usage chunk.
///
/// # Errors
/// 400 when `stream_options` come without `stream`, as with OpenAI.
pub(super) fn stream(body: &Object<'_>) -> Result<(bool, bool), ApiError> {
    let stream = body.field("stream").flag()?.unwrap_or(false);
    let field = body.field("stream_options");
    let Some(options) = field.object("an object with `include_usage`")? else { return Ok((stream, false)) };
    if !stream {
        let message = "`stream_options` is only allowed together with `stream: true`";
        return Err(ApiError::invalid("stream_options", message));
    }
    super::names::check_nested(&options, "stream_options", &["include_usage"])?;
    let every_chunk = options.field("continuous_usage_stats");
    if every_chunk.flag()? == Some(true) {
        return Err(ApiError::unsupported(every_chunk.path(), "the last chunk has the counts"));
    }
    Ok((stream, options.field("include_usage").flag()?.unwrap_or(false)))
}
