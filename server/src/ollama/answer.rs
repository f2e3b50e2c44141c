//! Answers: lines of JSON, or the one that holds all of it.

use std::time::{Duration, SystemTime};

use arrcoc_runtime::generate::{self, CallPiece, FinishReason, Receipt, Timings, Usage};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::error::ErrorBody;
use super::moment;
use crate::chat::{self, Answer, Called, object};
use crate::error::ApiError;
use crate::generation::Running;
use crate::openai::explanation::Explanation;
use crate::stream::{self, Chunks};

/// A line of an answer, or all of it.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[schemars(rename = "OllamaAnswer")]
pub struct Line {
    model: String,
    created_at: String,
    /// Of chats
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    /// Of texts
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    /// Of texts: what the model thought before
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<String>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    /// Token counts, and nanoseconds
    #[serde(flatten)]
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
    /// Where the visual tokens went, where the request asked
    #[serde(skip_serializing_if = "Option::is_none")]
    arrcoc: Option<Explanation>,
}

#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[schemars(inline)]
struct Message {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct ToolCall {
    id: String,
    function: Function,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(inline)]
struct Function {
    index: usize,
    name: String,
    arguments: Value,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(inline)]
struct Counts {
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
    prompt_eval_duration: u64,
    eval_count: usize,
    eval_duration: u64,
}

impl ToolCall {
    fn of(index: usize, Called { id, name, arguments }: Called) -> Self {
        Self { id, function: Function { index, name, arguments: object(&arguments) } }
    }
}

/// Writes one answer.
pub struct Writer {
    model: String,
    is_chat: bool,
    receipts: Option<Vec<Receipt>>,
    reason: FinishReason,
    calls: usize,
    /// A call whose arguments have not all come: they are sent whole.
    call: Option<Called>,
}

impl Writer {
    /// Writes the answer to a chat, or to a text.
    pub fn new(model: &str, is_chat: bool, receipts: Option<Vec<Receipt>>) -> Self {
        Self {
            model: model.to_owned(),
            is_chat,
            receipts,
            reason: FinishReason::Length,
            calls: 0,
            call: None,
        }
    }

    /// What a request is answered that asks for nothing: the model is there.
    pub fn loaded(model: &str, is_chat: bool) -> Line {
        let line = Self::new(model, is_chat, None).line(String::new(), None, Vec::new());
        Line { done: true, done_reason: Some("load"), ..line }
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// What broke it off.
    pub async fn collect(mut self, running: Running) -> Result<Line, ApiError> {
        let (answers, usage, timings) = chat::collect(running, 1, false, true).await?;
        let mut line = self.line(String::new(), None, Vec::new());
        for Answer { text, reasoning, calls, reason, .. } in answers {
            self.reason = reason;
            let calls = calls.into_iter().enumerate().map(|(index, call)| ToolCall::of(index, call));
            line = self.line(text, reasoning, calls.collect());
        }
        Ok(self.last(line, usage, &timings))
    }

    fn line(&self, text: String, thinking: Option<String>, tool_calls: Vec<ToolCall>) -> Line {
        let thinking = thinking.filter(|text| !text.is_empty());
        let mut line =
            Line { model: self.model.clone(), created_at: moment(SystemTime::now()), ..Line::default() };
        if self.is_chat {
            line.message = Some(Message { role: "assistant", content: text, thinking, tool_calls });
        } else {
            (line.response, line.thinking) = (Some(text), thinking);
        }
        line
    }

    fn last(&mut self, line: Line, usage: Usage, timings: &Timings) -> Line {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let counts = Counts {
            total_duration: nanoseconds(timings.total),
            load_duration: 0,
            prompt_eval_count: usage.prompt_tokens,
            prompt_eval_duration: nanoseconds(timings.first_token),
            eval_count: usage.completion_tokens,
            eval_duration: nanoseconds(timings.total.saturating_sub(timings.first_token)),
        };
        let done_reason = match self.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        };
        let arrcoc = self.receipts.take().as_deref().map(Explanation::from);
        Line { done: true, done_reason: Some(done_reason), counts: Some(counts), arrcoc, ..line }
    }

    /// Takes pieces; returns the calls that are complete.
    fn complete(&mut self, pieces: Vec<CallPiece>) -> Vec<ToolCall> {
        pieces.into_iter().filter_map(|piece| self.add_call(piece)).collect()
    }

    /// Takes a piece; returns the call before it, which is complete.
    fn add_call(&mut self, piece: CallPiece) -> Option<ToolCall> {
        let before = if piece.name.is_some() { self.end_call() } else { None };
        match (piece.name, &mut self.call) {
            (Some(name), call) => {
                *call = Some(Called { id: Called::new_id(), name, arguments: piece.arguments });
            }
            (None, Some(call)) => call.arguments.push_str(&piece.arguments),
            (None, None) => {}
        }
        before
    }

    fn end_call(&mut self) -> Option<ToolCall> {
        let call = ToolCall::of(self.calls, self.call.take()?);
        self.calls += 1;
        Some(call)
    }
}

impl stream::Writer for Writer {
    fn open(&mut self, _: &mut Chunks) {}

    fn write(&mut self, event: generate::Event, chunks: &mut Chunks) {
        let (text, thinking, calls) = match event {
            generate::Event::Token { text, calls, reasoning, .. } => (text, reasoning, self.complete(calls)),
            generate::Event::Finished { text, calls, reasoning, reason, .. } => {
                self.reason = reason;
                let mut calls = self.complete(calls);
                calls.extend(self.end_call());
                (text, reasoning, calls)
            }
            generate::Event::Done { usage, timings } => {
                let line = self.line(String::new(), None, Vec::new());
                chunks.push(&self.last(line, usage, &timings));
                return;
            }
            generate::Event::Started { .. } | generate::Event::Prompt { .. } | generate::Event::Failed(_) => {
                return;
            }
        };
        // One for each token, though it may have no text: a client that is gone is noticed so.
        chunks.push(&self.line(text, thinking, calls));
    }

    fn fail(&mut self, error: &ApiError, chunks: &mut Chunks) {
        chunks.push(&ErrorBody { error: error.naming() });
    }

    fn close(&mut self, _: &mut Chunks) {}
}
