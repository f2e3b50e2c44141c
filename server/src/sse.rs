//! Server-sent events. Unless an API has it otherwise, they are as OpenAI sends them: `data: {...}` per chunk,
//! `data: [DONE]` at the end, and an `error` event where a stream breaks off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use arrcoc_runtime::generate::Event;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Serialize;

use crate::error::ApiError;
use crate::generation::Running;

/// Turns what a request reports into chunks.
pub trait Writer: Send + 'static {
    /// Pushes the chunks before any token.
    fn open(&mut self, chunks: &mut Chunks);
    /// Pushes the chunks that an event gives rise to; `Failed` never comes here.
    fn write(&mut self, event: Event, chunks: &mut Chunks);
    /// Pushes the chunks of a stream that breaks off.
    fn fail(&mut self, error: &ApiError, chunks: &mut Chunks) {
        chunks.named("error", &error.body());
    }
    /// Pushes what ends a stream.
    fn close(&mut self, chunks: &mut Chunks) {
        chunks.0.push_back(sse::Event::default().data("[DONE]"));
    }
}

/// Chunks that wait to be sent.
#[derive(Default)]
pub struct Chunks(VecDeque<sse::Event>);

impl Chunks {
    /// Adds one.
    pub fn push(&mut self, chunk: &impl Serialize) {
        self.add(sse::Event::default(), chunk);
    }

    /// Adds an event of a name.
    pub fn named(&mut self, name: &str, chunk: &impl Serialize) {
        self.add(sse::Event::default().event(name), chunk);
    }

    fn add(&mut self, event: sse::Event, data: &impl Serialize) {
        match event.json_data(data) {
            Ok(event) => self.0.push_back(event),
            // Only maps whose keys are no strings cannot be written, and no type of ours has one.
            Err(error) => tracing::error!(%error, "an event could not be written"),
        }
    }
}

struct State<W> {
    running: Option<Running>,
    writer: W,
    ready: Chunks,
}

/// The response that streams a running request. When the client hangs up, the body is dropped, and with it
/// the request.
pub fn stream<W: Writer>(running: Running, mut writer: W, keep_alive: Duration) -> Response {
    let mut ready = Chunks::default();
    writer.open(&mut ready);
    let state = State { running: Some(running), writer, ready };
    let events = stream::unfold(state, |mut state| async move {
        loop {
            if let Some(event) = state.ready.0.pop_front() {
                return Some((Ok::<_, Infallible>(event), state));
            }
            let event = state.running.as_mut()?.next().await;
            state.advance(event);
        }
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(keep_alive)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies of the nginx kind otherwise collect the stream before they pass it on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl<W: Writer> State<W> {
    fn advance(&mut self, event: Event) {
        match event {
            Event::Failed(error) => {
                let error = ApiError::from(error);
                tracing::info!(code = error.code, reason = error.message, "stream broke off");
                self.writer.fail(&error, &mut self.ready);
                self.running = None;
            }
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
