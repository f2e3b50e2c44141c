//! Answers in pieces: server-sent events, and lines of JSON. Unless an API has it otherwise, events are as
//! OpenAI sends them: `data: {...}` per chunk, `data: [DONE]` at the end, and an `error` event where a stream
//! breaks off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use arrcoc_runtime::generate::{Event, PromptToken};
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _, stream};
use serde::Serialize;

use crate::error::ApiError;
use crate::generation::{Running, Several};

/// Turns what a request reports into chunks.
pub trait Writer: Send + 'static {
    /// Pushes the chunks before any token.
    fn open(&mut self, chunks: &mut Chunks);
    /// Pushes the chunks that an event gives rise to; `Prompt` and `Failed` never come here.
    fn write(&mut self, event: Event, chunks: &mut Chunks);
    /// Pushes the chunks of a prompt, whose answers are the choices from `first` on; only where a request
    /// wants to be told.
    fn prompt(&mut self, _first: usize, _tokens: Vec<PromptToken>, _chunks: &mut Chunks) {}
    /// Pushes the chunks of a stream that breaks off.
    fn fail(&mut self, error: &ApiError, chunks: &mut Chunks) {
        chunks.named("error", &error.body());
    }
    /// Pushes what ends a stream.
    fn close(&mut self, chunks: &mut Chunks) {
        chunks.ready.push_back(Chunk { name: None, data: "[DONE]".into() });
    }
}

/// Chunks that wait to be sent.
#[derive(Default)]
pub struct Chunks {
    ready: VecDeque<Chunk>,
    /// Nobody reads them: none is written.
    unheard: bool,
}

/// JSON, and the name of its event, where it has one.
struct Chunk {
    name: Option<&'static str>,
    data: String,
}

impl Chunks {
    /// Adds one.
    pub fn push(&mut self, chunk: &impl Serialize) {
        self.add(None, chunk);
    }

    /// Adds one of a name.
    pub fn named(&mut self, name: &'static str, chunk: &impl Serialize) {
        self.add(Some(name), chunk);
    }

    fn add(&mut self, name: Option<&'static str>, data: &impl Serialize) {
        if self.unheard {
            return;
        }
        match serde_json::to_string(data) {
            Ok(data) => self.ready.push_back(Chunk { name, data }),
            // Only maps whose keys are no strings cannot be written, and no type of ours has one.
            Err(error) => tracing::error!(%error, "a chunk could not be written"),
        }
    }
}

/// Waits for the whole answer: a writer that has been told all of it, and of whose chunks nobody reads any.
///
/// # Errors
/// What broke it off.
pub async fn collect<W: Writer>(mut running: Running, mut writer: W) -> Result<W, ApiError> {
    let mut chunks = Chunks { unheard: true, ..Chunks::default() };
    loop {
        match running.next().await {
            Event::Failed(error) => return Err(error.into()),
            event => {
                let last = matches!(event, Event::Done { .. });
                writer.write(event, &mut chunks);
                if last {
                    return Ok(writer);
                }
            }
        }
    }
}

struct State<W> {
    running: Option<Several>,
    writer: W,
    ready: Chunks,
}

/// The response that streams a running request as events. When the client hangs up, the body is dropped, and
/// with it the request.
pub fn events<W: Writer>(running: impl Into<Several>, writer: W, keep_alive: Duration) -> Response {
    let events = chunks(running.into(), writer).map(|Chunk { name, data }| {
        let event = name.map_or_else(sse::Event::default, |name| sse::Event::default().event(name));
        Ok::<_, Infallible>(event.data(data))
    });
    unbuffered(Sse::new(events).keep_alive(KeepAlive::new().interval(keep_alive)).into_response())
}

/// The same as lines of JSON. A line that says nothing would be none: such a stream is silent while nothing
/// happens.
pub fn lines<W: Writer>(running: impl Into<Several>, writer: W) -> Response {
    let lines =
        chunks(running.into(), writer).map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk.data + "\n")));
    let media = [(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))];
    unbuffered((media, Body::from_stream(lines)).into_response())
}

fn chunks<W: Writer>(running: Several, mut writer: W) -> impl Stream<Item = Chunk> {
    let mut ready = Chunks::default();
    writer.open(&mut ready);
    let state = State { running: Some(running), writer, ready };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(chunk) = state.ready.ready.pop_front() {
                return Some((chunk, state));
            }
            match state.running.as_mut()?.next().await? {
                Ok((first, event)) => state.advance(first, event),
                Err(error) => state.break_off(&error),
            }
        }
    })
}

fn unbuffered(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies of the nginx kind otherwise collect the stream before they pass it on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl<W: Writer> State<W> {
    fn break_off(&mut self, error: &ApiError) {
        tracing::info!(code = error.code, reason = error.message, "stream broke off");
        self.writer.fail(error, &mut self.ready);
        self.running = None;
    }

    fn advance(&mut self, first: usize, event: Event) {
        match event {
            Event::Failed(error) => self.break_off(&error.into()),
            Event::Prompt { tokens } => self.writer.prompt(first, tokens, &mut self.ready),
            event => {
                let last = matches!(event, Event::Done { .. });
                self.writer.write(event, &mut self.ready);
                if last {
                    self.writer.close(&mut self.ready);
                    self.running = None;
                }
            }
        }
    }
}
