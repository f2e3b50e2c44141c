//! `POST /v1/completions`: going on from a text, OpenAI's older form. Gateways and load generators require
//! it.

use std::sync::Arc;

use arrcoc_runtime::generate::{
    Budget, Event, FORM, FinishReason, Prompt, PromptToken, Request, Sampling, Selection, TokenLogprob,
};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::Endpoint;
use crate::auth::ApiKey;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::generation::Several;
use crate::openai::Head;
use crate::openai::completion::{Choice, Completion, LegacyLogprobs, TextCompletion};
use crate::openapi::{self, Answer, Key, Page};
use crate::state::{App, Serving};
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
    let form_field = checked.bound.as_ref().map_or(FORM, |bound| bound.field);
    let requests: Vec<Request> =
        checked.prompts.iter().map(|prompt| request(&serving, &checked, prompt.clone())).collect();
    if requests.len() > 1 {
        // All of them, before any is answered.
        let (engine, all) = (Arc::clone(&serving.engine), requests.clone());
        let look = move || all.iter().try_for_each(|request| engine.prompt_ids(request).map(drop));
        tokio::task::spawn_blocking(look).await.map_err(ApiError::internal)??;
    }
    let running = Several::start(&app, serving, arrived, requests, checked.best_of).await;
    let running = running.map_err(|error| error.renamed(FORM, form_field))?;
    if checked.stream {
        let answers = checked.prompts.len() * checked.choices;
        let writer = Writer {
            head,
            include_usage: checked.include_usage,
            offsets: vec![0; answers],
            choices: checked.choices,
            prompts: if checked.echo { checked.prompts } else { Vec::new() },
            with_logprobs: checked.top_logprobs.is_some(),
        };
        return Ok(stream::events(running, writer, app.config.timeouts.keep_alive.0));
    }
    collect(running, &head, &checked).await
}

fn request(serving: &Serving, checked: &Completion, prompt: Prompt) -> Request {
    let defaults = &serving.engine.info().generation;
    // The best answers are found by their log-probabilities.
    let ranked = (checked.best_of > checked.choices).then_some(0);
    Request {
        prompt,
        budget: Budget::Auto,
        selection: Selection::default(),
        explain: false,
        sampling: checked.sampling.over(&Sampling::of(defaults)),
        choices: checked.best_of,
        max_tokens: checked.max_tokens.limited_by(defaults),
        stop: checked.stop.clone(),
        top_logprobs: checked.top_logprobs.or(ranked),
        prompt_report: checked.report,
        form: checked.bound.as_ref().map(|bound| bound.form.clone()),
    }
}

/// What an answer begins with, where prompts are repeated: the prompt as it was sent, or as its tokens have
/// it.
fn echoed(prompt: &Prompt, tokens: &[PromptToken]) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        _ => {
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.bytes.iter().copied()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

/// An answer as it grows.
#[derive(Clone)]
struct Growing {
    text: String,
    logprobs: LegacyLogprobs,
    offset: usize,
    reason: FinishReason,
    /// Sum of its tokens' log-probabilities, and how many there are.
    likelihood: (f64, usize),
}

async fn collect(mut running: Several, head: &Head, checked: &Completion) -> Result<Response, ApiError> {
    let empty = Growing {
        text: String::new(),
        logprobs: LegacyLogprobs::default(),
        offset: 0,
        reason: FinishReason::Length,
        likelihood: (0.0, 0),
    };
    let made = checked.best_of;
    let mut answers = vec![empty; checked.prompts.len() * made];
    let usage = loop {
        let next = running.next().await;
        let (first, event) =
            next.unwrap_or_else(|| Err(ApiError::internal("a completion ended without its end")))?;
        match event {
            Event::Prompt { tokens } => {
                let Some(prompt) = checked.prompts.get(first / made) else { continue };
                for answer in answers.iter_mut().skip(first).take(made) {
                    answer.text = echoed(prompt, &tokens);
                    answer.logprobs.push_prompt(&tokens, &mut answer.offset);
                }
            }
            Event::Token { choice, text, logprob, .. } => {
                let Some(answer) = answers.get_mut(choice) else { continue };
                answer.text.push_str(&text);
                if let Some(logprob) = logprob {
                    answer.likelihood.0 += f64::from(logprob.token.logprob);
                    answer.likelihood.1 += 1;
                    answer.logprobs.push(&logprob, &mut answer.offset);
                }
            }
            Event::Finished { choice, text, reason, .. } => {
                let Some(answer) = answers.get_mut(choice) else { continue };
                answer.text.push_str(&text);
                answer.reason = reason;
            }
            Event::Done { usage, .. } => break usage,
            Event::Failed(error) => return Err(error.into()),
            Event::Started { .. } => {}
        }
    };
    let best = answers.chunks_mut(made).flat_map(|of_prompt| {
        if made > checked.choices {
            of_prompt.sort_by(|a, b| b.mean().total_cmp(&a.mean()));
        }
        of_prompt[..checked.choices].to_vec()
    });
    let choices = best.enumerate().map(|(index, answer)| Choice {
        index,
        text: answer.text,
        logprobs: checked.top_logprobs.is_some().then_some(answer.logprobs),
        finish_reason: Some(answer.reason.into()),
    });
    Ok(axum::Json(TextCompletion::new(head, choices.collect(), Some(Some(usage)))).into_response())
}

impl Growing {
    /// Mean log-probability of its tokens; an answer of none is the last to be taken.
    fn mean(&self) -> f64 {
        match self.likelihood {
            (_, 0) => f64::NEG_INFINITY,
            (sum, tokens) => sum / tokens as f64,
        }
    }
}

struct Writer {
    head: Head,
    include_usage: bool,
    /// Characters so far, per choice.
    offsets: Vec<usize>,
    /// Answers of a prompt.
    choices: usize,
    /// The prompts, where answers begin with them.
    prompts: Vec<Prompt>,
    with_logprobs: bool,
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

    fn prompt(&mut self, first: usize, tokens: Vec<PromptToken>, chunks: &mut stream::Chunks) {
        let Some(text) = self.prompts.get(first / self.choices).map(|prompt| echoed(prompt, &tokens)) else {
            return;
        };
        for index in first..first + self.choices {
            let Some(offset) = self.offsets.get_mut(index) else { continue };
            let mut logprobs = LegacyLogprobs::default();
            logprobs.push_prompt(&tokens, offset);
            let logprobs = self.with_logprobs.then_some(logprobs);
            chunks.push(&self.chunk(Choice { index, text: text.clone(), logprobs, finish_reason: None }));
        }
    }

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
            Event::Done { .. } | Event::Started { .. } | Event::Prompt { .. } | Event::Failed(_) => {}
        }
    }
}
