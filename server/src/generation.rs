//! A request on its way through the engine, for the two routes of completions: its events, watched for time
//! and metrics. The clock runs from the request's arrival, so it holds for uploads, fetched images and
//! engines that hang. The runtime's own clock (`Options::timeout`) runs from submission and ends work that
//! nobody watches.

use std::time::{Duration, Instant};

use arrcoc_runtime::generate::{Event, GenerateError, Receipt, Request, Usage};
use arrcoc_runtime::model::Generation;
use futures::future::select_all;
use std::sync::Arc;

use crate::error::ApiError;
use crate::metrics::Finish;
use crate::state::{App, InFlight, Serving};

/// A submitted request. Dropping it cancels the request.
pub struct Running {
    generation: Generation,
    serving: Arc<Serving>,
    arrived: Instant,
    timeout: Duration,
    max_tokens: usize,
    /// When each choice's last token came; `None` before its first.
    last_token: Vec<Option<Instant>>,
    /// Choices that have not ended.
    open: usize,
    /// Choices that have a token and have not ended.
    active: usize,
    ended: bool,
    in_flight: InFlight,
}

/// What is known when the prompt is ready.
pub struct Started {
    /// One per image, when the request asked to explain.
    pub receipts: Vec<Receipt>,
    /// Tokens of the prompt, visual ones included.
    pub prompt_tokens: usize,
}

impl Running {
    /// Submits a request that arrived at `arrived`, and waits until its images are encoded and its prompt is
    /// known: up to there an error still has an HTTP status of its own, even in a stream.
    ///
    /// # Errors
    /// [`ApiError`] with the status that the engine's refusal maps to.
    pub async fn start(
        app: &App,
        serving: Arc<Serving>,
        arrived: Instant,
        request: Request,
    ) -> Result<(Self, Started), ApiError> {
        let in_flight = app.enter();
        let engine = Arc::clone(&serving.engine);
        let choices = request.choices;
        let max_tokens = request.max_tokens.within(engine.info().context_length);
        // The prompt is tokenised in `submit`: long enough, for a long one, to keep it off the async threads.
        let generation = tokio::task::spawn_blocking(move || engine.submit(request))
            .await
            .map_err(ApiError::internal)??;
        serving.metrics.request(serving.engine.info().precision);
        let mut running = Self {
            generation,
            serving,
            arrived,
            timeout: app.config.timeouts.request.0,
            max_tokens,
            last_token: vec![None; choices],
            open: choices,
            active: 0,
            ended: false,
            in_flight,
        };
        match running.next().await {
            Event::Started { receipts, prompt_tokens, .. } => {
                Ok((running, Started { receipts, prompt_tokens }))
            }
            Event::Failed(error) => Err(error.into()),
            other => Err(ApiError::internal(format!("expected the event Started first, found {other:?}"))),
        }
    }

    /// The next event. `Done` and `Failed` are the last; one of them always comes, also when time runs out or
    /// the engine dies.
    pub async fn next(&mut self) -> Event {
        let left = self.timeout.saturating_sub(self.arrived.elapsed());
        let event = match tokio::time::timeout(left, self.generation.events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => Event::Failed(GenerateError::Internal(
                "the engine dropped the request without an answer".into(),
            )),
            Err(_) => {
                self.generation.events.close();
                Event::Failed(GenerateError::Timeout(self.timeout))
            }
        };
        self.record(&event);
        event
    }

    fn record(&mut self, event: &Event) {
        let metrics = &self.serving.metrics.vllm;
        match event {
            Event::Started { prompt_tokens, .. } => metrics.prompt(*prompt_tokens, self.max_tokens),
            Event::Token { choice, .. } => {
                let now = Instant::now();
                if self.last_token.iter().all(Option::is_none) {
                    metrics.first_token(now - self.arrived);
                }
                let last = self.last_token.get_mut(*choice).and_then(|last| last.replace(now));
                metrics.token(last.map(|last| now - last));
                if last.is_none() {
                    self.active += 1;
                    self.in_flight.note_answers(self.active);
                }
            }
            Event::Finished { choice, reason, .. } => {
                self.open = self.open.saturating_sub(1);
                if self.last_token.get(*choice).is_some_and(Option::is_some) {
                    self.active = self.active.saturating_sub(1);
                    self.in_flight.note_answers(self.active);
                }
                metrics.finished((*reason).into());
            }
            Event::Done { usage, timings } => {
                self.ended = true;
                metrics.done(*usage, timings, self.arrived.elapsed(), self.last_token.len());
            }
            Event::Prompt { .. } => {}
            Event::Failed(_) => {
                self.ended = true;
                for _ in 0..self.open {
                    metrics.finished(Finish::Error);
                }
            }
        }
    }
}

/// Several running requests as one: their choices are counted on, their tokens are summed. It ends with the
/// last of them, or with the first that fails.
pub struct Several {
    /// With the index of each one's first choice.
    running: Vec<(usize, Running)>,
    usage: Usage,
}

impl From<Running> for Several {
    fn from(running: Running) -> Self {
        Self { running: vec![(0, running)], usage: Usage::default() }
    }
}

impl Several {
    /// Requests of so many choices each.
    pub fn new(running: Vec<Running>, choices: usize) -> Self {
        let running = running.into_iter().enumerate().map(|(index, running)| (index * choices, running));
        Self { running: running.collect(), usage: Usage::default() }
    }

    /// The next event of any of them, as [`Running::next`] has it; with [`Event::Prompt`] the index of its
    /// first choice. `None` where there is nothing to wait for.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        loop {
            let waiting = self.running.iter_mut().map(|(_, running)| Box::pin(running.next()));
            let waiting: Vec<_> = waiting.collect();
            if waiting.is_empty() {
                return None;
            }
            // What is dropped of the others has taken no event yet.
            let (event, at, _) = select_all(waiting).await;
            let first = self.running[at].0;
            return Some((
                first,
                match event {
                    Event::Token { choice, text, calls, reasoning, logprob, id } => {
                        Event::Token { choice: first + choice, text, calls, reasoning, logprob, id }
                    }
                    Event::Finished { choice, text, calls, reasoning, reason } => {
                        Event::Finished { choice: first + choice, text, calls, reasoning, reason }
                    }
                    Event::Done { usage, timings } => {
                        self.usage = sum(self.usage, usage);
                        self.running.remove(at);
                        if !self.running.is_empty() {
                            continue;
                        }
                        Event::Done { usage: self.usage, timings }
                    }
                    Event::Failed(error) => {
                        self.running.clear();
                        Event::Failed(error)
                    }
                    event => event,
                },
            ));
        }
    }
}

fn sum(a: Usage, b: Usage) -> Usage {
    Usage {
        prompt_tokens: a.prompt_tokens + b.prompt_tokens,
        visual_tokens: a.visual_tokens + b.visual_tokens,
        completion_tokens: a.completion_tokens + b.completion_tokens,
        reasoning_tokens: a.reasoning_tokens + b.reasoning_tokens,
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            for _ in 0..self.open {
                self.serving.metrics.vllm.finished(Finish::Abort);
            }
        }
    }
}
