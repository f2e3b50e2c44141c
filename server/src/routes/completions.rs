//! `POST /v1/completions`: going on from a text, OpenAI's older form. Gateways and load generators require it.

use std::time::Instant;

use arrcoc_runtime::generate::{Budget, Event, FinishReason, Prompt, Request, TokenLogprob};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use super::Endpoint;
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::generation::Running;
use crate::openai::Head;
use crate::openai::completion::{self, Completion, LegacyLogprobs};
use crate::openapi::{body, errors, json_or_stream};
use crate::sse;
use crate::state::App;

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/v1/completions",
        handler: post(handle),
        document: json!({"post": {
            "operationId": "createCompletion",
            "summary": "Go on from a text",
            "tags": ["openai"],
            "security": [{"apiKey": []}, {}],
            "requestBody": body("CompletionRequest"),
            "responses": errors(
                json_or_stream("Completion", "Completion"),
                &[400, 401, 404, 408, 413, 415, 429, 500, 503, 504],
            ),
        }}),
    }
}

async fn handle(
    _key: ApiKey,
    State(app): State<App>,
    body: JsonBody<Completion>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let checked = body.into_small();
    let serving = app.serving()?;
    serving.check_model(checked.model.as_deref())?;
    serving.admit()?;
    let head = Head::new("cmpl", &serving.name, serving.engine.info());
    let (stream, include_usage, choices) = (checked.stream, checked.include_usage, checked.choices);
    let with_logprobs = checked.top_logprobs.is_some();
    let defaults = &serving.engine.info().generation;
    let request = Request {
        prompt: Prompt::Text(checked.prompt),
        budget: Budget::Auto,
        explain: false,
        sampling: checked.sampling.over(&defaults.sampling()),
        choices,
        max_tokens: defaults.limit(checked.max_tokens),
        stop: checked.stop,
        top_logprobs: checked.top_logprobs,
    };
    let (running, _) = Running::start(&app, serving, arrived, request).await?;
    if stream {
        let writer = Writer { head, include_usage, offsets: vec![0; choices] };
        return Ok(sse::stream(running, writer, app.config.timeouts.keep_alive.0));
    }
    collect(running, &head, choices, with_logprobs).await
}

#[derive(Clone)]
struct Choice {
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
    let empty = Choice {
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
            Event::Finished { choice, text, reason } => {
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.text.push_str(&text);
                choice.reason = reason;
            }
            Event::Done { usage, .. } => break usage,
            Event::Failed(error) => return Err(error.into()),
            Event::Started { .. } => {}
        }
    };
    let choices = choices.into_iter().enumerate().map(|(index, choice)| {
        let logprobs = if with_logprobs { choice.logprobs.into_value() } else { Value::Null };
        completion::choice(index, &choice.text, logprobs, Some(choice.reason))
    });
    Ok(axum::Json(completion::completion(head, choices.collect(), Some(Some(usage)))).into_response())
}

struct Writer {
    head: Head,
    include_usage: bool,
    /// Characters so far, per choice.
    offsets: Vec<usize>,
}

impl Writer {
    fn chunk(&self, index: usize, text: &str, logprobs: Value, reason: Option<FinishReason>) -> Value {
        let choice = completion::choice(index, text, logprobs, reason);
        completion::completion(&self.head, vec![choice], self.include_usage.then_some(None))
    }

    fn logprobs(&mut self, index: usize, token: Option<TokenLogprob>) -> Value {
        match (token, self.offsets.get_mut(index)) {
            (Some(token), Some(offset)) => {
                let mut logprobs = LegacyLogprobs::default();
                logprobs.push(&token, offset);
                logprobs.into_value()
            }
            _ => Value::Null,
        }
    }
}

impl sse::Writer for Writer {
    fn open(&mut self) -> Vec<Value> {
        vec![]
    }

    fn write(&mut self, event: Event) -> Vec<Value> {
        match event {
            // One for each token, though it may have no text: clients count and time them.
            Event::Token { choice, text, logprob, .. } => {
                let logprobs = self.logprobs(choice, logprob);
                vec![self.chunk(choice, &text, logprobs, None)]
            }
            Event::Finished { choice, text, reason } => {
                vec![self.chunk(choice, &text, Value::Null, Some(reason))]
            }
            Event::Done { usage, .. } if self.include_usage => {
                vec![completion::completion(&self.head, vec![], Some(Some(usage)))]
            }
            Event::Done { .. } | Event::Started { .. } | Event::Failed(_) => vec![],
        }
    }
}
