//! `POST /v1/chat/completions`: questions about images, and chat in general.

use arrcoc_runtime::generate::{self, Conversation, Event, Image, Part, Prompt, Receipt, Request, Sampling};
use arrcoc_runtime::model::ModelInfo;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::Endpoint;
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::body::files::Files;
use crate::error::ApiError;
use crate::generation::Running;
use crate::media::{self, Wanted};
use crate::openai::Head;
use crate::openai::chat::{Chat, ChatCompletion, Chunk, Chunks, Finished, Message, Piece};
use crate::openapi::{self, Answer, Key, Page};
use crate::sse;
use crate::state::App;

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
            request: Some(openapi::of::<Chat>),
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
    JsonBody { value: chat, held, arrived }: JsonBody<Chat>,
) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    serving.check_model(chat.model.as_deref())?;
    // Before a single image is decoded or fetched.
    serving.admit()?;
    let head = Head::new("chatcmpl", &serving.name, serving.engine.info());
    let (stream, include_usage, choices, explain) =
        (chat.stream, chat.include_usage, chat.choices, chat.explain);
    let include_reasoning = chat.include_reasoning;
    let with_logprobs = chat.top_logprobs.is_some();
    let length_field = chat.length_field;
    let form_field = chat.bound.as_ref().map_or(generate::FORM, |bound| bound.field);
    let request = request(&app, serving.engine.info(), chat, Files::new(held)).await?;
    let (running, started) = Running::start(&app, serving, arrived, request)
        .await
        .map_err(|error| error.renamed("max_tokens", length_field).renamed(generate::FORM, form_field))?;
    let receipts = explain.then_some(started.receipts);
    if stream {
        let chunks = Chunks { head, include_usage, include_reasoning };
        let writer = Writer { chunks, choices, receipts };
        return Ok(sse::stream(running, writer, app.config.timeouts.keep_alive.0));
    }
    let (answers, usage) = collect(running, choices, with_logprobs, include_reasoning).await?;
    Ok(axum::Json(ChatCompletion::new(&head, answers, usage, receipts.as_deref())).into_response())
}

/// Loads the images and builds the runtime's request.
async fn request(app: &App, info: &ModelInfo, mut chat: Chat, files: Files) -> Result<Request, ApiError> {
    let budget = chat.budget(&info.token_budgets, info.default_budget);
    let (files, loaded) = media::load(app, files, wanted(&mut chat.messages)).await?;
    let mut loaded = loaded.into_iter();
    let messages = std::mem::take(&mut chat.messages);
    let messages = messages.into_iter().map(|Message { role, content, reasoning }| {
        let part = |piece| match piece {
            Piece::Text(text) => Some(Part::Text(text)),
            Piece::Image { coarse, .. } => {
                let image = |file| Part::Image(Image { file, sizing: chat.sizing_of(coarse) });
                loaded.next().map(image)
            }
        };
        let mut parts: Vec<Part> = content.into_iter().filter_map(part).collect();
        if info.images_first {
            // Stable: images keep their order, and so do texts.
            parts.sort_by_key(|part| matches!(part, Part::Text(_)));
        }
        generate::Message { speaker: role, content: parts, reasoning }
    });
    let messages: Vec<_> = messages.collect();
    files.complete();
    Ok(Request {
        prompt: Prompt::Chat(Conversation { messages, variables: chat.variables }),
        budget,
        selection: chat.selection,
        explain: chat.explain,
        sampling: chat.sampling.over(&Sampling::of(&info.generation)),
        choices: chat.choices,
        max_tokens: chat.max_tokens.limited_by(&info.generation),
        stop: chat.stop,
        top_logprobs: chat.top_logprobs,
        form: chat.bound.map(|bound| bound.form),
    })
}

/// Takes the images' URLs out of messages.
fn wanted(messages: &mut [Message]) -> Vec<Wanted> {
    let pieces = messages.iter_mut().flat_map(|message| &mut message.content);
    let image = |piece: &mut Piece| match piece {
        Piece::Image { url, param, .. } => {
            Some(Wanted { url: std::mem::take(url), param: std::mem::take(param) })
        }
        Piece::Text(_) => None,
    };
    pieces.filter_map(image).collect()
}

async fn collect(
    mut running: Running,
    choices: usize,
    with_logprobs: bool,
    include_reasoning: bool,
) -> Result<(Vec<Finished>, generate::Usage), ApiError> {
    let empty = Finished {
        text: String::new(),
        reasoning: None,
        logprobs: with_logprobs.then(Vec::new),
        reason: generate::FinishReason::Length,
    };
    let mut choices = vec![empty; choices];
    loop {
        match running.next().await {
            Event::Token { reasoning: Some(_), .. } if !include_reasoning => {}
            Event::Token { choice, text, reasoning, logprob, .. } => {
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.add(&text, reasoning);
                if let (Some(all), Some(logprob)) = (&mut choice.logprobs, logprob) {
                    all.push(logprob);
                }
            }
            Event::Finished { choice, text, reasoning, reason } => {
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.add(&text, reasoning.filter(|_| include_reasoning));
                choice.reason = reason;
            }
            Event::Done { usage, .. } => return Ok((choices, usage)),
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
    fn open(&mut self, chunks: &mut sse::Chunks) {
        let mut receipts = self.receipts.take();
        for index in 0..self.choices {
            chunks.push(&self.chunks.role(index, receipts.take().as_deref()));
        }
    }

    fn write(&mut self, event: Event, chunks: &mut sse::Chunks) {
        match event {
            // One for each token, though its text may be held back, or it may have none: clients count and
            // time them.
            Event::Token { choice, text, reasoning, logprob, .. } => {
                chunks.push(&self.chunks.content(choice, text, reasoning, logprob.as_ref()));
            }
            Event::Finished { choice, text, reasoning, reason } => {
                if !text.is_empty() || reasoning.as_ref().is_some_and(|text| !text.is_empty()) {
                    chunks.push(&self.chunks.content(choice, text, reasoning, None));
                }
                chunks.push(&self.chunks.finish(choice, reason));
            }
            Event::Done { usage, .. } if self.chunks.include_usage => chunks.push(&self.chunks.usage(usage)),
            Event::Done { .. } | Event::Started { .. } | Event::Failed(_) => {}
        }
    }
}
