//! `POST /v1/chat/completions`: questions about images, and chat in general.

use std::time::Instant;

use arrcoc_runtime::generate::{self, Event, Part, Prompt, Receipt, Request};
use arrcoc_runtime::model::ModelInfo;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use super::Endpoint;
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::body::files::Files;
use crate::error::ApiError;
use crate::generation::Running;
use crate::openai::Head;
use crate::openai::chat::{self, Chat, Choice, Chunks, Message, Piece};
use crate::openapi::{body, errors, json_or_stream};
use crate::state::App;
use crate::{media, sse};

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/v1/chat/completions",
        handler: post(handle),
        document: json!({"post": {
            "operationId": "createChatCompletion",
            "summary": "Answer a conversation, which may hold images",
            "tags": ["openai"],
            "security": [{"apiKey": []}, {}],
            "requestBody": body("ChatRequest"),
            "responses": errors(
                json_or_stream("ChatCompletion", "ChatCompletionChunk"),
                &[400, 401, 404, 408, 413, 415, 429, 500, 503, 504],
            ),
        }}),
    }
}

async fn handle(
    _key: ApiKey,
    State(app): State<App>,
    JsonBody { value: chat, held }: JsonBody<Chat>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let serving = app.serving()?;
    serving.check_model(chat.model.as_deref())?;
    // Before a single image is decoded or fetched.
    serving.admit()?;
    let head = Head::new("chatcmpl", &serving.name, serving.engine.info());
    let (stream, include_usage, choices, explain) =
        (chat.stream, chat.include_usage, chat.choices, chat.explain);
    let with_logprobs = chat.top_logprobs.is_some();
    let length_field = chat.length_field;
    let request = request(&app, serving.engine.info(), chat, Files::new(held)).await?;
    let (running, started) = Running::start(&app, serving, arrived, request)
        .await
        .map_err(|error| error.renamed("max_tokens", length_field))?;
    let receipts = explain.then_some(started.receipts);
    if stream {
        let writer = Writer { chunks: Chunks { head, include_usage }, choices, receipts };
        return Ok(sse::stream(running, writer, app.config.timeouts.keep_alive.0));
    }
    let answer = collect(running, choices, with_logprobs).await?;
    Ok(axum::Json(chat::completion(&head, &answer.choices, answer.usage, receipts.as_deref()))
        .into_response())
}

/// Loads the images and builds the runtime's request.
async fn request(app: &App, info: &ModelInfo, chat: Chat, mut files: Files) -> Result<Request, ApiError> {
    let budget = chat.budget(&info.token_budgets);
    let mut messages = Vec::with_capacity(chat.messages.len());
    for Message { role, content } in chat.messages {
        let mut parts = Vec::with_capacity(content.len());
        for piece in content {
            parts.push(match piece {
                Piece::Text(text) => Part::Text(text),
                Piece::Image { url, param, .. } => {
                    let file;
                    (files, file) = media::load(app, files, url, &param).await?;
                    Part::Image(file)
                }
            });
        }
        if info.images_first {
            // Stable: images keep their order, and so do texts.
            parts.sort_by_key(|part| matches!(part, Part::Text(_)));
        }
        messages.push(generate::Message { role, content: parts });
    }
    files.complete();
    Ok(Request {
        prompt: Prompt::Chat(messages),
        budget,
        explain: chat.explain,
        sampling: chat.sampling.over(&info.generation.sampling()),
        choices: chat.choices,
        max_tokens: info.generation.limit(chat.max_tokens),
        stop: chat.stop,
        top_logprobs: chat.top_logprobs,
    })
}

struct Answer {
    choices: Vec<Choice>,
    usage: generate::Usage,
}

async fn collect(mut running: Running, choices: usize, with_logprobs: bool) -> Result<Answer, ApiError> {
    let empty = Choice {
        text: String::new(),
        logprobs: with_logprobs.then(Vec::new),
        reason: generate::FinishReason::Length,
    };
    let mut choices = vec![empty; choices];
    loop {
        match running.next().await {
            Event::Token { choice, text, logprob, .. } => {
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.text.push_str(&text);
                if let (Some(all), Some(logprob)) = (&mut choice.logprobs, logprob) {
                    all.push(logprob);
                }
            }
            Event::Finished { choice, text, reason } => {
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.text.push_str(&text);
                choice.reason = reason;
            }
            Event::Done { usage, .. } => return Ok(Answer { choices, usage }),
            Event::Failed(error) => return Err(error.into()),
            Event::Started { .. } => {}
        }
    }
}

struct Writer {
    chunks: Chunks,
    choices: usize,
    receipts: Option<Vec<Receipt>>,
}

impl sse::Writer for Writer {
    fn open(&mut self) -> Vec<Value> {
        let mut receipts = self.receipts.take();
        (0..self.choices).map(|index| self.chunks.role(index, receipts.take().as_deref())).collect()
    }

    fn write(&mut self, event: Event) -> Vec<Value> {
        match event {
            // One for each token, though its text may be held back, or it may have none: clients count and time them.
            Event::Token { choice, text, logprob, .. } => {
                vec![self.chunks.content(choice, &text, logprob.as_ref())]
            }
            Event::Finished { choice, text, reason } => {
                let rest = (!text.is_empty()).then(|| self.chunks.content(choice, &text, None));
                rest.into_iter().chain([self.chunks.finish(choice, reason)]).collect()
            }
            Event::Done { usage, .. } if self.chunks.include_usage => vec![self.chunks.usage(usage)],
            Event::Done { .. } | Event::Started { .. } | Event::Failed(_) => vec![],
        }
    }
}
