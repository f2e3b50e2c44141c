//! What all handlers share: configuration, the loaded engine, metrics, and whether the server is going away.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use arrcoc_runtime::model::Occupancy;
use tokio::sync::watch;

use crate::body::budget::Budget;
use crate::config::Config;
use crate::engine::Engine;
use crate::engines::{self, Available, Source};
use crate::error::{ApiError, RETRY_LATER, queue_full};
use crate::media::remote::Fetcher;
use crate::memory;
use crate::metrics::{EngineMetrics, Metrics};
use crate::openai::responses::Store;

/// The server's shared state; a clone is a reference.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The fields of [`App`].
pub struct Shared {
    /// The checked configuration.
    pub config: Config,
    /// Everything under `/metrics`.
    pub metrics: Metrics,
    /// Fetches remote images, when some host is allowed.
    pub fetcher: Option<Fetcher>,
    /// The engine, in an atomic cell: a swap (load, warm up, store, drain the old one) never stops a reader.
    phase: ArcSwap<Phase>,
    /// Where other engines come from; `None` where one bundle is all there is.
    pub(crate) source: Option<Arc<dyn Source>>,
    /// Held while one engine takes another's place.
    pub(crate) swapping: Arc<tokio::sync::Mutex<()>>,
    others: Mutex<Others>,
    draining: AtomicBool,
    in_flight: watch::Sender<usize>,
    /// Answers that are being written beside another one of the same request.
    beside: AtomicUsize,
    /// Responses that others may go on from.
    pub(crate) responses: Arc<Store>,
    /// The memory that requests' bodies share.
    pub(crate) bodies: Arc<Budget>,
    /// Memory that the process held before there was any engine, bytes.
    pub(crate) base_memory: u64,
}

/// Engines in memory besides the one in service.
#[derive(Default)]
struct Others {
    /// Kept for a swap back, the most recently used last.
    kept: Vec<Arc<Serving>>,
    /// Unloaded as soon as their last requests have ended.
    retiring: Vec<Weak<Serving>>,
}

/// Where the engine stands.
#[derive(Clone)]
pub enum Phase {
    /// Not there yet; since when.
    Loading(SystemTime),
    /// There.
    Ready(Arc<Serving>),
}

/// What an engine is in memory for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// New requests go to it.
    Serving,
    /// Kept for a swap back.
    Kept,
    /// Unloaded when its last request has ended.
    Retiring,
}

/// A loaded engine and what belongs to it.
pub struct Serving {
    /// The model.
    pub engine: Arc<dyn Engine>,
    /// Its name in the API.
    pub name: String,
    /// Its metrics.
    pub metrics: Arc<EngineMetrics>,
    /// When it was ready.
    pub since: SystemTime,
    queue_limit: usize,
}

impl Serving {
    /// Memory that it takes, bytes.
    fn memory(&self) -> u64 {
        engines::takes(self.engine.info())
    }
}

impl Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// A server without an engine: alive, not ready.
    pub fn new(config: Config) -> Self {
        Self::with_source(config, None)
    }

    /// The same, with engines to swap between.
    pub fn with_source(config: Config, source: Option<Arc<dyn Source>>) -> Self {
        let fetcher = Fetcher::new(&config.images, config.limits.image_bytes.0);
        let bodies = Budget::new(config.limits.body_memory());
        let kept = &config.responses;
        let responses = Arc::new(Store::new(kept.memory.0, kept.time_to_live.0));
        Self(Arc::new(Shared {
            config,
            responses,
            metrics: Metrics::new(),
            fetcher,
            phase: ArcSwap::from_pointee(Phase::Loading(SystemTime::now())),
            source,
            swapping: Arc::default(),
            others: Mutex::default(),
            draining: AtomicBool::new(false),
            in_flight: watch::Sender::new(0),
            beside: AtomicUsize::new(0),
            bodies,
            base_memory: memory::resident().unwrap_or(0),
        }))
    }

    /// Puts an engine into service. `metrics` is what it was loaded with as its observer.
    pub fn install(&self, engine: Arc<dyn Engine>, metrics: Arc<EngineMetrics>) {
        self.metrics.set_engine(Arc::clone(&metrics));
        let serving = self.serving_of(engine, metrics);
        self.switch(serving);
    }

    /// What belongs to an engine, before it is in service.
    pub(crate) fn serving_of(&self, engine: Arc<dyn Engine>, metrics: Arc<EngineMetrics>) -> Arc<Serving> {
        let name = self.config.model_name.clone().unwrap_or_else(|| engine.info().name.clone());
        let queue_limit = self.config.limits.queue.0;
        Arc::new(Serving { engine, name, metrics, since: SystemTime::now(), queue_limit })
    }

    /// Sends new requests to `next` from now on; returns what served before. Requests in work stay where they
    /// are.
    pub(crate) fn switch(&self, next: Arc<Serving>) -> Option<Arc<Serving>> {
        next.metrics.describe(next.engine.info());
        let engine = Arc::clone(&next.engine);
        let previous = self.phase.swap(Arc::new(Phase::Ready(next)));
        // Asked after the switch: a server that began to drain before it has not seen this engine.
        if self.draining() {
            engine.drain();
        }
        match &*previous {
            Phase::Ready(serving) => Some(Arc::clone(serving)),
            Phase::Loading(_) => None,
        }
    }

    /// Takes the kept engine of a precision and target.
    pub(crate) fn take_loaded(&self, wanted: &Available) -> Option<Arc<Serving>> {
        let mut others = self.others();
        let fits = |serving: &Arc<Serving>| wanted.is(serving.engine.info()) && serving.engine.healthy();
        let place = others.kept.iter().position(fits)?;
        Some(others.kept.remove(place))
    }

    /// Keeps an engine that no longer serves. Returns the engines beyond the limit, the least recently used
    /// ones.
    pub(crate) fn keep(&self, previous: Option<Arc<Serving>>) -> Vec<Arc<Serving>> {
        let mut others = self.others();
        others.kept.extend(previous);
        // One of the engines that may be loaded is the one in service.
        let surplus = (others.kept.len() + 1).saturating_sub(self.config.engine.loaded.0);
        others.kept.drain(..surplus).collect()
    }

    /// Takes the kept engine that was used longest ago.
    pub(crate) fn drop_least_recent(&self) -> Option<Arc<Serving>> {
        let mut others = self.others();
        (!others.kept.is_empty()).then(|| others.kept.remove(0))
    }

    /// Notes an engine that ends with its last request.
    pub(crate) fn retiring(&self, engine: &Arc<Serving>) {
        let mut others = self.others();
        others.retiring.retain(|engine| engine.strong_count() > 0);
        others.retiring.push(Arc::downgrade(engine));
    }

    /// Every engine in memory, and what it is there for: the one in service first.
    pub fn loaded(&self) -> Vec<(Purpose, Arc<Serving>)> {
        let mut loaded = Vec::new();
        if let Phase::Ready(serving) = self.phase() {
            loaded.push((Purpose::Serving, serving));
        }
        let others = self.others();
        loaded.extend(others.kept.iter().rev().map(|kept| (Purpose::Kept, Arc::clone(kept))));
        loaded
            .extend(others.retiring.iter().filter_map(|engine| Some((Purpose::Retiring, engine.upgrade()?))));
        loaded
    }

    /// What every engine in memory takes.
    pub(crate) fn loaded_bytes(&self) -> u64 {
        self.loaded().iter().fold(0, |sum, (_, serving)| sum.saturating_add(serving.memory()))
    }

    /// Memory of the engines that are kept for a swap back.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.others().kept.iter().fold(0, |sum, serving| sum.saturating_add(serving.memory()))
    }

    /// How busy all engines are together. An engine that is being retired counts until it has ended.
    pub fn occupancy(&self) -> Occupancy {
        let sum = |sum: Occupancy, load: Occupancy| Occupancy {
            running: sum.running + load.running,
            waiting: sum.waiting + load.waiting,
            kv_usage: sum.kv_usage.max(load.kv_usage),
        };
        self.loaded().iter().map(|(_, serving)| serving.engine.occupancy()).fold(Occupancy::default(), sum)
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the engine stands.
    pub fn phase(&self) -> Phase {
        Phase::clone(&self.phase.load())
    }

    /// The engine, where requests may go to it.
    ///
    /// # Errors
    /// 503 while loading or draining.
    pub fn serving(&self) -> Result<Arc<Serving>, ApiError> {
        if self.draining() {
            return Err(ApiError::draining());
        }
        match self.phase() {
            Phase::Ready(serving) => Ok(serving),
            Phase::Loading(_) => Err(ApiError::loading()),
        }
    }

    /// When a request that is refused for want of room is likely to find some.
    pub(crate) fn retry_after(&self) -> Duration {
        match self.phase() {
            Phase::Ready(serving) => serving.engine.retry_after(),
            Phase::Loading(_) => RETRY_LATER,
        }
    }

    /// From now on, new requests are refused and running ones are finished.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        if let Phase::Ready(serving) = self.phase() {
            serving.engine.drain();
        }
    }

    /// Whether [`App::drain`] was called.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Counts a request as running until the guard is dropped.
    pub fn enter(&self) -> InFlight {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight { app: self.clone(), beside: 0 }
    }

    /// Answers that are being written: a request has one at least from the moment it runs, and `n` of them
    /// where it asks for as many. vLLM counts its running requests so, each of which is one sequence.
    pub fn answers(&self) -> usize {
        self.occupancy().running + self.beside.load(Ordering::SeqCst)
    }

    /// Requests whose answers are not finished.
    pub fn in_flight(&self) -> usize {
        *self.in_flight.borrow()
    }

    /// Waits until no request runs.
    pub async fn idle(&self) {
        // The sender lives in `self`, so waiting cannot fail for want of one.
        let _ = self.in_flight.subscribe().wait_for(|&count| count == 0).await;
    }
}

/// A running request.
pub struct InFlight {
    app: App,
    /// Its answers that are being written, without the first.
    beside: usize,
}

impl InFlight {
    /// Notes how many answers of the request are being written.
    pub(crate) fn note_answers(&mut self, answers: usize) {
        let beside = answers.saturating_sub(1);
        self.app.beside.fetch_add(beside, Ordering::SeqCst);
        self.app.beside.fetch_sub(std::mem::replace(&mut self.beside, beside), Ordering::SeqCst);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.note_answers(0);
        self.app.in_flight.send_modify(|count| *count -= 1);
    }
}

impl Serving {
    /// Refuses when the queue is full already, before images are fetched or decoded. The engine has the last
    /// word when the request is submitted.
    ///
    /// # Errors
    /// 429.
    pub fn admit(&self) -> Result<(), ApiError> {
        let Occupancy { waiting, .. } = self.engine.occupancy();
        if waiting >= self.queue_limit {
            return Err(queue_full(waiting, self.engine.retry_after()));
        }
        Ok(())
    }

    /// Checks the `model` of a request. A request that names none means the only one there is.
    ///
    /// # Errors
    /// 404.
    pub fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            Some(asked) if asked != self.name => Err(ApiError::unknown_model(asked, &self.name)),
            _ => Ok(()),
        }
    }
}
