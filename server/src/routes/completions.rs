//! `POST /v1/completions`: going on from a text, OpenAI's older form. Gateways and load generators require
//! it.

use arrcoc_runtime::generate::{
    Budget, Event, FORM, FinishReason, Prompt, Request, Sampling, Selection, TokenLogprob,
};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::Endpoint;
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::generation::Running;
use crate::openai::Head;
use crate::openai::completion::{Choice, Completion, LegacyLogprobs, TextCompletion};
use crate::openapi::{self, Answer, Key, Page};
use crate::state::App;
use crate::stream;

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/v1/completions",
        handler: post(handle),
        page: Page {
            method: "post",
            id: "createCompletion",
            summary: "Go on from a text",
            tag: "openai",
            key: Key::Api,
            request: Some(openapi::of::<Completion>),
            answer: Answer::JsonOrStream(
                openapi::of::<TextCompletion<'static>>,
                openapi::of::<TextCompletion<'static>>,
            ),
            errors: &[400, 401, 404, 408, 413, 415, 429, 500, 503, 504],
        },
    }
}

async fn handle(
    _key: ApiKey,
    State(app): State<App>,
    body: JsonBody<Completion>,
) -> Result<Response, ApiError> {
    let arrived = body.arrived;
    let checked = body.into_small();
    let serving = app.serving()?;
    serving.check_model(checked.model.as_deref())?;
    serving.admit()?;
    let head = Head::new("cmpl", &serving.name, serving.engine.info());
    let (stream, include_usage, choices) = (checked.stream, checked.include_usage, checked.choices);
    let with_logprobs = checked.top_logprobs.is_some();
    let form_field = checked.bound.as_ref().map_or(FORM, |bound| bound.field);
    let defaults = &serving.engine.info().generation;
    let request = Request {
        prompt: Prompt::Text(checked.prompt),
        budget: Budget::Auto,
        selection: Selection::default(),
        explain: false,
        sampling: checked.sampling.over(&Sampling::of(defaults)),
        choices,
        max_tokens: checked.max_tokens.limited_by(defaults),
        stop: checked.stop,
        top_logprobs: checked.top_logprobs,
        form: checked.bound.map(|bound| bound.form),
    };
    let started = Running::start(&app, serving, arrived, request).await;
    let (running, _) = started.map_err(|error| error.renamed(FORM, form_field))?;
    if stream {
        let writer = Writer { head, include_usage, offsets: vec![0; choices] };
        return Ok(stream::events(running, writer, app.config.timeouts.keep_alive.0));
    }
    collect(running, &head, choices, with_logprobs).await
}

/// An answer as it grows.
#[derive(Clone)]
struct Growing {
    text: String,
    logprobs: LegacyLogprobs,
    offset: usize,
    reason: FinishReason,
}

async fn collect(
    mut running: Running,
    head: &Head,
    choices: usize,
    with_logprobs: bool,
) -> Result<Response, ApiError> {
    let empty = Growing {
        text: String::new(),
        logprobs: LegacyLogprobs::default(),
        offset: 0,
        reason: FinishReason::Length,
    };
    let mut choices = vec![empty; choices];
    let usage = loop {
        match running.next().await {
            Event::Token { choice, text, logprob, .. } => {
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.text.push_str(&text);
                if let Some(logprob) = logprob {
                    choice.logprobs.push(&logprob, &mut choice.offset);
                }
            }
            Event::Finished { choice, text, reason, .. } => {
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.text.push_str(&text);
                choice.reason = reason;
            }
            Event::Done { usage, .. } => break usage,
            Event::Failed(error) => return Err(error.into()),
            Event::Started { .. } => {}
        }
    };
    let choices = choices.into_iter().enumerate().map(|(index, choice)| Choice {
        index,
        text: choice.text,
        logprobs: with_logprobs.then_some(choice.logprobs),
        finish_reason: Some(choice.reason.into()),
    });
    Ok(axum::Json(TextCompletion::new(head, choices.collect(), Some(Some(usage)))).into_response())
}

struct Writer {
    head: Head,
    include_usage: bool,
    /// Characters so far, per choice.
    offsets: Vec<usize>,
}

impl Writer {
    fn chunk(&self, choice: Choice) -> TextCompletion<'_> {
        TextCompletion::new(&self.head, vec![choice], self.include_usage.then_some(None))
    }

    fn logprobs(&mut self, index: usize, token: Option<TokenLogprob>) -> Option<LegacyLogprobs> {
        let (token, offset) = (token?, self.offsets.get_mut(index)?);
        let mut logprobs = LegacyLogprobs::default();
        logprobs.push(&token, offset);
        Some(logprobs)
    }
}

impl stream::Writer for Writer {
    fn open(&mut self, _: &mut stream::Chunks) {}

    fn write(&mut self, event: Event, chunks: &mut stream::Chunks) {
        match event {
            // One for each token, though it may have no text: clients count and time them.
            Event::Token { choice: index, text, logprob, .. } => {
                let logprobs = self.logprobs(index, logprob);
                chunks.push(&self.chunk(Choice { index, text, logprobs, finish_reason: None }));
            }
            Event::Finished { choice: index, text, reason, .. } => {
                let finish_reason = Some(reason.into());
                chunks.push(&self.chunk(Choice { index, text, logprobs: None, finish_reason }));
            }
            Event::Done { usage, .. } if self.include_usage => {
                chunks.push(&TextCompletion::new(&self.head, Vec::new(), Some(Some(usage))));
            }
            Event::Done { .. } | Event::Started { .. } | Event::Failed(_) => {}
        }
    }
}
