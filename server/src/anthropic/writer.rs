//! Makes a message of what a running request reports, block by block.

use arrcoc_runtime::generate::{self, CallPiece, FinishReason, Receipt};
use schemars::JsonSchema;
use serde::Serialize;

use super::answer::{Block, Message, StopReason};
use super::error::ErrorBody;
use crate::chat::{Called, object};
use crate::error::ApiError;
use crate::stream::{self, Chunks};

/// An event of a stream.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "AnthropicEvent")]
pub enum Event<'m> {
    /// The message begins.
    MessageStart {
        /// As far as it is known.
        message: &'m Message,
    },
    /// Nothing.
    Ping,
    /// A block begins.
    #[allow(private_interfaces)]
    ContentBlockStart {
        /// Which.
        index: usize,
        /// Empty.
        content_block: Block,
    },
    /// More of it.
    #[allow(private_interfaces)]
    ContentBlockDelta {
        /// Which.
        index: usize,
        /// What.
        delta: Delta,
    },
    /// It ends.
    ContentBlockStop {
        /// Which.
        index: usize,
    },
    /// Why the message ends.
    #[allow(private_interfaces)]
    MessageDelta {
        /// The reason.
        delta: Ending,
        /// Tokens.
        usage: Output,
    },
    /// The message ends.
    MessageStop,
}

impl Event<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::Ping => "ping",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type")]
#[schemars(inline)]
enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: String },
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Ending {
    stop_reason: Option<StopReason>,
    stop_sequence: (),
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Output {
    output_tokens: usize,
}

/// Writes one message.
pub struct Writer {
    message: Message,
    reason: FinishReason,
    /// The block that is being written is the last; of a call, its arguments so far.
    open: Option<String>,
}

impl Writer {
    /// Writes the answer to a request of so many tokens.
    pub fn new(model: &str, prompt_tokens: usize, receipts: Option<&[Receipt]>) -> Self {
        let message = Message::begun(model, prompt_tokens, receipts);
        Self { message, reason: FinishReason::Length, open: None }
    }

    /// The whole message, of a request that has ended.
    pub fn into_message(self) -> Message {
        self.message
    }

    fn begin(&mut self, block: Block, chunks: &mut Chunks) {
        self.end(chunks);
        send(
            &Event::ContentBlockStart { index: self.message.content.len(), content_block: block.clone() },
            chunks,
        );
        self.message.content.push(block);
        self.open = Some(String::new());
    }

    fn end(&mut self, chunks: &mut Chunks) {
        let Some(arguments) = self.open.take() else { return };
        let index = self.message.content.len().saturating_sub(1);
        if let Some(Block::ToolUse { input: of, .. }) = self.message.content.last_mut() {
            *of = object(&arguments);
        }
        send(&Event::ContentBlockStop { index }, chunks);
    }

    fn delta(&mut self, delta: Delta, chunks: &mut Chunks) {
        let index = self.message.content.len().saturating_sub(1);
        match (&delta, self.message.content.last_mut(), &mut self.open) {
            (Delta::Text { text: more }, Some(Block::Text { text }), _) => text.push_str(more),
            (Delta::Thinking { thinking: more }, Some(Block::Thinking { thinking, .. }), _) => {
                thinking.push_str(more);
            }
            (Delta::Input { partial_json }, _, Some(arguments)) => arguments.push_str(partial_json),
            _ => {}
        }
        send(&Event::ContentBlockDelta { index, delta }, chunks);
    }

    fn add(&mut self, text: String, calls: Vec<CallPiece>, thinking: Option<String>, chunks: &mut Chunks) {
        let open = self.open.is_some();
        if let Some(thinking) = thinking.filter(|text| !text.is_empty()) {
            if !(open && matches!(self.message.content.last(), Some(Block::Thinking { .. }))) {
                self.begin(Block::Thinking { thinking: String::new(), signature: String::new() }, chunks);
            }
            self.delta(Delta::Thinking { thinking }, chunks);
        }
        if !text.is_empty() {
            if !(self.open.is_some() && matches!(self.message.content.last(), Some(Block::Text { .. }))) {
                self.begin(Block::Text { text: String::new() }, chunks);
            }
            self.delta(Delta::Text { text }, chunks);
        }
        for CallPiece { name, arguments, .. } in calls {
            if let Some(name) = name {
                let input = serde_json::Map::new().into();
                self.begin(Block::ToolUse { id: format!("toolu_{}", Called::new_id()), name, input }, chunks);
            }
            if !arguments.is_empty() {
                self.delta(Delta::Input { partial_json: arguments }, chunks);
            }
        }
    }
}

fn send(event: &Event<'_>, chunks: &mut Chunks) {
    chunks.named(event.name(), event);
}

impl stream::Writer for Writer {
    fn open(&mut self, chunks: &mut Chunks) {
        send(&Event::MessageStart { message: &self.message }, chunks);
        send(&Event::Ping, chunks);
    }

    fn write(&mut self, event: generate::Event, chunks: &mut Chunks) {
        match event {
            generate::Event::Token { text, calls, reasoning, .. } => self.add(text, calls, reasoning, chunks),
            generate::Event::Finished { text, calls, reasoning, reason, .. } => {
                self.add(text, calls, reasoning, chunks);
                self.end(chunks);
                self.reason = reason;
            }
            generate::Event::Done { usage, .. } => {
                self.message.finish(self.reason, usage);
                let delta = Ending { stop_reason: self.message.stop_reason, stop_sequence: () };
                let usage = Output { output_tokens: self.message.usage.output_tokens };
                send(&Event::MessageDelta { delta, usage }, chunks);
            }
            generate::Event::Started { .. } | generate::Event::Prompt { .. } | generate::Event::Failed(_) => {
            }
        }
    }

    fn fail(&mut self, error: &ApiError, chunks: &mut Chunks) {
        chunks.named("error", &ErrorBody::from(error));
    }

    fn close(&mut self, chunks: &mut Chunks) {
        send(&Event::MessageStop, chunks);
    }
}
