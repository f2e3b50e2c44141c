//! The messages of a chat: roles, texts, and images that are not loaded yet.

use std::borrow::Cow;

use arrcoc_runtime::generate::{Speaker, ToolCall};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::chat::{Counter, Message, Piece};
use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{self, Form as _, by, check_nested, fields, raw, text};
use crate::json::{Field, Object};
use crate::openai::tools;

fields! {
    /// The fields of a message.
    struct Turn<'a> {
        role: Speaker = by(role, role_schema).required(), "";
        content: Field<'a> = raw(content_schema),
            "Null or absent only for the assistant, and then empty. Where the model was trained image first \
             (`images_first` of /v1/models), images go before the text of their message, in their order";
        tool_calls: Field<'a> = raw(tools::calls_schema), "Of the assistant: what it called";
        function_call: Field<'a> = raw(|_| json_schema!({"type": ["object", "null"]})),
            "The older form of one of them: `name` and `arguments`";
        tool_call_id: Option<String> = text(), "Of a tool: the call whose result `content` is";
        name: Option<String> = text(), "Of a tool or function: its name";
        reasoning_content: Field<'a> = raw(|_| json_schema!({"type": ["string", "null"]})),
            "Of the assistant: what it thought before, which the model's template may show it again. `thinking` and `reasoning` are the same";
    }
}

/// Other names of `reasoning_content`; they count where they hold text.
const THOUGHTS: [&str; 2] = ["thinking", "reasoning"];

/// Fields of a message that clients send and that say nothing that the prompt has a place for: they come with
/// turns that are replayed. The first is refused where it holds something.
const OTHERS: [&str; 4] = ["images", "refusal", "audio", "annotations"];

fields! {
    /// The fields of an image.
    struct ImageUrl<'a> {
        url: Field<'a> = raw(|_| json_schema!({"type": "string"})).required(), URL;
        detail: Detail = by(detail, detail_schema),
            "`low` is a coarse look, unless arrcoc.budget is set: the smallest budget, where every image has it and \
             the model has budgets, else no tiles, or no more pixels than a square of 512 has";
    }
}

const URL: &str = "data:image/TYPE;base64,DATA, or an https URL of a host in images.allow_hosts";

/// The schema of `messages`.
pub(super) fn list_schema(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "minItems": 1, "items": generator.subschema_for::<MessageSchema>()})
}

/// The schema of a message.
struct MessageSchema;

impl JsonSchema for MessageSchema {
    fn schema_name() -> Cow<'static, str> {
        "Message".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::object(generator, &[Turn::describe])
    }
}

fn content_schema(generator: &mut SchemaGenerator) -> Schema {
    let text = json_schema!({
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    });
    let image = json_schema!({
        "type": "object",
        "required": ["type", "image_url"],
        "properties": {"type": {"const": "image_url"}, "image_url": image_schema(generator)},
    });
    json_schema!({"oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"oneOf": [text, image]}},
        {"type": "null"},
    ]})
}

fn image_schema(generator: &mut SchemaGenerator) -> Schema {
    let object = fields::object(generator, &[ImageUrl::describe]);
    json_schema!({"oneOf": [{"type": "string", "description": URL}, object]})
}

/// Reads messages.
pub(super) struct Reader<'l>(Counter<'l>);

impl<'l> Reader<'l> {
    pub(super) fn new(limits: &'l Limits) -> Self {
        Self(Counter::new(limits, "messages"))
    }

    /// `messages`.
    pub(super) fn messages(mut self, field: &Field<'_>) -> Result<Vec<Message>, ApiError> {
        field.required("a list of messages")?;
        let list = self.0.messages(field, "a list of messages")?;
        list.iter().map(|message| self.message(message)).collect()
    }

    fn message(&mut self, field: &Field<'_>) -> Result<Message, ApiError> {
        let expected = "an object with `role` and `content`";
        let message = field.object(expected)?.ok_or_else(|| field.wrong(expected))?;
        check_nested(&message, field.path(), &[Turn::NAMES, &THOUGHTS, &OTHERS].concat())?;
        let turn = Turn::read(&message, self.0.limits)?;
        let Turn { role, content, reasoning_content, .. } = turn;
        // Ollama's place for pictures: an answer without them would be another.
        refuse(&message.field("images"), "send images as parts of `content`, of type image_url")?;
        let content = self.content(&content, role)?;
        let names = THOUGHTS.map(|name| message.field(name));
        let others = names.into_iter().find(|field| field.is_text());
        let reasoning = Some(reasoning_content).filter(Field::is_set).or(others);
        let reasoning = reasoning.filter(|_| role == Speaker::Assistant);
        let reasoning = reasoning.map(|field| self.0.text(&field)).transpose()?;
        let reasoning = reasoning.filter(|text| !text.is_empty());
        let calls = match role {
            Speaker::Assistant => self.calls(&turn.tool_calls, &turn.function_call)?,
            _ => Vec::new(),
        };
        // Names of people have no place in prompts.
        let of_tool = |text: Option<String>| text.filter(|text| role == Speaker::Tool && !text.is_empty());
        let (call_id, name) = (of_tool(turn.tool_call_id), of_tool(turn.name));
        Ok(Message { role, content, reasoning, calls, call_id, name })
    }

    /// What an assistant called.
    fn calls(&mut self, list: &Field<'_>, one: &Field<'_>) -> Result<Vec<ToolCall>, ApiError> {
        let mut calls = tools::calls(list)?;
        if calls.is_empty() {
            calls.extend(tools::function_call(one)?);
        }
        let length = |call: &ToolCall| call.name.len() + call.arguments.to_string().len();
        self.0.add(calls.iter().map(length).sum())?;
        Ok(calls)
    }

    fn content(&mut self, field: &Field<'_>, role: Speaker) -> Result<Vec<Piece>, ApiError> {
        if !field.is_set() && role == Speaker::Assistant {
            // Clients replay turns in which the model said nothing, or only called tools.
            return Ok(vec![Piece::Text(String::new())]);
        }
        if field.is_text() {
            return Ok(vec![Piece::Text(self.0.text(field)?)]);
        }
        let expected = "a string or a list of parts";
        field.required(expected)?;
        let parts = self.0.parts(field, expected)?;
        let pieces = parts.iter().map(|part| self.piece(part)).collect::<Result<Vec<_>, _>>()?;
        if !matches!(role, Speaker::User | Speaker::Tool)
            && pieces.iter().any(|piece| matches!(piece, Piece::Image { .. }))
        {
            let place = field.path();
            let message = format!("`{place}`: only messages of the roles `user` and `tool` may hold images");
            return Err(ApiError::invalid(place, message));
        }
        Ok(pieces)
    }

    fn piece(&mut self, field: &Field<'_>) -> Result<Piece, ApiError> {
        let expected = "an object with `type`, and `text` or `image_url`";
        let part = field.object(expected)?.ok_or_else(|| field.wrong(expected))?;
        check_nested(&part, field.path(), &["type", "text", "image_url"])?;
        let kind = part.field("type");
        let kinds = "text or image_url";
        match kind.text()?.as_deref() {
            Some("text") => {
                let text = part.field("text");
                text.required("a string, in a part of type `text`")?;
                self.0.text(&text).map(Piece::Text)
            }
            Some("image_url") => self.image(&part),
            Some("video_url" | "video") => {
                let instead = "videos are not read; send some of their frames as images";
                Err(ApiError::unsupported(field.path(), instead))
            }
            Some(
                "input_audio" | "audio_url" | "file" | "input_file" | "input_text" | "input_image" | "image"
                | "refusal" | "document" | "tool_use" | "tool_result",
            ) => Err(ApiError::unsupported(field.path(), "only parts of type text and image_url are")),
            _ => Err(kind.wrong(kinds)),
        }
    }

    fn image(&mut self, part: &Object<'_>) -> Result<Piece, ApiError> {
        let field = part.field("image_url");
        let expected = "an object with `url`, or the URL itself";
        field.required(expected)?;
        let (url, coarse) = if field.is_text() {
            (field, false)
        } else {
            let object = field.object(expected)?.ok_or_else(|| field.wrong(expected))?;
            check_nested(&object, field.path(), ImageUrl::NAMES)?;
            let ImageUrl { url, detail } = ImageUrl::read(&object, self.0.limits)?;
            (url, detail == Detail::Low)
        };
        self.0.image(&url, coarse)
    }
}

fn role(field: &Field<'_>, _: &Limits) -> Result<Speaker, ApiError> {
    match field.text()?.as_deref() {
        // `developer` is OpenAI's newer word for the same thing.
        Some("system" | "developer") => Ok(Speaker::System),
        Some("user") => Ok(Speaker::User),
        Some("assistant") => Ok(Speaker::Assistant),
        Some("tool" | "function") => Ok(Speaker::Tool),
        _ => Err(field.wrong("system, developer, user, assistant or tool")),
    }
}

fn role_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"enum": ["system", "developer", "user", "assistant", "tool", "function"]})
}

/// OpenAI's `detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Low,
    /// `high`, `auto` or nothing: the budget decides.
    Usual,
}

fn detail(field: &Field<'_>, _: &Limits) -> Result<Detail, ApiError> {
    match field.text()?.as_deref() {
        None | Some("auto" | "high") => Ok(Detail::Usual),
        Some("low") => Ok(Detail::Low),
        Some(_) => Err(field.wrong("low, high or auto")),
    }
}

fn detail_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"enum": ["low", "high", "auto", null]})
}

/// Refuses a field that asks for something.
fn refuse(field: &Field<'_>, instead: &str) -> Result<(), ApiError> {
    if !field.is_set() || field.is_one_of(&["[]", "{}", "false"]) {
        return Ok(());
    }
    Err(ApiError::unsupported(field.path(), instead))
}
