//! Request bodies: bounded in size, time and common memory. What they say is read in [`crate::json`].

use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use futures::StreamExt;

use self::budget::Held;
use self::coding::{Coding, Decoder, Step};
use crate::error::ApiError;
use crate::json::{self, Body as JsonRequest};
use crate::state::App;

pub(crate) mod budget;
mod coding;
pub(crate) mod files;

/// A request body of type `T`.
pub struct JsonBody<T> {
    /// What it says.
    pub(crate) value: T,
    /// The memory that it is counted with.
    pub(crate) held: Held,
    /// When its head was there: uploads are part of a request's time.
    pub(crate) arrived: Instant,
}

impl<T> JsonBody<T> {
    /// What the body says, of which nothing is large.
    pub(crate) fn into_small(self) -> T {
        self.value
    }
}

/// Bodies above this are parsed on a blocking thread: a megabyte of JSON takes about as long as a decode
/// step.
pub(crate) const OFFLOAD_BYTES: usize = 64 << 10;

/// A decoder may leave input for another step this often, and once more for this many bytes; others get their
/// turn after this many steps.
const MOST_STEPS: usize = 1000;
const STEP_BYTES: usize = 1 << 10;
const STEPS_IN_TURN: usize = 32;

/// The buffer of a body that nobody announced grows by so much at a time: from this size on it is a mapping
/// of its own, which grows without being copied.
const GROWTH: usize = 1 << 20;

impl<T: JsonRequest> FromRequest<App> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let arrived = Instant::now();
        let (parts, body) = request.into_parts();
        let limit = app.config.limits.body.0;
        check_content_type(&parts.headers)?;
        let coding = Coding::of(&parts.headers)?;
        let announced = announced(&parts.headers);
        if announced.is_some_and(|length| length > limit as u64) {
            // Before the body is asked for: who expects `100 Continue` gets this instead.
            return Err(ApiError::body_too_large(limit));
        }
        let timeout = app.config.timeouts.body.0;
        let mut reader =
            Reader { decoder: Decoder::new(coding), limit, held: app.bodies.hold(), steps: 0, taken: 0 };
        let read = reader.read(body, announced.filter(|_| coding == Coding::Identity));
        tokio::time::timeout(timeout, read).await.map_err(|_| ApiError::slow_body(timeout))??;
        let Reader { mut decoder, held, .. } = reader;
        let bytes = std::mem::take(&mut decoder.room().bytes);
        let app = app.clone();
        // What is counted goes to the thread and back: a client that hangs up does not stop the thread.
        let (value, held) = offload(bytes.len(), move || {
            let value = json::parse(&bytes, &app.config.limits);
            drop(bytes);
            (value, held)
        })
        .await?;
        Ok(Self { value: value?, held, arrived })
    }
}

/// Runs `work` here when `bytes` is small, and on a blocking thread when it is large.
///
/// # Errors
/// 500 when `work` panics.
pub(crate) async fn offload<R: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, ApiError> {
    if bytes <= OFFLOAD_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let found = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = found.as_deref().and_then(|value| value.split(';').next()).unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(ApiError::media_type(found.as_deref()))
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads one body.
struct Reader {
    decoder: Decoder,
    limit: usize,
    held: Held,
    /// Steps in which the decoder left some of its input for the next one, and the bytes that it took in all.
    steps: usize,
    taken: usize,
}

impl Reader {
    async fn read(&mut self, body: Body, announced: Option<u64>) -> Result<(), ApiError> {
        let mut stream = body.into_data_stream();
        // All at once: bodies that grew side by side, each with a part of the memory, would wait for each
        // other.
        self.grow_to(announced.map_or(0, |length| length as usize)).await?;
        let shed = self.held.shed();
        tokio::pin!(shed);
        loop {
            let chunk = tokio::select! {
                chunk = stream.next() => chunk,
                () = &mut shed => return Err(ApiError::stalled_body()),
            };
            match chunk {
                None => break,
                Some(Ok(chunk)) => self.take(&chunk).await?,
                Some(Err(error)) => {
                    return Err(ApiError::malformed(
                        "body_unreadable",
                        format!("the body broke off: {error}"),
                    ));
                }
            }
        }
        loop {
            match self.decoder.finish() {
                Step::Taken(_) => break,
                Step::Full => self.grow().await?,
                Step::Broken => return Err(broken()),
            }
        }
        self.held.complete();
        Ok(())
    }

    async fn take(&mut self, chunk: &Bytes) -> Result<(), ApiError> {
        self.held.arrived(chunk.len());
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            match self.decoder.step(rest) {
                Step::Taken(taken) => {
                    rest = rest.get(taken..).unwrap_or_default();
                    self.taken += taken;
                    self.steps += usize::from(!rest.is_empty());
                    // A compressed body may consist of parts that hold nothing.
                    if self.steps > MOST_STEPS + self.taken / STEP_BYTES {
                        return Err(broken());
                    }
                    if self.steps % STEPS_IN_TURN == 1 {
                        tokio::task::yield_now().await;
                    }
                }
                Step::Full => self.grow().await?,
                Step::Broken => return Err(broken()),
            }
        }
        Ok(())
    }

    /// Makes room for more, at most [`GROWTH`] at a time.
    async fn grow(&mut self) -> Result<(), ApiError> {
        let has = self.decoder.room().most;
        if has >= self.limit {
            return Err(ApiError::body_too_large(self.limit));
        }
        // Small bodies need not be counted; twice as much each time keeps the copies few.
        let next = has + has.clamp(1 << 12, GROWTH);
        self.grow_to(next.min(self.limit)).await?;
        // Decoding is work: others get their turn in between.
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.held.grow(bytes).await.map_err(|exhausted| ApiError::no_body_memory(exhausted.retry_after))?;
        let room = self.decoder.room();
        let more = bytes.saturating_sub(room.bytes.len());
        room.bytes.try_reserve_exact(more).map_err(|_| {
            ApiError::no_memory(format!(
                "the request body takes {bytes} bytes of memory, which are not to be had now"
            ))
        })?;
        room.most = bytes;
        Ok(())
    }
}

fn broken() -> ApiError {
    ApiError::malformed("body_undecodable", "the body is not coded as its header `Content-Encoding` says")
}
