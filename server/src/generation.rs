//! A request on its way through the engine, for the routes that answer: its events, watched for time
//! and metrics. The clock runs from the request's arrival, so it holds for uploads, fetched images and
//! engines that hang. The runtime's own clock (`Options::timeout`) runs from submission and ends work that
//! nobody watches.

use std::time::{Duration, Instant};

use arrcoc_runtime::generate::{Event, GenerateError, Receipt, Request, Timings, Usage};
use arrcoc_runtime::model::Generation;
use futures::future::select_all;
use std::sync::Arc;
use tokio::sync::mpsc;

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
    /// Those that have no place yet.
    starting: Option<mpsc::Receiver<Result<Running, ApiError>>>,
    /// Choices of each.
    choices: usize,
    started: usize,
    usage: Usage,
    /// How the last one ended.
    timings: Timings,
}

impl From<Running> for Several {
    fn from(running: Running) -> Self {
        let (usage, timings) = (Usage::default(), Timings::default());
        Self { running: vec![(0, running)], starting: None, choices: 0, started: 1, usage, timings }
    }
}

/// What happens next to one of several requests.
enum Next {
    Started(Option<Result<Running, ApiError>>),
    Event(usize, Event),
}

impl Several {
    /// Starts requests of so many choices each, one after the other, as there are places: none crowds the
    /// queue. Returns when the first has begun.
    ///
    /// # Errors
    /// As [`Running::start`], of the first request.
    pub async fn start(
        app: &App,
        serving: Arc<Serving>,
        arrived: Instant,
        requests: Vec<Request>,
        choices: usize,
    ) -> Result<Self, ApiError> {
        let (sender, starting) = mpsc::channel(1);
        let mut requests = requests.into_iter();
        let mut running = Vec::new();
        if let Some(first) = requests.next() {
            running.push((0, Running::start(app, Arc::clone(&serving), arrived, first).await?.0));
        }
        let app = app.clone();
        let waiting = requests.len() > 0;
        if waiting {
            tokio::spawn(async move {
                for request in requests {
                    let started = Running::start(&app, Arc::clone(&serving), arrived, request).await;
                    let failed = started.is_err();
                    // Nobody waits any more: what has begun ends with its value.
                    if sender.send(started.map(|(running, _)| running)).await.is_err() || failed {
                        break;
                    }
                }
            });
        }
        let started = running.len();
        let (usage, timings) = (Usage::default(), Timings::default());
        Ok(Self { running, starting: waiting.then_some(starting), choices, started, usage, timings })
    }

    /// The next event of any of them, as [`Running::next`] has it, and the index of its request's first
    /// choice. `None` behind the end. An error is one that a request met that began later.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub async fn next(&mut self) -> Option<Result<(usize, Event), ApiError>> {
        loop {
            if self.running.is_empty() && self.starting.is_none() {
                return None;
            }
            match self.wait().await {
                Next::Started(None) => self.starting = None,
                Next::Started(Some(Err(error))) => {
                    self.end();
                    return Some(Err(error));
                }
                Next::Started(Some(Ok(running))) => {
                    self.running.push((self.started * self.choices, running));
                    self.started += 1;
                }
                Next::Event(at, event) => {
                    let first = self.running[at].0;
                    if let Event::Done { usage, timings } = event {
                        self.usage = sum(self.usage, usage);
                        self.timings = timings;
                        self.running.remove(at);
                    } else {
                        if matches!(event, Event::Failed(_)) {
                            self.end();
                        }
                        return Some(Ok((first, moved(event, first))));
                    }
                }
            }
            if self.running.is_empty() && self.starting.is_none() {
                let timings = std::mem::take(&mut self.timings);
                return Some(Ok((0, Event::Done { usage: self.usage, timings })));
            }
        }
    }

    fn end(&mut self) {
        self.running.clear();
        self.starting = None;
    }

    /// Waits for an event, or for one more request to begin. What is dropped of the others has taken nothing
    /// yet.
    async fn wait(&mut self) -> Next {
        let events: Vec<_> = self.running.iter_mut().map(|(_, running)| Box::pin(running.next())).collect();
        let starting = &mut self.starting;
        let start = async {
            match starting {
                Some(starting) => starting.recv().await,
                None => std::future::pending().await,
            }
        };
        if events.is_empty() {
            return Next::Started(start.await);
        }
        tokio::select! {
            (event, at, _) = select_all(events) => Next::Event(at, event),
            started = start => Next::Started(started),
        }
    }
}

/// An event of a request whose first choice has this index.
fn moved(event: Event, first: usize) -> Event {
    match event {
        Event::Token { choice, text, calls, reasoning, logprob, id } => {
            Event::Token { choice: first + choice, text, calls, reasoning, logprob, id }
        }
        Event::Finished { choice, text, calls, reasoning, reason } => {
            Event::Finished { choice: first + choice, text, calls, reasoning, reason }
        }
        event => event,
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
