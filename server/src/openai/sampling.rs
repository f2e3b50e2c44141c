//! The fields that chat and text completions share, and their limits.

use std::borrow::Cow;

use arrcoc_runtime::generate::MaxTokens;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::chat::{self, SamplingFields};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{
    self, Form as _, any_whole, by, check_nested, count_within, fields, flag, nested, number, text, whole,
};
use crate::json::Field;

/// Most stop strings.
const MAX_STOPS: usize = 16;
/// Longest stop string, bytes: text that might become one is held back from a stream.
const MAX_STOP_BYTES: usize = 1024;
/// Most ids of `stop_token_ids`.
const MAX_STOP_IDS: usize = 128;

fields! {
    /// The fields that both kinds of completion take.
    pub(super) struct Shared {
        model: Option<String> = text(), "Name of the model; the only one there is unless given";
        stream: bool = flag(), "Answer in pieces, as server-sent events";
        stream_options: Option<StreamOptions> = nested::<StreamOptions, _>(StreamOptions::of),
            "Only with `stream`";
        max_tokens: Option<usize> = count_within(0, |limits| limits.max_tokens.0), "";
        n: usize = count_within(1, |limits| limits.choices.0).or(1), "Answers";
        temperature: Option<f32> = number(0.0, 2.0),
            "0 is greedy; /v1/models lists the model's defaults of this and the next four";
        top_p: Option<f32> = number(0.0, 1.0).above(), "";
        top_k: Option<i64> = whole(-1, i64::from(u32::MAX)), "0 and -1 keep all tokens";
        min_p: Option<f32> = number(0.0, 1.0),
            "Keep tokens of at least this share of the likeliest one's probability";
        repetition_penalty: Option<f32> = number(0.01, 10.0), "";
        presence_penalty: Option<f32> = number(-2.0, 2.0), "";
        frequency_penalty: Option<f32> = number(-2.0, 2.0), "";
        seed: Option<i64> = any_whole(), "";
        min_tokens: usize = count_within(0, |limits| limits.max_tokens.0).or(0),
            "No end token and none of stop_token_ids before this many tokens";
        ignore_eos: bool = flag(), "Go on past the model's own end tokens";
        stop_token_ids: Vec<u32> = by(stop_token_ids, stop_token_ids_schema),
            "Ids that end an answer and are not part of its text";
        logit_bias: Vec<(u32, f32)> = by(logit_bias, logit_bias_schema),
            "What is added to the logits of token ids, -100 to 100";
        stop: Vec<String> = by(stops, stops_schema), "Strings that end an answer and are not part of it";
    }
}

fields! {
    /// `stream_options`.
    pub(super) struct StreamOptions {
        include_usage: bool = flag(), "End the stream with a chunk of token counts";
        continuous_usage_stats: bool = flag(), "Only false is taken: the last chunk has the counts";
    }
}

impl StreamOptions {
    fn of(field: &Field<'_>, limits: &Limits) -> Result<Option<Self>, ApiError> {
        let Some(object) = field.object("an object with `include_usage`")? else { return Ok(None) };
        check_nested(&object, field.path(), Self::NAMES)?;
        let options = Self::read(&object, limits)?;
        if options.continuous_usage_stats {
            let field = object.field("continuous_usage_stats");
            return Err(ApiError::unsupported(field.path(), "the last chunk has the counts"));
        }
        Ok(Some(options))
    }
}

impl Shared {
    /// Whether to stream, and whether the stream ends with a chunk of token counts.
    ///
    /// # Errors
    /// 400 when `stream_options` come without `stream`, as with OpenAI.
    pub(super) fn stream(&self) -> Result<(bool, bool), ApiError> {
        match &self.stream_options {
            Some(_) if !self.stream => {
                let message = "`stream_options` is only allowed together with `stream: true`";
                Err(ApiError::invalid("stream_options", message))
            }
            options => Ok((self.stream, options.as_ref().is_some_and(|options| options.include_usage))),
        }
    }
}

impl JsonSchema for StreamOptions {
    fn schema_name() -> Cow<'static, str> {
        "StreamOptions".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Self::describe])
    }
}

/// What a request says about sampling.
pub(super) fn sampling(shared: &Shared) -> SamplingFields {
    SamplingFields {
        temperature: shared.temperature,
        top_p: shared.top_p,
        top_k: chat::top_k(shared.top_k),
        min_p: shared.min_p,
        repetition_penalty: shared.repetition_penalty,
        presence_penalty: shared.presence_penalty,
        frequency_penalty: shared.frequency_penalty,
        seed: chat::seed(shared.seed),
        min_tokens: shared.min_tokens,
        ignore_eos: shared.ignore_eos,
        stop_token_ids: shared.stop_token_ids.clone(),
        logit_bias: shared.logit_bias.clone(),
    }
}

pub(super) fn stop_token_ids(field: &Field<'_>, _: &Limits) -> Result<Vec<u32>, ApiError> {
    let ids = field.list("a list of token ids", MAX_STOP_IDS, "")?.unwrap_or_default();
    let id = |field: &Field<'_>| {
        let id = field.whole(0, i64::from(u32::MAX))?.and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| field.wrong("a token id"))
    };
    ids.iter().map(id).collect()
}

pub(super) fn stop_token_ids_schema(_: &mut SchemaGenerator) -> Schema {
    let id = json_schema!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    json_schema!({"type": ["array", "null"], "maxItems": MAX_STOP_IDS, "items": id})
}

/// `logit_bias`: an object of token ids and numbers.
pub(super) fn logit_bias(field: &Field<'_>, _: &Limits) -> Result<Vec<(u32, f32)>, ApiError> {
    let expected = "an object of token ids and numbers";
    let Some(object) = field.object(expected)? else { return Ok(Vec::new()) };
    let names: Vec<String> = object.names().map(str::to_owned).collect();
    let bias = |name: &String| {
        let id: u32 = name.parse().map_err(|_| field.wrong(expected))?;
        if id.to_string() != *name {
            return Err(field.wrong(expected));
        }
        let bias = object.field(name);
        Ok((id, bias.number(-100.0, 100.0)?.ok_or_else(|| bias.wrong("a number from -100 to 100"))?))
    };
    names.iter().map(bias).collect()
}

pub(super) fn logit_bias_schema(_: &mut SchemaGenerator) -> Schema {
    let bias = json_schema!({"type": "number", "minimum": -100, "maximum": 100});
    json_schema!({"type": ["object", "null"], "additionalProperties": bias, "propertyNames": {"pattern": "^[0-9]+$"}})
}

/// `stop`: nothing, a string or a list.
pub(crate) fn stops(field: &Field<'_>, _: &Limits) -> Result<Vec<String>, ApiError> {
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

pub(crate) fn stops_schema(_: &mut SchemaGenerator) -> Schema {
    // Bytes are counted, and a character has one at least.
    let stop = json_schema!({"type": "string", "minLength": 1, "maxLength": MAX_STOP_BYTES});
    json_schema!({"oneOf": [stop, {"type": "array", "maxItems": MAX_STOPS, "items": stop}, {"type": "null"}]})
}

/// `max_tokens` under either of its names; `default` where it is not set and the server allows as many.
pub(super) fn max_tokens(asked: Option<usize>, default: usize, limits: &Limits) -> MaxTokens {
    asked.map_or(MaxTokens::AtMost(default.min(limits.max_tokens.0)), MaxTokens::Exactly)
}
