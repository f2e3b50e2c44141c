//! `input`: a text, or items in their order.

use arrcoc_runtime::generate::{Speaker, ToolCall};
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::chat::{Counter, Message, Piece};
use crate::error::ApiError;
use crate::fields::check_nested;
use crate::json::{Field, Object};
use crate::openai::tools;

const ITEM: &str = "an item: a message, a function_call, a function_call_output or a reasoning";
const CONTENT: &str = "a string or a list of parts";

/// The messages that it comes to: what the assistant thought, said and called in a row is one.
pub(super) fn messages(field: &Field<'_>, counter: &mut Counter<'_>) -> Result<Vec<Message>, ApiError> {
    field.required("a text or a list of items")?;
    if field.is_text() {
        return Ok(vec![Message::new(Speaker::User, vec![Piece::Text(counter.text(field)?)])]);
    }
    let items = counter.messages(field, "a text or a list of items")?;
    let mut reader = Reader { counter, messages: Vec::new() };
    items.iter().try_for_each(|item| reader.item(item))?;
    Ok(reader.messages)
}

struct Reader<'c, 'l> {
    counter: &'c mut Counter<'l>,
    messages: Vec<Message>,
}

impl Reader<'_, '_> {
    fn item(&mut self, field: &Field<'_>) -> Result<(), ApiError> {
        let item = field.object(ITEM)?.ok_or_else(|| field.wrong(ITEM))?;
        let kind = item.field("type");
        match kind.text()?.as_deref() {
            None | Some("message") => self.message(field, &item),
            Some("function_call") => self.call(field, &item),
            Some("function_call_output") => self.result(field, &item),
            Some("reasoning") => self.thoughts(&item),
            Some("item_reference") => {
                Err(ApiError::unsupported(kind.path(), "send the item itself, or `previous_response_id`"))
            }
            Some(_) => Err(ApiError::unsupported(kind.path(), &format!("expected {ITEM}"))),
        }
    }

    fn message(&mut self, field: &Field<'_>, item: &Object<'_>) -> Result<(), ApiError> {
        check_nested(item, field.path(), &["type", "role", "content", "id", "status", "phase"])?;
        let role = item.field("role");
        let speaker = match role.text()?.as_deref() {
            Some("user") => Speaker::User,
            Some("system" | "developer") => Speaker::System,
            Some("assistant") => Speaker::Assistant,
            _ => return Err(role.wrong("user, system, developer or assistant")),
        };
        let content = self.content(&item.field("content"))?;
        if speaker == Speaker::Assistant {
            let message = self.assistant();
            message.content.extend(content);
        } else {
            self.messages.push(Message::new(speaker, content));
        }
        Ok(())
    }

    /// The assistant's turn that is being put together, or a new one.
    fn assistant(&mut self) -> &mut Message {
        let open = self.messages.last().is_some_and(|last| last.role == Speaker::Assistant);
        if !open {
            self.messages.push(Message::new(Speaker::Assistant, Vec::new()));
        }
        let last = self.messages.len() - 1;
        &mut self.messages[last]
    }

    fn call(&mut self, field: &Field<'_>, item: &Object<'_>) -> Result<(), ApiError> {
        let known = ["type", "id", "call_id", "name", "arguments", "status", "namespace"];
        check_nested(item, field.path(), &known)?;
        let call_id = item.field("call_id");
        let id = call_id.text()?.ok_or_else(|| call_id.wrong("the call's id"))?.into_owned();
        let name = tools::name(&item.field("name"))?;
        let arguments = tools::arguments(&item.field("arguments"))?;
        self.counter.add(name.len() + item.field("arguments").json_length())?;
        self.assistant().calls.push(ToolCall { id: Some(id), name, arguments });
        Ok(())
    }

    fn result(&mut self, field: &Field<'_>, item: &Object<'_>) -> Result<(), ApiError> {
        check_nested(item, field.path(), &["type", "id", "call_id", "output", "status"])?;
        let call_id = item.field("call_id");
        let id = call_id.text()?.ok_or_else(|| call_id.wrong("the call's id"))?.into_owned();
        let content = self.content(&item.field("output"))?;
        self.messages.push(Message { call_id: Some(id), ..Message::new(Speaker::Tool, content) });
        Ok(())
    }

    /// What the assistant thought, in plain text; of a summary alone, that.
    fn thoughts(&mut self, item: &Object<'_>) -> Result<(), ApiError> {
        let mut text = String::new();
        for name in ["content", "summary"] {
            if !text.is_empty() {
                break;
            }
            let field = item.field(name);
            for part in self.counter.parts(&field, "a list of parts")? {
                let part = part
                    .object("an object with `text`")?
                    .ok_or_else(|| part.wrong("an object with `text`"))?;
                text += &self.counter.text(&part.field("text"))?;
            }
        }
        if !text.is_empty() {
            self.assistant().reasoning.get_or_insert_default().push_str(&text);
        }
        Ok(())
    }

    fn content(&mut self, field: &Field<'_>) -> Result<Vec<Piece>, ApiError> {
        if field.is_text() {
            return Ok(vec![Piece::Text(self.counter.text(field)?)]);
        }
        field.required(CONTENT)?;
        let parts = self.counter.parts(field, CONTENT)?;
        parts.iter().map(|part| self.part(part)).collect()
    }

    fn part(&mut self, field: &Field<'_>) -> Result<Piece, ApiError> {
        let expected = "an object with the `type` input_text, output_text or input_image";
        let part = field.object(expected)?.ok_or_else(|| field.wrong(expected))?;
        let kind = part.field("type");
        match kind.text()?.as_deref() {
            // `text` is what clients send that were written for chats.
            Some("input_text" | "output_text" | "text") => {
                let text = part.field("text");
                text.required("a string")?;
                self.counter.text(&text).map(Piece::Text)
            }
            Some("refusal") => self.counter.text(&part.field("refusal")).map(Piece::Text),
            Some("input_image") => {
                if part.field("file_id").is_set() {
                    let place = part.field("file_id");
                    return Err(ApiError::unsupported(place.path(), "send the image itself in `image_url`"));
                }
                let detail = part.field("detail");
                let coarse = match detail.text()?.as_deref() {
                    None | Some("auto" | "high" | "original") => false,
                    Some("low") => true,
                    Some(_) => return Err(detail.wrong("low, high or auto")),
                };
                self.counter.image(&part.field("image_url"), coarse)
            }
            Some("input_file" | "input_audio") => {
                Err(ApiError::unsupported(kind.path(), "only input_text and input_image are"))
            }
            _ => Err(kind.wrong("input_text, output_text or input_image")),
        }
    }
}

/// The schema of `input`.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    let part = json_schema!({"type": "object", "required": ["type"], "properties": {
        "type": {"enum": ["input_text", "output_text", "text", "refusal", "input_image"]},
        "text": {"type": "string"},
        "image_url": {"type": "string"},
        "detail": {"enum": ["low", "high", "auto", "original", null]},
    }});
    let content = json_schema!({"oneOf": [{"type": "string"}, {"type": "array", "items": part}]});
    json_schema!({"oneOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "object", "properties": {
            "type": {"enum": ["message", "function_call", "function_call_output", "reasoning", null]},
            "role": {"enum": ["user", "system", "developer", "assistant"]},
            "content": content,
            "call_id": {"type": "string"},
            "name": {"type": "string"},
            "arguments": {"type": ["string", "object"]},
            "output": content,
        }}},
    ]})
}
