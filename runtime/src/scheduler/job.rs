//! What travels through the threads: a request with its way back to the caller, and the counters that all threads share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::generate::{Event, GenerateError, Request, Stage};
use crate::prompt::Layout;

/// Counters and flags of one loaded model.
#[derive(Debug)]
pub(crate) struct Shared {
    queue_limit: usize,
    slots: usize,
    waiting: AtomicUsize,
    running: AtomicUsize,
    /// Share of the KV cache that holds tokens: the bits of an `f64`.
    kv_usage: AtomicU64,
    draining: AtomicBool,
    /// Moving average of how long a request takes, microseconds.
    mean_micros: AtomicU64,
    /// Why no further request can be served.
    failure: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn new(queue_limit: usize, slots: usize) -> Self {
        Self {
            queue_limit,
            slots,
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            kv_usage: AtomicU64::new(0.0_f64.to_bits()),
            draining: AtomicBool::new(false),
            mean_micros: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    pub(crate) fn kv_usage(&self) -> f64 {
        f64::from_bits(self.kv_usage.load(Ordering::SeqCst))
    }

    pub(super) fn set_kv_usage(&self, usage: f64) {
        self.kv_usage.store(usage.to_bits(), Ordering::SeqCst);
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Why the model is broken, if it is.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on no request is served, and those that run fail.
    pub(crate) fn fail(&self, reason: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    /// When a place in the queue is likely: slots free up one after the other.
    fn retry_after(&self) -> Duration {
        let mean = Duration::from_micros(self.mean_micros.load(Ordering::Relaxed));
        (mean / self.slots.max(1) as u32).clamp(Duration::from_secs(1), Duration::from_secs(120))
    }

    /// A quarter of the newest and three quarters of the older ones; a lost update does no harm.
    fn record_duration(&self, took: Duration) {
        let (took, old) = (took.as_micros() as u64, self.mean_micros.load(Ordering::Relaxed));
        self.mean_micros.store(if old == 0 { took } else { (old * 3 + took) / 4 }, Ordering::Relaxed);
    }
}

/// Marks the model as broken when the thread that holds it panics. Must be dropped before the jobs that the thread holds
/// (locals drop in reverse order), so that their callers are told the reason.
pub(super) struct PanicGuard {
    shared: Arc<Shared>,
    thread: &'static str,
}

impl PanicGuard {
    pub(super) fn new(shared: &Arc<Shared>, thread: &'static str) -> Self {
        Self { shared: Arc::clone(shared), thread }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason = format!("the {} thread of the model panicked; load the model again", self.thread);
            tracing::error!("{reason}");
            self.shared.fail(reason);
        }
    }
}

/// A place among the waiting, later among the running requests.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    running: bool,
}

impl Ticket {
    /// Takes a place in the queue.
    pub(crate) fn enter(shared: &Arc<Shared>) -> Result<Self, GenerateError> {
        if let Some(reason) = shared.failure() {
            return Err(GenerateError::Engine(reason));
        }
        if shared.draining.load(Ordering::SeqCst) {
            return Err(GenerateError::Draining);
        }
        let room = |waiting| (waiting < shared.queue_limit).then_some(waiting + 1);
        match shared.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room) {
            Ok(_) => Ok(Self { shared: Arc::clone(shared), running: false }),
            Err(waiting) => Err(GenerateError::QueueFull { waiting, retry_after: shared.retry_after() }),
        }
    }

    /// From waiting to running. Counted as running first, so that the model never looks idle in between.
    fn start(&mut self) {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        self.running = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let counter = if self.running { &self.shared.running } else { &self.shared.waiting };
        counter.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The way back to the caller. Whatever happens to the thread that holds it, the caller hears of the end.
#[derive(Debug)]
struct Reply {
    events: UnboundedSender<Event>,
    shared: Arc<Shared>,
    ended: bool,
}

impl Reply {
    fn send(&self, event: Event) {
        // A caller who hung up is noticed by `Job::goes_on`.
        let _ = self.events.send(event);
    }

    fn end(&mut self, event: Event) {
        if !self.ended {
            self.send(event);
            self.ended = true;
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.ended {
            let reason = self.shared.failure();
            let reason =
                reason.unwrap_or_else(|| "the model was unloaded before the request was done".into());
            self.end(Event::Failed(GenerateError::Engine(reason)));
        }
    }
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) layout: Layout,
    /// Seed of the request, drawn where the caller gave none.
    pub(crate) seed: u64,
    pub(super) submitted: Instant,
    /// Stages that ran for this request, in order.
    pub(super) stages: Vec<(Stage, Duration)>,
    timeout: Duration,
    reply: Reply,
    ticket: Ticket,
}

impl Job {
    pub(crate) fn new(
        request: Request,
        layout: Layout,
        timeout: Duration,
        ticket: Ticket,
        events: UnboundedSender<Event>,
    ) -> Self {
        let seed = request.sampling.seed.unwrap_or_else(rand::random);
        let reply = Reply { events, shared: Arc::clone(&ticket.shared), ended: false };
        Self { request, layout, seed, submitted: Instant::now(), stages: Vec::new(), timeout, reply, ticket }
    }

    /// Whether work on this request still makes sense; tells the caller when its time is up.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.reply.events.is_closed() {
            self.reply.ended = true;
        } else if let Some(reason) = self.reply.shared.failure() {
            self.fail(GenerateError::Engine(reason));
        } else if self.submitted.elapsed() >= self.timeout {
            self.fail(GenerateError::Timeout(self.timeout));
        }
        !self.reply.ended
    }

    /// Whether the last event was sent, or the caller is gone.
    pub(super) fn ended(&self) -> bool {
        self.reply.ended
    }

    pub(super) fn start(&mut self) {
        self.ticket.start();
    }

    pub(super) fn send(&self, event: Event) {
        self.reply.send(event);
    }

    pub(super) fn fail(&mut self, error: GenerateError) {
        self.reply.end(Event::Failed(error));
    }

    pub(super) fn finish(&mut self, done: Event) {
        self.reply.shared.record_duration(self.submitted.elapsed());
        self.reply.end(done);
    }
}
