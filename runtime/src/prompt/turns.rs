//! Messages as a template is given them. Where it has no place for tools, they are written into messages, in
//! the manner of Hermes: what may be called into the instructions, calls into answers, results into what the
//! user says.

use super::jinja::{Pieces, Text};
use crate::generate::{self, Message, Speaker, ToolCall, Tools};

/// What a template is given as one message.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) role: &'static str,
    pub(super) content: Vec<Part>,
    pub(super) reasoning: Option<String>,
    pub(super) calls: Vec<ToolCall>,
    pub(super) call_id: Option<String>,
    pub(super) name: Option<String>,
}

/// A piece of its content.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Text(Text),
    Image,
}

impl Turn {
    /// Bytes that a message says, about.
    pub(super) fn said(&self) -> usize {
        let parts = self.content.iter().map(|part| match part {
            Part::Text(text) => text.as_str().len(),
            Part::Image => 0,
        });
        let calls = self.calls.iter().map(|call| call.name.len() + size(&call.arguments));
        parts.chain(calls).sum::<usize>() + self.reasoning.as_ref().map_or(0, String::len)
    }

    fn of(message: &Message) -> Self {
        let role = match message.speaker {
            Speaker::System => "system",
            Speaker::User => "user",
            Speaker::Assistant => "assistant",
            Speaker::Tool => "tool",
        };
        let content = message.content.iter().map(|part| match part {
            generate::Part::Text(text) => Part::Text(Text::said(text)),
            generate::Part::Image(_) => Part::Image,
        });
        Self {
            role,
            content: content.collect(),
            reasoning: message.reasoning.clone(),
            calls: message.calls.clone(),
            call_id: message.call_id.clone(),
            name: message.name.clone(),
        }
    }

    fn system(text: Text) -> Self {
        let content = vec![Part::Text(text)];
        let (reasoning, calls, call_id, name) = (None, Vec::new(), None, None);
        Self { role: "system", content, reasoning, calls, call_id, name }
    }
}

/// All that a message says.
pub(super) fn said(message: &Message) -> impl Iterator<Item = &str> {
    message.texts().chain(message.reasoning.as_deref())
}

/// Bytes of JSON, about.
pub(super) fn size(json: &serde_json::Value) -> usize {
    use serde_json::Value;
    match json {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 4,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 4,
        Value::Object(entries) => {
            entries.iter().map(|(key, value)| key.len() + 8 + size(value)).sum::<usize>() + 4
        }
    }
}

/// Messages for a template that has places for all that they hold.
pub(super) fn plain(messages: &[Message]) -> Vec<Turn> {
    messages.iter().map(Turn::of).collect()
}

/// Messages for a template that knows of no tools, and of instructions only where `system` says so.
pub(super) fn with_tools_written(messages: &[Message], tools: &Tools, system: bool) -> Vec<Turn> {
    let mut turns = Vec::new();
    let mut behind_result = false;
    for message in messages {
        let mut turn = Turn::of(message);
        let calls = std::mem::take(&mut turn.calls);
        (turn.call_id, turn.name) = (None, None);
        if !calls.is_empty() {
            write_calls(&mut turn, &calls);
        }
        if message.speaker != Speaker::Tool {
            behind_result = false;
            turns.push(turn);
            continue;
        }
        turn.role = "user";
        let content = around(["<tool_response>\n", "\n</tool_response>"], turn.content);
        // Results of one answer's calls are one turn: many templates want turns to alternate.
        match turns.last_mut() {
            Some(Turn { content: before, .. }) if behind_result => {
                before.push(Part::Text(Text::own("\n")));
                before.extend(content);
                *before = joined(std::mem::take(before));
            }
            _ => turns.push(Turn { content: joined(content), ..turn }),
        }
        behind_result = true;
    }
    if !tools.functions.is_empty() {
        instruct(&mut turns, tools, system);
    }
    turns
}

/// Writes calls behind what an answer says.
fn write_calls(turn: &mut Turn, calls: &[ToolCall]) {
    for call in calls {
        let mut text = Pieces::default();
        let before = if turn.content.iter().any(|part| !is_empty(part)) { "\n" } else { "" };
        text.push(&Text::own(&format!("{before}<tool_call>\n")));
        let arguments = match &call.arguments {
            serde_json::Value::String(text) => text.clone(),
            arguments => json(arguments),
        };
        let name = serde_json::Value::from(call.name.as_str());
        text.push(&Text::said(&format!("{{\"name\": {name}, \"arguments\": {arguments}}}")));
        text.push(&Text::own("\n</tool_call>"));
        turn.content.push(Part::Text(text.finish()));
    }
    turn.content = joined(std::mem::take(&mut turn.content));
}

/// Writes what may be called into the instructions, or before what the user says first.
fn instruct(turns: &mut Vec<Turn>, tools: &Tools, system: bool) {
    let mut text = Pieces::default();
    let instructed = turns.first().is_some_and(|turn| turn.role == "system");
    text.push(&Text::own(if instructed { "\n\n" } else { "" }));
    text.push(&Text::own(
        "# Tools\n\nYou may call one or more of these functions to help with what the user asks. Each line describes one:\n<tools>\n",
    ));
    for function in &tools.functions {
        text.push(&Text::said(&json(&function.described)));
        text.push(&Text::own("\n"));
    }
    text.push(&Text::own(
        "</tools>\n\nTo call a function, write a JSON object with its name and arguments between these tags:\n<tool_call>\n\
         {\"name\": \"NAME\", \"arguments\": {\"ARGUMENT\": \"VALUE\"}}\n</tool_call>",
    ));
    let text = text.finish();
    match turns.first_mut() {
        Some(turn) if instructed => {
            turn.content.push(Part::Text(text));
            turn.content = joined(std::mem::take(&mut turn.content));
        }
        Some(turn) if !system && turn.role == "user" => {
            turn.content.insert(0, Part::Text(text));
            turn.content.insert(1, Part::Text(Text::own("\n\n")));
            turn.content = joined(std::mem::take(&mut turn.content));
        }
        _ => turns.insert(0, Turn::system(text)),
    }
}

fn around([before, behind]: [&str; 2], content: Vec<Part>) -> Vec<Part> {
    let own = |text| std::iter::once(Part::Text(Text::own(text)));
    own(before).chain(content).chain(own(behind)).collect()
}

fn is_empty(part: &Part) -> bool {
    matches!(part, Part::Text(text) if text.as_str().is_empty())
}

/// The same content with neighbouring texts in one.
fn joined(content: Vec<Part>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for part in content {
        match (parts.last_mut(), &part) {
            (Some(Part::Text(before)), Part::Text(text)) => {
                let mut both = Pieces::default();
                both.push(before);
                both.push(text);
                *before = both.finish();
            }
            _ => parts.push(part),
        }
    }
    parts
}

/// JSON as Python writes it, with a space behind commas and colons.
pub(super) fn json(value: &serde_json::Value) -> String {
    let mut bytes = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
    match serde::Serialize::serialize(value, &mut writer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        // A vector takes everything that is written.
        Err(_) => value.to_string(),
    }
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
