//! `POST /v1/chat/completions`: questions about images, and chat in general.

use arrcoc_runtime::generate::{CallPiece, Event, Receipt};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::Endpoint;
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::chat::{self, Asked};
use crate::error::ApiError;
use crate::openai::Head;
use crate::openai::chat::{ChatCompletion, ChatRequest, Chunk, Chunks};
use crate::openapi::{self, Answer, Key, Page};
use crate::state::App;
use crate::stream;

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/v1/chat/completions",
        handler: post(handle),
        page: Page {
            method: "post",
            id: "createChatCompletion",
            summary: "Answer a conversation, which may hold images",
            tag: "openai",
            key: Key::Api,
            request: Some(openapi::of::<ChatRequest>),
            answer: Answer::JsonOrStream(
                openapi::of::<ChatCompletion<'static>>,
                openapi::of::<Chunk<'static>>,
            ),
            errors: &[400, 401, 404, 408, 413, 415, 429, 500, 503, 504],
        },
    }
}

async fn handle(
    _key: ApiKey,
    State(app): State<App>,
    JsonBody { value: asked, held, arrived }: JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    let ChatRequest { chat, stream, include_usage, include_reasoning, as_functions } = asked;
    let serving = app.serving()?;
    serving.check_model(chat.model.as_deref())?;
    // Before a single image is decoded or fetched.
    serving.admit()?;
    let head = Head::new("chatcmpl", &serving.name, serving.engine.info());
    let (choices, explain, with_logprobs) = (chat.choices, chat.explain, chat.top_logprobs.is_some());
    let Asked { running, started } = chat::start(&app, serving, chat, held, arrived).await?;
    let receipts = explain.then_some(started.receipts);
    if stream {
        let chunks = Chunks { head, include_usage, include_reasoning, as_functions };
        let writer = Writer { chunks, called: vec![false; choices], receipts };
        return Ok(stream::events(running, writer, app.config.timeouts.keep_alive.0));
    }
    let (answers, usage, _) = chat::collect(running, choices, with_logprobs, include_reasoning).await?;
    let completion = ChatCompletion::new(&head, answers, as_functions, usage, receipts.as_deref());
    Ok(axum::Json(completion).into_response())
}

struct Writer {
    chunks: Chunks,
    /// Whether each choice has called something.
    called: Vec<bool>,
    receipts: Option<Vec<Receipt>>,
}

impl stream::Writer for Writer {
    fn open(&mut self, chunks: &mut stream::Chunks) {
        let mut receipts = self.receipts.take();
        for index in 0..self.called.len() {
            chunks.push(&self.chunks.role(index, receipts.take().as_deref()));
        }
    }

    fn write(&mut self, event: Event, chunks: &mut stream::Chunks) {
        match event {
            // One for each token, though its text may be held back, or it may have none: clients count and
            // time them.
            Event::Token { choice, text, calls, reasoning, logprob, .. } => {
                self.note(choice, &calls);
                chunks.push(&self.chunks.content(choice, text, calls, reasoning, logprob.as_ref()));
            }
            Event::Finished { choice, text, calls, reasoning, reason } => {
                self.note(choice, &calls);
                let thought = reasoning.as_ref().is_some_and(|text| !text.is_empty());
                if !text.is_empty() || !calls.is_empty() || thought {
                    chunks.push(&self.chunks.content(choice, text, calls, reasoning, None));
                }
                let called = self.called.get(choice).is_some_and(|called| *called);
                chunks.push(&self.chunks.finish(choice, reason, called));
            }
            Event::Done { usage, .. } if self.chunks.include_usage => chunks.push(&self.chunks.usage(usage)),
            Event::Done { .. } | Event::Started { .. } | Event::Prompt { .. } | Event::Failed(_) => {}
        }
    }
}

impl Writer {
    fn note(&mut self, choice: usize, calls: &[CallPiece]) {
        if let Some(called) = self.called.get_mut(choice) {
            *called |= !calls.is_empty();
        }
    }
}
