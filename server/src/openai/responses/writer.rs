//! Makes a response of what a running request reports, item by item. A stream is told of every step; one who
//! waits gets the response.

use std::time::SystemTime;

use arrcoc_runtime::generate::{self, CallPiece, FinishReason, Receipt, Speaker, TokenLogprob, ToolCall};
use serde_json::Value;

use super::events::{Event, Kind};
use super::item::{Item, Part, Role, Status, new_id};
use super::response::{Echo, Response, ResponseError, ResponseStatus};
use super::store::{Store, Stored};
use crate::chat::{Called, Message, Piece};
use crate::error::ApiError;
use crate::generation::Running;
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
enum Open {
    Text(Vec<ChosenToken>),
    Thoughts,
    Call,
}

impl Writer {
    /// Writes the response to a request.
    pub fn new(echo: Echo, model: &str, receipts: Option<&[Receipt]>, keep: Option<Keep>) -> Self {
        let response = Response::begun(echo, model, unix_seconds(SystemTime::now()), receipts);
        Self { response, reason: FinishReason::Length, open: None, early: Vec::new(), sequence: 0, keep }
    }

    /// Waits for the whole response.
    ///
    /// # Errors
    /// What broke it off.
    pub async fn collect(mut self, mut running: Running) -> Result<Response, ApiError> {
        let mut unheard = Chunks::default();
        loop {
            match running.next().await {
                generate::Event::Failed(error) => return Err(error.into()),
                event => {
                    let last = matches!(event, generate::Event::Done { .. });
                    stream::Writer::write(&mut self, event, &mut unheard);
                    unheard = Chunks::default();
                    if last {
                        return Ok(self.response);
                    }
                }
            }
        }
    }

    fn send(&mut self, kind: Kind<'_>, chunks: &mut Chunks) {
        let name = kind.name();
        chunks.named(name, &Event { kind, sequence_number: self.sequence });
        self.sequence += 1;
    }

    /// Tells of the response as it stands.
    fn send_response(&mut self, kind: fn(&Response) -> Kind<'_>, chunks: &mut Chunks) {
        let kind = kind(&self.response);
        let name = kind.name();
        chunks.named(name, &Event { kind, sequence_number: self.sequence });
        self.sequence += 1;
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
            Open::Text(_) => {
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
        if !matches!(self.open, Some(Open::Text(_))) {
            if delta.is_empty() {
                self.early.extend(token.iter().map(ChosenToken::from));
                return;
            }
            let (id, status, role) = (new_id("msg"), Status::InProgress, Role::Assistant);
            self.begin(
                Open::Text(Vec::new()),
                Item::Message { id, status, role, content: Vec::new() },
                chunks,
            );
        }
        let mut early = std::mem::take(&mut self.early);
        early.extend(token.iter().map(ChosenToken::from));
        let token = early;
        if let Some(Open::Text(all)) = &mut self.open {
            all.extend(token.iter().cloned());
        }
        if let Some(Item::Message { content, .. }) = self.response.output.last_mut()
            && let Some(Part::OutputText { text, logprobs, .. }) = content.last_mut()
        {
            text.push_str(&delta);
            logprobs.extend(token.iter().cloned());
        }
        if !delta.is_empty() || !token.is_empty() {
            let (output_index, item_id) = self.place();
            self.send(
                Kind::TextDelta { item_id, output_index, content_index: 0, delta, logprobs: token },
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
        let Some(open) = self.open.take() else { return };
        let (output_index, item_id) = self.place();
        let Some(item) = self.response.output.last_mut() else { return };
        let (Item::Message { status: of, .. }
        | Item::FunctionCall { status: of, .. }
        | Item::Reasoning { status: of, .. }) = item;
        *of = status;
        let item = item.clone();
        match (&item, open) {
            (Item::Message { content, .. }, Open::Text(logprobs)) => {
                let Some(part) = content.last().cloned() else { return };
                let (id, text) = (item_id.clone(), part.text().to_owned());
                let done = Kind::TextDone { item_id: id, output_index, content_index: 0, text, logprobs };
                self.send(done, chunks);
                self.send(Kind::PartDone { item_id, output_index, content_index: 0, part }, chunks);
            }
            (Item::Reasoning { content, .. }, _) => {
                let Some(part) = content.last().cloned() else { return };
                let (id, text) = (item_id.clone(), part.text().to_owned());
                self.send(Kind::ThoughtDone { item_id: id, output_index, content_index: 0, text }, chunks);
                self.send(Kind::PartDone { item_id, output_index, content_index: 0, part }, chunks);
            }
            (Item::FunctionCall { arguments, .. }, _) => {
                let arguments = arguments.clone();
                self.send(Kind::ArgumentsDone { item_id, output_index, arguments }, chunks);
            }
            (Item::Message { .. }, _) => {}
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
                    arguments: serde_json::from_str(arguments)
                        .ok()
                        .filter(Value::is_object)
                        .unwrap_or_else(|| arguments.clone().into()),
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
                    self.begin(Open::Text(Vec::new()), item, chunks);
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
