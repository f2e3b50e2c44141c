//! What all handlers share: configuration, the loaded engine, metrics, and whether the server is going away.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use arrcoc_runtime::model::Load;
use tokio::sync::watch;

use crate::config::Config;
use crate::engine::Engine;
use crate::error::{ApiError, queue_full};
use crate::media::remote::Fetcher;
use crate::metrics::{EngineMetrics, Metrics};

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
    slot: ArcSwap<Slot>,
    draining: AtomicBool,
    in_flight: watch::Sender<usize>,
}

/// Where the engine stands.
#[derive(Clone)]
pub enum Slot {
    /// Not there yet; since when.
    Loading(SystemTime),
    /// There.
    Ready(Arc<Serving>),
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

impl Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// A server without an engine: alive, not ready.
    pub fn new(config: Config) -> Self {
        let fetcher = Fetcher::new(&config.images, config.limits.image_bytes.0);
        Self(Arc::new(Shared {
            config,
            metrics: Metrics::new(),
            fetcher,
            slot: ArcSwap::from_pointee(Slot::Loading(SystemTime::now())),
            draining: AtomicBool::new(false),
            in_flight: watch::Sender::new(0),
        }))
    }

    /// Puts an engine into service. `metrics` is what it was loaded with as its observer.
    pub fn install(&self, engine: Arc<dyn Engine>, metrics: Arc<EngineMetrics>) {
        let name = self.config.model_name.clone().unwrap_or_else(|| engine.info().name.clone());
        metrics.describe(engine.info());
        self.metrics.set_engine(Arc::clone(&metrics));
        if self.draining() {
            engine.drain();
        }
        let queue_limit = self.config.limits.queue.0;
        let serving = Serving { engine, name, metrics, since: SystemTime::now(), queue_limit };
        self.slot.store(Arc::new(Slot::Ready(Arc::new(serving))));
    }

    /// Where the engine stands.
    pub fn slot(&self) -> Slot {
        Slot::clone(&self.slot.load())
    }

    /// The engine, where requests may go to it.
    ///
    /// # Errors
    /// 503 while loading or draining.
    pub fn serving(&self) -> Result<Arc<Serving>, ApiError> {
        if self.draining() {
            return Err(ApiError::draining());
        }
        match self.slot() {
            Slot::Ready(serving) => Ok(serving),
            Slot::Loading(_) => Err(ApiError::loading()),
        }
    }

    /// From now on, new requests are refused and running ones are finished.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        if let Slot::Ready(serving) = self.slot() {
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
        InFlight(self.clone())
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
pub struct InFlight(App);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.send_modify(|count| *count -= 1);
    }
}

impl Serving {
    /// Refuses when the queue is full already, before images are fetched or decoded. The engine has the last word when
    /// the request is submitted.
    ///
    /// # Errors
    /// 429.
    pub fn admit(&self) -> Result<(), ApiError> {
        let Load { waiting, .. } = self.engine.load_now();
        if waiting >= self.queue_limit { Err(queue_full(waiting)) } else { Ok(()) }
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
