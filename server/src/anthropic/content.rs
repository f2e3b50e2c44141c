//! Messages and their blocks.

use arrcoc_runtime::generate::{Speaker, ToolCall};
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::chat::{Counter, MOST_TOOL_BYTES, Message, Piece};
use crate::error::ApiError;
use crate::fields::check_nested;
use crate::json::{Field, Object};

const BLOCKS: &str = "a string or a list of blocks";
const BLOCK: &str = "a block of the type text, image, tool_use, tool_result or thinking";

/// `system`: a text or text blocks.
pub(super) fn system(field: &Field<'_>, counter: &mut Counter<'_>) -> Result<Option<Message>, ApiError> {
    if !field.is_set() {
        return Ok(None);
    }
    let mut message = Message::new(Speaker::System, Vec::new());
    if field.is_text() {
        message.content.push(Piece::Text(counter.text(field)?));
        return Ok(Some(message));
    }
    for block in counter.parts(field, BLOCKS)? {
        let object = block.object("a text block")?.ok_or_else(|| block.wrong("a text block"))?;
        message.content.push(Piece::Text(text(&object, counter)?));
    }
    Ok(Some(message).filter(|message| !message.content.is_empty()))
}

/// The text of a text block.
fn text(block: &Object<'_>, counter: &mut Counter<'_>) -> Result<String, ApiError> {
    let field = block.field("text");
    field.required("a string, in a block of the type text")?;
    counter.text(&field)
}

/// `messages`. A user's message with results of calls comes to a message for each result, and one for what
/// else it holds.
pub(super) fn messages(field: &Field<'_>, counter: &mut Counter<'_>) -> Result<Vec<Message>, ApiError> {
    field.required("a list of messages")?;
    let list = counter.messages(field, "a list of messages")?;
    let mut reader = Reader { counter, messages: Vec::new() };
    list.iter().try_for_each(|message| reader.message(message))?;
    Ok(reader.messages)
}

struct Reader<'c, 'l> {
    counter: &'c mut Counter<'l>,
    messages: Vec<Message>,
}

impl Reader<'_, '_> {
    fn message(&mut self, field: &Field<'_>) -> Result<(), ApiError> {
        let expected = "an object with `role` and `content`";
        let object = field.object(expected)?.ok_or_else(|| field.wrong(expected))?;
        check_nested(&object, field.path(), &["role", "content"])?;
        let role = object.field("role");
        let speaker = match role.text()?.as_deref() {
            Some("user") => Speaker::User,
            Some("assistant") => Speaker::Assistant,
            Some("system") => Speaker::System,
            _ => return Err(role.wrong("user or assistant")),
        };
        let content = object.field("content");
        let mut message = Message::new(speaker, Vec::new());
        if content.is_text() {
            message.content.push(Piece::Text(self.counter.text(&content)?));
        } else {
            content.required(BLOCKS)?;
            for block in self.counter.parts(&content, BLOCKS)? {
                self.block(&block, &mut message)?;
            }
        }
        let empty = message.content.is_empty() && message.calls.is_empty();
        if !(empty && speaker == Speaker::User) {
            self.messages.push(message);
        }
        Ok(())
    }

    fn block(&mut self, field: &Field<'_>, message: &mut Message) -> Result<(), ApiError> {
        let block = field.object(BLOCK)?.ok_or_else(|| field.wrong(BLOCK))?;
        let kind = block.field("type");
        match kind.text()?.as_deref() {
            Some("text") => message.content.push(Piece::Text(text(&block, self.counter)?)),
            Some("image") if message.role == Speaker::User => message.content.push(self.image(&block)?),
            Some("tool_use") if message.role == Speaker::Assistant => message.calls.push(self.call(&block)?),
            Some("tool_result") if message.role == Speaker::User => {
                let result = self.result(&block)?;
                self.messages.push(result);
            }
            Some("thinking") if message.role == Speaker::Assistant => {
                let text = self.counter.text(&block.field("thinking"))?;
                if !text.is_empty() {
                    message.reasoning.get_or_insert_default().push_str(&text);
                }
            }
            // What nobody can read says nothing.
            Some("redacted_thinking") => {}
            Some("document" | "search_result" | "server_tool_use" | "web_search_tool_result") => {
                return Err(ApiError::unsupported(kind.path(), &format!("expected {BLOCK}")));
            }
            _ => return Err(kind.wrong(format_args!("{BLOCK}, in a message of its role"))),
        }
        Ok(())
    }

    fn image(&mut self, block: &Object<'_>) -> Result<Piece, ApiError> {
        let source = block.field("source");
        let expected = "an object with the `type` base64 or url";
        let object = source.object(expected)?.ok_or_else(|| source.wrong(expected))?;
        match object.field("type").text()?.as_deref() {
            Some("url") => self.counter.image(&object.field("url"), false),
            Some("base64") => {
                let data = object.field("data");
                let text = data.text()?.ok_or_else(|| data.wrong("the file in base64"))?;
                let media = object.field("media_type");
                let media = media.text()?.ok_or_else(|| media.wrong("a media type such as image/png"))?;
                let url = format!("data:{media};base64,{text}");
                self.counter.image_at(url, data.path().to_owned(), false)
            }
            _ => Err(source.wrong(expected)),
        }
    }

    fn call(&mut self, block: &Object<'_>) -> Result<ToolCall, ApiError> {
        let (id, input) = (block.field("id"), block.field("input"));
        let id = id.text()?.ok_or_else(|| id.wrong("the call's id"))?.into_owned();
        let name = crate::openai::tool_name(&block.field("name"))?;
        self.counter.add(name.len() + input.json_length())?;
        let arguments = input.map("an object", MOST_TOOL_BYTES)?.unwrap_or_default();
        Ok(ToolCall { id: Some(id), name, arguments: arguments.into() })
    }

    fn result(&mut self, block: &Object<'_>) -> Result<Message, ApiError> {
        let id = block.field("tool_use_id");
        let id = id.text()?.ok_or_else(|| id.wrong("the call's id"))?.into_owned();
        let content = block.field("content");
        let mut message = Message { call_id: Some(id), ..Message::new(Speaker::Tool, Vec::new()) };
        if content.is_text() {
            message.content.push(Piece::Text(self.counter.text(&content)?));
            return Ok(message);
        }
        for part in self.counter.parts(&content, BLOCKS)? {
            let expected = "a block of the type text or image";
            let object = part.object(expected)?.ok_or_else(|| part.wrong(expected))?;
            message.content.push(match object.field("type").text()?.as_deref() {
                Some("text") => Piece::Text(text(&object, self.counter)?),
                Some("image") => self.image(&object)?,
                _ => return Err(part.wrong(expected)),
            });
        }
        if message.content.is_empty() {
            message.content.push(Piece::Text(String::new()));
        }
        Ok(message)
    }
}

/// The schema of `messages`.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    let block = json_schema!({"type": "object", "required": ["type"], "properties": {
        "type": {"enum": ["text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"]},
        "text": {"type": "string"},
        "source": {"type": "object", "properties": {
            "type": {"enum": ["base64", "url"]},
            "media_type": {"type": "string"},
            "data": {"type": "string"},
            "url": {"type": "string"},
        }},
        "id": {"type": "string"},
        "name": {"type": "string"},
        "input": {"type": "object"},
        "tool_use_id": {"type": "string"},
        "thinking": {"type": "string"},
    }});
    json_schema!({"type": "array", "minItems": 1, "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["user", "assistant", "system"]},
            "content": {"oneOf": [{"type": "string"}, {"type": "array", "items": block}]},
        },
    }})
}
