//! The bodies of `POST /api/chat` and `POST /api/generate`, their form checked.

use std::borrow::Cow;

use arrcoc_runtime::generate::{Form, Function, MaxTokens, Sizing, Speaker, ToolCall, Tools};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::options::Options;
use crate::chat::{Chat, Counter, MOST_CALLS, MOST_TOOL_BYTES, Message, Names, Piece};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{
    self, Form as _, Refused, by, check_nested, fields, flag, nested, optional_flag, raw, refused, text,
};
use crate::json::{Body, Field, Object};
use crate::openai::{self, Extension};

fields! {
    /// What both take.
    struct Shared {
        model: Option<String> = text(), "Name of the model, with `:latest` or without";
        stream: bool = optional_flag().or(true), "Answer in lines";
        format: Option<Form> = by(format, |_| json_schema!({"type": ["string", "object", "null"]})),
            "`json`, or the JSON schema of the answer";
        options: Options = nested::<Options, _>(Options::of), "";
        think: Option<Value> = by(think, |_| json_schema!({"type": ["boolean", "string", "null"]})),
            "Whether a model with both modes thinks first";
        arrcoc: Extension = nested::<Extension, _>(Extension::of), "";
    }
}

fields! {
    /// What chats take.
    struct OfChat<'a> {
        messages: Field<'a> = raw(messages_schema), "";
        tools: Vec<Function> = by(openai::tools, openai::tools_schema), "";
        tool_choice: Field<'a> = raw(|_| json_schema!({"type": ["string", "object", "null"]})), "As with OpenAI";
        parallel_tool_calls: Option<bool> = optional_flag(), "As with OpenAI";
    }
}

fields! {
    /// What texts take.
    struct OfText<'a> {
        prompt: Field<'a> = raw(|_| json_schema!({"type": ["string", "null"]})), "";
        system: Field<'a> = raw(|_| json_schema!({"type": ["string", "null"]})), "";
        images: Field<'a> = raw(images_schema), "Files in base64";
        raw: bool = flag(), "Only false is taken: /v1/completions goes on from a text";
    }
}

/// Fields that would change the answer.
const REFUSED: &[Refused] = &[
    refused("template", &["\"\""], "the prompt is written by the model's own template"),
    refused("context", &[], "send the conversation to /api/chat"),
    refused("logprobs", &[], "/v1/chat/completions has them"),
    refused("top_logprobs", &["0"], "/v1/chat/completions has them"),
    refused("max_tokens", &[], "it is `options.num_predict` here"),
];

/// Fields that are taken and change no answer.
const WITHOUT_EFFECT: &[&str] = &["keep_alive", "truncate", "shift"];

const NAMES: Names =
    Names { max_tokens: "options.num_predict", form: "format", messages: "messages", tools: "tools" };

/// A request, of either kind.
#[derive(Debug, Clone)]
pub struct OllamaRequest {
    /// The conversation, and how to answer it; of no messages where the model is to be loaded and no more.
    pub chat: Chat,
    /// Answer in lines.
    pub stream: bool,
}

/// The body of a chat.
#[derive(Debug, Clone)]
pub struct ChatBody(pub OllamaRequest);

/// The body of a text.
#[derive(Debug, Clone)]
pub struct GenerateBody(pub OllamaRequest);

impl JsonSchema for ChatBody {
    fn schema_name() -> Cow<'static, str> {
        "OllamaChatRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Shared::describe, OfChat::describe])
    }
}

impl JsonSchema for GenerateBody {
    fn schema_name() -> Cow<'static, str> {
        "OllamaGenerateRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Shared::describe, OfText::describe])
    }
}

impl Body for ChatBody {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        fields::check(
            body,
            &[Shared::NAMES, OfChat::NAMES],
            &[REFUSED, openai::ELSEWHERE, openai::SAMPLING_ELSEWHERE],
            WITHOUT_EFFECT,
        )?;
        let (shared, own) = (Shared::read(body, limits)?, OfChat::read(body, limits)?);
        let mut counter = Counter::new(limits, "messages");
        let list = own.messages.list("a list of messages", limits.messages.0, " (limits.messages)")?;
        let messages = list.unwrap_or_default();
        let messages = messages.iter().map(|field| message(field, &mut counter)).collect::<Result<_, _>>()?;
        let single = own.parallel_tool_calls == Some(false);
        let tools = openai::offered(own.tools, &own.tool_choice, single)?;
        Ok(Self(shared.request(messages, tools, limits)))
    }
}

impl Body for GenerateBody {
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError> {
        fields::check(
            body,
            &[Shared::NAMES, OfText::NAMES],
            &[REFUSED, openai::ELSEWHERE, openai::SAMPLING_ELSEWHERE],
            WITHOUT_EFFECT,
        )?;
        let (shared, own) = (Shared::read(body, limits)?, OfText::read(body, limits)?);
        if own.raw {
            return Err(ApiError::unsupported("raw", "/v1/completions goes on from a text"));
        }
        let mut counter = Counter::new(limits, "prompt");
        let mut messages = Vec::new();
        if own.system.is_set() {
            messages.push(Message::new(Speaker::System, vec![Piece::Text(counter.text(&own.system)?)]));
        }
        let mut content = images(&own.images, &mut counter)?;
        let prompt = counter.text(&own.prompt)?;
        if !prompt.is_empty() {
            content.push(Piece::Text(prompt));
        }
        if content.is_empty() {
            messages.clear();
        } else {
            messages.push(Message::new(Speaker::User, content));
        }
        let mut request = shared.request(messages, Tools::default(), limits);
        request.chat.names.messages = "prompt";
        Ok(Self(request))
    }
}

impl Shared {
    fn request(self, messages: Vec<Message>, tools: Tools, limits: &Limits) -> OllamaRequest {
        let mut variables = Map::new();
        match self.think {
            Some(Value::Bool(think)) => _ = variables.insert("enable_thinking".into(), think.into()),
            Some(effort) => _ = variables.insert("reasoning_effort".into(), effort),
            None => {}
        }
        let chat = Chat {
            model: self.model.map(|name| super::untagged(&name).to_owned()),
            messages,
            tools,
            max_tokens: MaxTokens::AtMost(self.options.length(limits)),
            choices: 1,
            sampling: self.options.sampling(),
            stop: self.options.stop,
            top_logprobs: None,
            budget: self.arrcoc.budget,
            selection: self.arrcoc.selection(),
            sizing: Sizing { skip_blank: self.arrcoc.skip_blank, ..Sizing::default() },
            explain: self.arrcoc.explain,
            form: self.format,
            variables,
            names: NAMES,
        };
        OllamaRequest { chat, stream: self.stream }
    }
}

fn message(field: &Field<'_>, counter: &mut Counter<'_>) -> Result<Message, ApiError> {
    let expected = "an object with `role` and `content`";
    let object = field.object(expected)?.ok_or_else(|| field.wrong(expected))?;
    let known = ["role", "content", "images", "tool_calls", "tool_name", "tool_call_id", "thinking", "name"];
    check_nested(&object, field.path(), &known)?;
    let role = object.field("role");
    let speaker = match role.text()?.as_deref() {
        Some("system") => Speaker::System,
        Some("user") => Speaker::User,
        Some("assistant") => Speaker::Assistant,
        Some("tool") => Speaker::Tool,
        _ => return Err(role.wrong("system, user, assistant or tool")),
    };
    let files = object.field("images");
    let mut content = images(&files, counter)?;
    if !content.is_empty() && !matches!(speaker, Speaker::User | Speaker::Tool) {
        return Err(files.wrong("images in messages of the roles user and tool alone"));
    }
    content.push(Piece::Text(counter.text(&object.field("content"))?));
    let mut message = Message::new(speaker, content);
    if speaker == Speaker::Assistant {
        message.calls = calls(&object.field("tool_calls"), counter)?;
        let thinking = counter.text(&object.field("thinking"))?;
        message.reasoning = Some(thinking).filter(|text| !text.is_empty());
    }
    if speaker == Speaker::Tool {
        let text = |name| Ok::<_, ApiError>(object.field(name).text()?.map(Cow::into_owned));
        (message.name, message.call_id) = (text("tool_name")?, text("tool_call_id")?);
    }
    Ok(message)
}

/// Calls, whose arguments are objects.
fn calls(field: &Field<'_>, counter: &mut Counter<'_>) -> Result<Vec<ToolCall>, ApiError> {
    let list = field.list("a list of calls", MOST_CALLS, "")?.unwrap_or_default();
    let call = |field: &Field<'_>| {
        let expected = "an object with `function`";
        let call = field.object(expected)?.ok_or_else(|| field.wrong(expected))?;
        let function = call.field("function");
        let object = function.object("an object with `name` and `arguments`")?;
        let object = object.ok_or_else(|| function.wrong("an object with `name` and `arguments`"))?;
        let arguments = object.field("arguments");
        counter.add(arguments.json_length())?;
        let id = call.field("id").text()?.map(Cow::into_owned);
        let name = openai::tool_name(&object.field("name"))?;
        let arguments = arguments.map("an object", MOST_TOOL_BYTES)?.unwrap_or_default();
        Ok(ToolCall { id, name, arguments: arguments.into() })
    };
    list.iter().map(call).collect()
}

/// Files in base64, or as data URIs.
fn images(field: &Field<'_>, counter: &mut Counter<'_>) -> Result<Vec<Piece>, ApiError> {
    let parts = counter.parts(field, "a list of files in base64")?;
    let image = |part: &Field<'_>| {
        let data = part.text()?.ok_or_else(|| part.wrong("a file in base64"))?;
        let url = match data.starts_with("data:") {
            true => data.into_owned(),
            // What it is, its bytes say.
            false => format!("data:image/unknown;base64,{data}"),
        };
        counter.image_at(url, part.path().to_owned(), false)
    };
    parts.iter().map(image).collect()
}

fn format(field: &Field<'_>, limits: &Limits) -> Result<Option<Form>, ApiError> {
    if field.is_one_of(&["\"\""]) {
        return Ok(None);
    }
    if field.is_one_of(&["\"json\""]) {
        return Ok(Some(Form::json_object()));
    }
    openai::form::json_of(field, limits)
}

fn think(field: &Field<'_>, _: &Limits) -> Result<Option<Value>, ApiError> {
    if !field.is_text() {
        return Ok(field.flag()?.map(Value::from));
    }
    match field.text()?.as_deref() {
        Some(effort @ ("low" | "medium" | "high")) => Ok(Some(effort.into())),
        _ => Err(field.wrong("true, false, low, medium or high")),
    }
}

fn messages_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": ["system", "user", "assistant", "tool"]},
            "content": {"type": ["string", "null"]},
            "images": {"type": ["array", "null"], "items": {"type": "string"}},
            "thinking": {"type": ["string", "null"]},
            "tool_calls": {"type": ["array", "null"]},
            "tool_name": {"type": ["string", "null"]},
        },
    }})
}

fn images_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "items": {"type": "string"}})
}
