//! The fields that speak to the model's template, above all whether it thinks before it answers.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{Form as _, by, check_own, fields, optional_flag};
use crate::json::Field;

/// Longest JSON of a template's variables, bytes: they are switches and short texts.
const MOST_BYTES: usize = 16 << 10;

/// The variable that templates of models with two modes read.
const ENABLE_THINKING: &str = "enable_thinking";
const REASONING_EFFORT: &str = "reasoning_effort";

/// What OpenAI's models know as efforts.
const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];

fields! {
    /// What reaches the template besides the messages.
    pub(super) struct Thinking {
        chat_template_kwargs: Option<Map<String, Value>> = by(variables, variables_schema),
            "Variables of the model's template, as `enable_thinking`; strings in them are text and hold no control tokens";
        enable_thinking: Option<bool> = optional_flag(),
            "Whether a model with both modes thinks first: that variable of `chat_template_kwargs`";
        thinking: Option<bool> = by(switch, switch_schema),
            "The same, as `{\"type\": \"enabled\"}` or `disabled`";
        reasoning_effort: Option<&'static str> = by(effort, effort_schema),
            "Given to the template; `none` is `enable_thinking: false` besides";
        include_reasoning: bool = optional_flag().or(true),
            "Whether answers hold `reasoning_content`, what the model thought before it answered";
    }
}

impl Thinking {
    /// The template's variables. What stands in `chat_template_kwargs` may not be said otherwise beside it.
    pub(super) fn variables(&self) -> Result<Map<String, Value>, ApiError> {
        let mut variables = self.chat_template_kwargs.clone().unwrap_or_default();
        let without = (self.reasoning_effort == Some("none")).then_some(false);
        let said = [
            (ENABLE_THINKING, self.enable_thinking.map(Value::from)),
            (ENABLE_THINKING, self.thinking.map(Value::from)),
            (ENABLE_THINKING, without.map(Value::from)),
            (REASONING_EFFORT, self.reasoning_effort.map(Value::from)),
        ];
        for (name, value) in said {
            let Some(value) = value else { continue };
            let before = variables.entry(name).or_insert_with(|| value.clone());
            if *before != value {
                let message = format!("expected one value of `{name}`, found {before} and {value}");
                return Err(ApiError::invalid(name, message));
            }
        }
        Ok(variables)
    }
}

fn variables(field: &Field<'_>, _: &Limits) -> Result<Option<Map<String, Value>>, ApiError> {
    field.map("an object", MOST_BYTES)
}

fn variables_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["object", "null"], "additionalProperties": true})
}

/// The switch of other servers.
fn switch(field: &Field<'_>, _: &Limits) -> Result<Option<bool>, ApiError> {
    let expected = "an object with the `type` `enabled` or `disabled`";
    let Some(object) = field.object(expected)? else { return Ok(None) };
    check_own(&object, field.path(), &["type"])?;
    match object.field("type").text()?.as_deref() {
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        _ => Err(field.wrong(expected)),
    }
}

fn switch_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "required": ["type"],
        "properties": {"type": {"enum": ["enabled", "disabled"]}},
    })
}

/// `reasoning.effort` of a response.
pub(in crate::openai) fn effort_of(field: &Field<'_>) -> Result<Option<&'static str>, ApiError> {
    let Some(found) = field.text()? else { return Ok(None) };
    let known = EFFORTS.into_iter().find(|effort| *effort == found);
    known.map(Some).ok_or_else(|| field.wrong(format_args!("one of {}", EFFORTS.join(", "))))
}

fn effort(field: &Field<'_>, _: &Limits) -> Result<Option<&'static str>, ApiError> {
    effort_of(field)
}

fn effort_schema(_: &mut SchemaGenerator) -> Schema {
    let known: Vec<Value> = EFFORTS.into_iter().map(Value::from).chain([Value::Null]).collect();
    json_schema!({"enum": known})
}
