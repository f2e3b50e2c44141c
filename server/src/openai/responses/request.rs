//! The body of `POST /v1/responses`, its form checked.

use std::borrow::Cow;

use arrcoc_runtime::generate::{Form, Sizing, Speaker, Tools};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::input;
use super::response::Echo;
use crate::chat::{self, Chat, Counter, MOST_TOOL_BYTES, MOST_TOOLS, Message, Names, Piece, SamplingFields};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{
    self, Form as _, Refused, any_whole, by, check_nested, count, count_within, fields, flag, nested, number,
    optional_flag, raw, refused, text, whole,
};
use crate::json::{Body, Field, Object};
use crate::openai::chat::MAX_TOP_LOGPROBS;
use crate::openai::extension::Extension;
use crate::openai::sampling::{
    logit_bias, logit_bias_schema, max_tokens, stop_token_ids, stop_token_ids_schema,
};
use crate::openai::{ELSEWHERE, form, tools};

/// Longest JSON of what is only given back, bytes.
const MOST_BYTES: usize = 64 << 10;

fields! {
    /// The fields.
    struct Own<'a> {
        model: Option<String> = text(), "Name of the model; the only one there is unless given";
        input: Field<'a> = raw(input::schema).required(), "A text, or items: messages, calls, results of calls";
        instructions: Option<String> = text(), "What comes before all of it; not kept for the next request";
        previous_response_id: Option<String> = text(), "The response that this one goes on from";
        store: bool = optional_flag().or(true), "Keep the response for requests that go on from it";
        stream: bool = flag(), "Answer in events";
        max_output_tokens: Option<usize> = count_within(1, |limits| limits.max_tokens.0), "";
        temperature: Option<f32> = number(0.0, 2.0), "";
        top_p: Option<f32> = number(0.0, 1.0).above(), "";
        top_k: Option<i64> = whole(-1, i64::from(u32::MAX)), "";
        min_p: Option<f32> = number(0.0, 1.0), "";
        repetition_penalty: Option<f32> = number(0.01, 10.0), "";
        presence_penalty: Option<f32> = number(-2.0, 2.0), "";
        frequency_penalty: Option<f32> = number(-2.0, 2.0), "";
        seed: Option<i64> = any_whole(), "";
        min_tokens: usize = count_within(0, |limits| limits.max_tokens.0).or(0), "";
        ignore_eos: bool = flag(), "";
        stop_token_ids: Vec<u32> = by(stop_token_ids, stop_token_ids_schema), "";
        logit_bias: Vec<(u32, f32)> = by(logit_bias, logit_bias_schema), "";
        text: Field<'a> = raw(text_schema), "`format` says what the answer must look like";
        tools: Field<'a> = raw(tools_schema), "Functions that the model may call";
        tool_choice: Field<'a> = raw(|_| json_schema!({"type": ["string", "object", "null"]})), "";
        parallel_tool_calls: Option<bool> = optional_flag(), "";
        reasoning: Field<'a> = raw(|_| json_schema!({"type": ["object", "null"]})), "`effort` reaches the template";
        include: Field<'a> = raw(include_schema), "";
        top_logprobs: Option<usize> = count(0, MAX_TOP_LOGPROBS), "";
        truncation: Field<'a> = raw(|_| json_schema!({"enum": ["disabled", null]})), "";
        metadata: Option<Map<String, Value>> = by(metadata, |_| json_schema!({"type": ["object", "null"]})), "";
        arrcoc: Extension = nested::<Extension, _>(Extension::of), "";
    }
}

/// Fields that would change the answer.
const REFUSED: &[Refused] = &[
    refused("conversation", &[], "send `previous_response_id`"),
    refused("background", &[], "answers come while the client waits"),
    refused("prompt", &[], "send `input`; there are no stored prompts"),
    refused("max_tool_calls", &[], "the caller runs its tools, and may stop"),
    refused("context_management", &[], "shorten the input yourself"),
    refused("messages", &[], "it is `input` here; /v1/chat/completions takes messages"),
    refused("max_tokens", &[], "it is `max_output_tokens` here"),
    refused("max_completion_tokens", &[], "it is `max_output_tokens` here"),
    refused("response_format", &[], "it is `text.format` here"),
    refused("n", &["1"], "a response has one answer"),
    refused("stop", &["[]"], "/v1/chat/completions has it"),
];

/// Fields that are taken and change no answer.
const WITHOUT_EFFECT: &[&str] = &[
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "verbosity",
    "client_metadata",
    "stream_options",
];

/// A request for a response.
#[derive(Debug, Clone)]
pub struct ResponseRequest {
    /// The conversation without what it goes on from, and how to answer it.
    pub chat: Chat,
    /// Whether the first message is `instructions`.
    pub instructed: bool,
    /// What it goes on from.
    pub previous: Option<String>,
    /// Keep the response.
    pub store: bool,
    /// Answer in events.
    pub stream: bool,
    /// What the response repeats.
    pub echo: Echo,
}

impl JsonSchema for ResponseRequest {
    fn schema_name() -> Cow<'static, str> {
        "ResponseRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Own::describe])
    }
}

impl Body for ResponseRequest {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        fields::check(body, &[Own::NAMES], &[REFUSED, ELSEWHERE], WITHOUT_EFFECT)?;
        let own = Own::read(body, limits)?;
        if own.truncation.is_set() && !own.truncation.is_one_of(&["\"disabled\""]) {
            return Err(ApiError::unsupported("truncation", "shorten the input yourself, or leave it out"));
        }
        let mut counter = Counter::new(limits, "input");
        let mut messages = Vec::new();
        if let Some(instructions) = &own.instructions {
            counter.add(instructions.len())?;
            messages.push(Message::new(Speaker::System, vec![Piece::Text(instructions.clone())]));
        }
        messages.extend(input::messages(&own.input, &mut counter)?);
        let (tools, echoed_tools) = offered(&own)?;
        let (effort, variables) = reasoning(&own.reasoning)?;
        let form = text_form(&own.text, limits)?;
        let echo = Echo {
            instructions: own.instructions.clone(),
            previous_response_id: own.previous_response_id.clone(),
            max_output_tokens: own.max_output_tokens,
            temperature: own.temperature,
            top_p: own.top_p,
            top_logprobs: own.top_logprobs,
            parallel_tool_calls: own.parallel_tool_calls.unwrap_or(true),
            tools: echoed_tools,
            tool_choice: own.tool_choice.value("a choice", MOST_BYTES)?.unwrap_or_else(|| "auto".into()),
            text: own
                .text
                .value("an object", MOST_TOOL_BYTES)?
                .unwrap_or_else(|| json!({"format": {"type": "text"}})),
            effort,
            metadata: own.metadata.clone().unwrap_or_default(),
        };
        let chat = Chat {
            model: own.model.clone(),
            messages,
            tools,
            max_tokens: max_tokens(own.max_output_tokens, limits.max_tokens.0, limits),
            choices: 1,
            sampling: sampling(&own),
            stop: Vec::new(),
            top_logprobs: logprobs(&own.include)?.then_some(own.top_logprobs.unwrap_or(0)),
            budget: own.arrcoc.budget,
            selection: own.arrcoc.selection(),
            sizing: Sizing { skip_blank: own.arrcoc.skip_blank, ..Sizing::default() },
            explain: own.arrcoc.explain,
            form,
            variables,
            names: Names {
                max_tokens: "max_output_tokens",
                form: "text.format",
                messages: "input",
                tools: "tools",
            },
        };
        Ok(Self {
            chat,
            instructed: own.instructions.is_some(),
            previous: own.previous_response_id,
            store: own.store,
            stream: own.stream,
            echo,
        })
    }
}

fn sampling(own: &Own<'_>) -> SamplingFields {
    SamplingFields {
        temperature: own.temperature,
        top_p: own.top_p,
        top_k: chat::top_k(own.top_k),
        min_p: own.min_p,
        repetition_penalty: own.repetition_penalty,
        presence_penalty: own.presence_penalty,
        frequency_penalty: own.frequency_penalty,
        seed: chat::seed(own.seed),
        min_tokens: own.min_tokens,
        ignore_eos: own.ignore_eos,
        stop_token_ids: own.stop_token_ids.clone(),
        logit_bias: own.logit_bias.clone(),
    }
}

/// `tools`, whose functions stand beside their `type` here, and as the response repeats them.
fn offered(own: &Own<'_>) -> Result<(Tools, Vec<Value>), ApiError> {
    let list = own.tools.list("a list of tools", MOST_TOOLS, "")?.unwrap_or_default();
    let mut echoed = Vec::new();
    let mut functions = Vec::new();
    for tool in &list {
        let expected = "an object with the `type` `function`, `name` and `parameters`";
        let object = tool.object(expected)?.ok_or_else(|| tool.wrong(expected))?;
        let kind = object.field("type");
        match kind.text()?.as_deref() {
            Some("function") => {}
            Some(_) => {
                return Err(ApiError::unsupported(kind.path(), "tools are functions; the caller runs them"));
            }
            None => return Err(tool.wrong(expected)),
        }
        let mut written = tool.map(expected, MOST_TOOL_BYTES)?.unwrap_or_default();
        echoed.push(repeated(&written));
        written.retain(|name, _| ["name", "description", "parameters", "strict"].contains(&name.as_str()));
        functions.push(tools::function(tool, json!({"type": "function", "function": written}), &["type"])?);
    }
    let tools = tools::offered(functions, &own.tool_choice, own.parallel_tool_calls == Some(false))?;
    Ok((tools, echoed))
}

/// A tool as responses repeat it: with all its fields.
fn repeated(tool: &Map<String, Value>) -> Value {
    let mut tool = tool.clone();
    for name in ["parameters", "strict"] {
        tool.entry(name).or_insert(Value::Null);
    }
    tool.into()
}

/// `text.format`.
fn text_form(field: &Field<'_>, limits: &Limits) -> Result<Option<Form>, ApiError> {
    let Some(object) = field.object("an object with `format`")? else { return Ok(None) };
    check_nested(&object, field.path(), &["format", "verbosity"])?;
    form::text_format(&object.field("format"), limits)
}

/// `reasoning.effort`, and what the template is told.
fn reasoning(field: &Field<'_>) -> Result<(Option<String>, Map<String, Value>), ApiError> {
    let mut variables = Map::new();
    let Some(object) = field.object("an object with `effort`")? else { return Ok((None, variables)) };
    check_nested(&object, field.path(), &["effort", "summary", "generate_summary", "context"])?;
    let effort = crate::openai::chat::effort_of(&object.field("effort"))?;
    if let Some(effort) = effort {
        variables.insert("reasoning_effort".into(), effort.into());
        if effort == "none" {
            variables.insert("enable_thinking".into(), false.into());
        }
    }
    Ok((effort.map(str::to_owned), variables))
}

/// Whether `include` asks for log-probabilities; what else it may ask for is never there.
fn logprobs(field: &Field<'_>) -> Result<bool, ApiError> {
    let list = field.list("a list of strings", 32, "")?.unwrap_or_default();
    let mut found = false;
    for name in &list {
        found |= name.text()?.as_deref() == Some("message.output_text.logprobs");
    }
    Ok(found)
}

fn metadata(field: &Field<'_>, _: &Limits) -> Result<Option<Map<String, Value>>, ApiError> {
    field.map("an object", MOST_BYTES)
}

fn text_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["object", "null"], "properties": {
        "format": {"type": ["object", "null"], "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "name": {"type": ["string", "null"]},
            "schema": {"type": ["object", "boolean"]},
        }},
    }})
}

fn tools_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "items": {
        "type": "object",
        "required": ["type", "name"],
        "properties": {
            "type": {"const": "function"},
            "name": {"type": "string"},
            "description": {"type": ["string", "null"]},
            "parameters": {"type": ["object", "boolean", "null"]},
            "strict": {"type": ["boolean", "null"]},
        },
    }})
}

fn include_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "items": {"type": "string"}})
}
