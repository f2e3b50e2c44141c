//! The body of `POST /v1/messages`, its form checked.

use std::borrow::Cow;

use arrcoc_runtime::generate::{Form, Function, MaxTokens, Sizing, ToolChoice, Tools};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::content;
use crate::chat::{self, Chat, Counter, MOST_TOOL_BYTES, MOST_TOOLS, Names, SamplingFields};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{
    self, Form as _, Refused, any_whole, by, check_nested, check_own, fields, flag, nested, number, raw,
    refused, text, whole,
};
use crate::json::{Body, Field, Object};
use crate::openai::{self, Extension};

fields! {
    /// The fields.
    struct Own<'a> {
        model: Option<String> = text(), "Name of the model; the only one there is unless given";
        messages: Field<'a> = raw(content::schema).required(), "";
        system: Field<'a> = raw(|_| json_schema!({"type": ["string", "array", "null"]})), "Instructions: a text or text blocks";
        max_tokens: Option<i64> = whole(1, i64::MAX), "Held to what the server allows and the context has left";
        stop_sequences: Vec<String> = by(openai::stops, openai::stops_schema), "Strings that end the answer and are not part of it";
        stream: bool = flag(), "Answer in events";
        temperature: Option<f32> = number(0.0, 2.0), "";
        top_p: Option<f32> = number(0.0, 1.0).above(), "";
        top_k: Option<i64> = whole(-1, i64::from(u32::MAX)), "";
        seed: Option<i64> = any_whole(), "";
        tools: Vec<Function> = by(tools, tools_schema), "Functions that the model may call";
        tool_choice: Field<'a> = raw(|_| json_schema!({"type": ["object", "null"]})), "";
        thinking: Option<bool> = by(thinking, |_| json_schema!({"type": ["object", "null"]})),
            "Whether a model with both modes thinks first";
        output_format: Option<Form> = by(output_format, |_| json_schema!({"type": ["object", "null"]})),
            "`{\"type\": \"json_schema\", \"schema\": ...}`: what the answer must look like";
        output_config: Option<Form> = by(output_config, |_| json_schema!({"type": ["object", "null"]})),
            "The same as its `format`";
        arrcoc: Extension = nested::<Extension, _>(Extension::of), "";
    }
}

/// Fields that would change the answer.
const REFUSED: &[Refused] = &[
    refused("mcp_servers", &[], "the caller runs its tools"),
    refused("container", &[], "leave it out"),
    refused("context_management", &[], "shorten the messages yourself"),
    refused("stop", &["[]"], "it is `stop_sequences` here"),
    refused("max_completion_tokens", &[], "it is `max_tokens` here"),
    refused("response_format", &[], "it is `output_format` here"),
    refused("n", &["1"], "a message has one answer"),
];

/// Fields that are taken and change no answer.
const WITHOUT_EFFECT: &[&str] = &["metadata", "service_tier", "cache_control", "inference_geo"];

/// A request for a message.
#[derive(Debug, Clone)]
pub struct MessagesRequest {
    /// The conversation, and how to answer it.
    pub chat: Chat,
    /// Answer in events.
    pub stream: bool,
}

impl JsonSchema for MessagesRequest {
    fn schema_name() -> Cow<'static, str> {
        "MessagesRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Own::describe])
    }
}

impl Body for MessagesRequest {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        fields::check(
            body,
            &[Own::NAMES],
            &[REFUSED, openai::ELSEWHERE, openai::SAMPLING_ELSEWHERE],
            WITHOUT_EFFECT,
        )?;
        let own = Own::read(body, limits)?;
        let mut counter = Counter::new(limits, "messages");
        let mut messages: Vec<_> = content::system(&own.system, &mut counter)?.into_iter().collect();
        messages.extend(content::messages(&own.messages, &mut counter)?);
        let mut variables = Map::new();
        if let Some(thinking) = own.thinking {
            variables.insert("enable_thinking".into(), thinking.into());
        }
        let form = own.output_format.is_some();
        let chat = Chat {
            model: own.model,
            messages,
            tools: {
                openai::different(&own.tools, "tools")?;
                chosen(own.tools, &own.tool_choice)?
            },
            // What clients of this API must send, and choose for models with a longer context than most.
            max_tokens: MaxTokens::AtMost({
                let asked = own.max_tokens.and_then(|count| usize::try_from(count).ok());
                asked.unwrap_or(usize::MAX).min(limits.max_tokens.0)
            }),
            choices: 1,
            sampling: SamplingFields {
                temperature: own.temperature,
                top_p: own.top_p,
                top_k: chat::top_k(own.top_k),
                seed: chat::seed(own.seed),
                ..SamplingFields::default()
            },
            stop: own.stop_sequences,
            top_logprobs: None,
            budget: own.arrcoc.budget,
            selection: own.arrcoc.selection(),
            sizing: Sizing { skip_blank: own.arrcoc.skip_blank, ..Sizing::default() },
            explain: own.arrcoc.explain,
            form: own.output_format.or(own.output_config),
            variables,
            names: Names {
                max_tokens: "max_tokens",
                form: if form { "output_format" } else { "output_config" },
                messages: "messages",
                tools: "tools",
            },
        };
        Ok(Self { chat, stream: own.stream })
    }
}

fn tools(field: &Field<'_>, _: &Limits) -> Result<Vec<Function>, ApiError> {
    let expected = "an object with `name` and `input_schema`";
    let list = field.list("a list of tools", MOST_TOOLS, "")?.unwrap_or_default();
    let tool = |field: &Field<'_>| {
        let object = field.object(expected)?.ok_or_else(|| field.wrong(expected))?;
        let kind = object.field("type");
        if !matches!(kind.text()?.as_deref(), None | Some("custom")) {
            return Err(ApiError::unsupported(kind.path(), "tools are functions; the caller runs them"));
        }
        let known =
            ["type", "name", "description", "input_schema", "cache_control", "strict", "input_examples"];
        check_nested(&object, field.path(), &known)?;
        let name = openai::tool_name(&object.field("name"))?;
        let schema = object.field("input_schema").map("a JSON schema", MOST_TOOL_BYTES)?;
        let parameters = Value::from(schema.unwrap_or_default());
        let mut function = Map::from_iter([("name".to_owned(), name.as_str().into())]);
        if let Some(description) = object.field("description").text()? {
            function.insert("description".into(), description.into_owned().into());
        }
        function.insert("parameters".into(), parameters.clone());
        let described = json!({"type": "function", "function": function});
        Ok(Function { name, parameters: Some(parameters), described })
    };
    list.iter().map(tool).collect()
}

/// `tool_choice`, which says whether there may be several calls too.
fn chosen(functions: Vec<Function>, field: &Field<'_>) -> Result<Tools, ApiError> {
    let expected = "an object with the `type` auto, any, tool or none";
    let Some(object) = field.object(expected)? else {
        return Ok(Tools { functions, ..Tools::default() });
    };
    check_own(&object, field.path(), &["type", "name", "disable_parallel_tool_use"])?;
    let single = object.field("disable_parallel_tool_use").flag()?.unwrap_or(false);
    let choice = match object.field("type").text()?.as_deref() {
        Some("none") => return Ok(Tools::default()),
        Some("auto") => ToolChoice::Auto,
        Some("any") => ToolChoice::Required,
        Some("tool") => {
            let name = object.field("name");
            let wanted = name.text()?.unwrap_or_default();
            let position = functions.iter().position(|function| function.name == wanted);
            ToolChoice::Function(position.ok_or_else(|| name.wrong("the name of one of `tools`"))?)
        }
        _ => return Err(field.wrong(expected)),
    };
    if functions.is_empty() && choice != ToolChoice::Auto {
        let message = "`tool_choice` asks for a call, and there are no tools to call";
        return Err(ApiError::invalid("tool_choice", message));
    }
    Ok(Tools { functions, choice, single })
}

fn thinking(field: &Field<'_>, _: &Limits) -> Result<Option<bool>, ApiError> {
    let expected = "an object with the `type` enabled, adaptive or disabled";
    let Some(object) = field.object(expected)? else { return Ok(None) };
    check_own(&object, field.path(), &["type", "budget_tokens", "display"])?;
    match object.field("type").text()?.as_deref() {
        Some("enabled" | "adaptive") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        _ => Err(field.wrong(expected)),
    }
}

fn output_format(field: &Field<'_>, limits: &Limits) -> Result<Option<Form>, ApiError> {
    openai::form::text_format(field, limits)
}

fn output_config(field: &Field<'_>, limits: &Limits) -> Result<Option<Form>, ApiError> {
    let Some(object) = field.object("an object with `format`")? else { return Ok(None) };
    check_own(&object, field.path(), &["format", "effort"])?;
    openai::form::text_format(&object.field("format"), limits)
}

fn tools_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "maxItems": MOST_TOOLS, "items": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "type": {"enum": ["custom", null]},
            "name": {"type": "string"},
            "description": {"type": ["string", "null"]},
            "input_schema": {"type": ["object", "null"]},
        },
    }})
}
