//! Makes a response of what a running request reports, item by item. A stream is told of every step; one who
//! waits gets the response.

use std::time::SystemTime;

use arrcoc_runtime::generate::{self, CallPiece, FinishReason, Receipt, Speaker, TokenLogprob, ToolCall};

use super::events::{Event, Kind};
use super::item::{Item, Part, Role, Status, new_id};
use super::response::{Echo, Response, ResponseError, ResponseStatus};
use super::store::{Store, Stored};
use crate::chat::{self, Called, Message, Piece};
use crate::error::ApiError;
use crate::openai::{ChosenToken, unix_seconds};
use crate::stream::{self, Chunks};

/// What is to be kept of a response that others may go on from.
pub struct Keep {
    /// Where.
    pub store: std::sync::Arc<Store>,
    /// The conversation up to it.
    pub messages: Vec<Message>,
}

/// Writes one response.
pub struct Writer {
    response: Response,
    reason: FinishReason,
    /// The item that is being written, the last of the output.
    open: Option<Open>,
    /// Log-probabilities of tokens that came before their text.
    early: Vec<ChosenToken>,
    sequence: u64,
    keep: Option<Keep>,
}

/// An item that is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thoughts,
    Call,
}

impl Writer {
    /// Writes the response to a request.
    pub fn new(echo: Echo, model: &str, receipts: Option<&[Receipt]>, keep: Option<Keep>) -> Self {
        let response = Response::begun(echo, model, unix_seconds(SystemTime::now()), receipts);
        Self { response, reason: FinishReason::Length, open: None, early: Vec::new(), sequence: 0, keep }
    }

    /// The whole response, of a request that has ended.
    pub fn into_response(self) -> Response {
        self.response
    }

    fn send(&mut self, kind: Kind<'_>, chunks: &mut Chunks) {
        tell(kind, &mut self.sequence, chunks);
    }

    /// Tells of the response as it stands.
    fn send_response(&mut self, kind: fn(&Response) -> Kind<'_>, chunks: &mut Chunks) {
        tell(kind(&self.response), &mut self.sequence, chunks);
    }

    /// Where the open item stands, and its id.
    fn place(&self) -> (usize, String) {
        let id = match self.response.output.last() {
            Some(Item::Message { id, .. } | Item::FunctionCall { id, .. } | Item::Reasoning { id, .. }) => {
                id.clone()
            }
            None => String::new(),
        };
        (self.response.output.len().saturating_sub(1), id)
    }

    fn begin(&mut self, open: Open, item: Item, chunks: &mut Chunks) {
        self.close(Status::Completed, chunks);
        let part = match open {
            Open::Text => {
                Some(Part::OutputText { text: String::new(), annotations: [], logprobs: Vec::new() })
            }
            Open::Thoughts => Some(Part::ReasoningText { text: String::new() }),
            Open::Call => None,
        };
        self.response.output.push(item.clone());
        self.open = Some(open);
        let (output_index, item_id) = self.place();
        self.send(Kind::ItemAdded { output_index, item }, chunks);
        if let Some(part) = part {
            self.send(
                Kind::PartAdded { item_id, output_index, content_index: 0, part: part.clone() },
                chunks,
            );
            if let Some(Item::Message { content, .. } | Item::Reasoning { content, .. }) =
                self.response.output.last_mut()
            {
                content.push(part);
            }
        }
    }

    fn text(&mut self, delta: String, token: Option<TokenLogprob>, chunks: &mut Chunks) {
        if delta.is_empty() && matches!(self.open, Some(Open::Call)) {
            return;
        }
        if !matches!(self.open, Some(Open::Text)) {
            if delta.is_empty() {
                self.early.extend(token.iter().map(ChosenToken::from));
                return;
            }
            let (id, status, role) = (new_id("msg"), Status::InProgress, Role::Assistant);
            self.begin(Open::Text, Item::Message { id, status, role, content: Vec::new() }, chunks);
        }
        let mut tokens = std::mem::take(&mut self.early);
        tokens.extend(token.iter().map(ChosenToken::from));
        if let Some(Item::Message { content, .. }) = self.response.output.last_mut()
            && let Some(Part::OutputText { text, logprobs, .. }) = content.last_mut()
        {
            text.push_str(&delta);
            logprobs.extend(tokens.iter().cloned());
        }
        if !delta.is_empty() || !tokens.is_empty() {
            let (output_index, item_id) = self.place();
            self.send(
                Kind::TextDelta { item_id, output_index, content_index: 0, delta, logprobs: tokens },
                chunks,
            );
        }
    }

    fn thought(&mut self, delta: String, chunks: &mut Chunks) {
        if delta.is_empty() {
            return;
        }
        if !matches!(self.open, Some(Open::Thoughts)) {
            let (id, status) = (new_id("rs"), Status::InProgress);
            self.begin(
                Open::Thoughts,
                Item::Reasoning { id, summary: [], content: Vec::new(), status },
                chunks,
            );
        }
        if let Some(Item::Reasoning { content, .. }) = self.response.output.last_mut()
            && let Some(Part::ReasoningText { text }) = content.last_mut()
        {
            text.push_str(&delta);
        }
        let (output_index, item_id) = self.place();
        self.send(Kind::ThoughtDelta { item_id, output_index, content_index: 0, delta }, chunks);
    }

    fn call(&mut self, piece: CallPiece, chunks: &mut Chunks) {
        if let Some(name) = piece.name {
            let (id, call_id, status) = (new_id("fc"), Called::new_id(), Status::InProgress);
            let arguments = String::new();
            self.begin(Open::Call, Item::FunctionCall { id, call_id, name, arguments, status }, chunks);
        }
        if piece.arguments.is_empty() {
            return;
        }
        if let Some(Item::FunctionCall { arguments, .. }) = self.response.output.last_mut() {
            arguments.push_str(&piece.arguments);
        }
        let (output_index, item_id) = self.place();
        self.send(Kind::ArgumentsDelta { item_id, output_index, delta: piece.arguments }, chunks);
    }

    /// Ends the open item.
    fn close(&mut self, status: Status, chunks: &mut Chunks) {
        if self.open.take().is_none() {
            return;
        }
        let (output_index, item_id) = self.place();
        let Some(item) = self.response.output.last_mut() else { return };
        let (Item::Message { status: of, .. }
        | Item::FunctionCall { status: of, .. }
        | Item::Reasoning { status: of, .. }) = item;
        *of = status;
        let item = item.clone();
        match &item {
            Item::Message { content, .. } | Item::Reasoning { content, .. } => {
                let Some(part) = content.last().cloned() else { return };
                let (id, content_index) = (item_id.clone(), 0);
                self.send(
                    match part.clone() {
                        Part::OutputText { text, logprobs, .. } => {
                            Kind::TextDone { item_id: id, output_index, content_index, text, logprobs }
                        }
                        Part::ReasoningText { text } => {
                            Kind::ThoughtDone { item_id: id, output_index, content_index, text }
                        }
                    },
                    chunks,
                );
                self.send(Kind::PartDone { item_id, output_index, content_index, part }, chunks);
            }
            Item::FunctionCall { arguments, .. } => {
                let arguments = arguments.clone();
                self.send(Kind::ArgumentsDone { item_id, output_index, arguments }, chunks);
            }
        }
        self.send(Kind::ItemDone { output_index, item }, chunks);
    }

    /// Keeps the finished response for those that go on from it.
    fn keep(&mut self) {
        let Some(Keep { store, mut messages }) = self.keep.take() else { return };
        let mut answer = Message::new(Speaker::Assistant, Vec::new());
        for item in &self.response.output {
            match item {
                Item::Message { content, .. } => {
                    answer.content.extend(content.iter().filter_map(|part| match part {
                        Part::OutputText { text, .. } => Some(Piece::Text(text.clone())),
                        Part::ReasoningText { .. } => None,
                    }))
                }
                Item::Reasoning { content, .. } => {
                    answer.reasoning = content.iter().find_map(|part| match part {
                        Part::ReasoningText { text } => Some(text.clone()),
                        Part::OutputText { .. } => None,
                    });
                }
                Item::FunctionCall { call_id, name, arguments, .. } => answer.calls.push(ToolCall {
                    id: Some(call_id.clone()),
                    name: name.clone(),
                    arguments: chat::arguments(arguments),
                }),
            }
        }
        messages.push(answer);
        match serde_json::to_string(&self.response) {
            Ok(response) => store.put(self.response.id(), Stored { messages, response }),
            Err(error) => tracing::error!(%error, "a response could not be kept"),
        }
    }
}

fn tell(kind: Kind<'_>, sequence: &mut u64, chunks: &mut Chunks) {
    chunks.named(kind.name(), &Event { sequence_number: *sequence, kind });
    *sequence += 1;
}

impl stream::Writer for Writer {
    fn open(&mut self, chunks: &mut Chunks) {
        self.send_response(|response| Kind::Created { response }, chunks);
        self.send_response(|response| Kind::InProgress { response }, chunks);
    }

    fn write(&mut self, event: generate::Event, chunks: &mut Chunks) {
        match event {
            generate::Event::Token { text, calls, reasoning, logprob, .. } => {
                let thinks = reasoning.is_some();
                self.thought(reasoning.unwrap_or_default(), chunks);
                self.text(text, logprob.filter(|_| !thinks), chunks);
                calls.into_iter().for_each(|piece| self.call(piece, chunks));
            }
            generate::Event::Finished { text, calls, reasoning, reason, .. } => {
                self.thought(reasoning.unwrap_or_default(), chunks);
                self.text(text, None, chunks);
                calls.into_iter().for_each(|piece| self.call(piece, chunks));
                if self.response.output.is_empty() {
                    // An answer of nothing is a message of nothing.
                    let (id, status, role) = (new_id("msg"), Status::InProgress, Role::Assistant);
                    let item = Item::Message { id, status, role, content: Vec::new() };
                    self.begin(Open::Text, item, chunks);
                }
                let cut = reason == FinishReason::Length;
                self.close(if cut { Status::Incomplete } else { Status::Completed }, chunks);
                self.reason = reason;
            }
            generate::Event::Done { usage, .. } => {
                self.response.finish(self.reason, usage, unix_seconds(SystemTime::now()));
                self.keep();
                match self.reason {
                    FinishReason::Stop => self.send_response(|response| Kind::Completed { response }, chunks),
                    FinishReason::Length => {
                        self.send_response(|response| Kind::Incomplete { response }, chunks)
                    }
                }
            }
            generate::Event::Started { .. } | generate::Event::Prompt { .. } | generate::Event::Failed(_) => {
            }
        }
    }

    fn fail(&mut self, error: &ApiError, chunks: &mut Chunks) {
        self.response.status = ResponseStatus::Failed;
        self.response.error = Some(ResponseError { code: error.code, message: error.message.clone() });
        self.send_response(|response| Kind::Failed { response }, chunks);
    }

    fn close(&mut self, _: &mut Chunks) {}
}
