//! What travels through the threads: a request with its way back to the caller, and the counters that all
//! threads share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::form::Guide;
use crate::generate::{Event, GenerateError, Request, Stage};
use crate::mean_time::MeanTime;
use crate::prompt::Layout;
use crate::vision::Visual;
use crate::vision::family::Grant;

/// Bounds of what a refused request is told to wait.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(120);

/// Counters and flags of one loaded model.
#[derive(Debug)]
pub(crate) struct Status {
    queue_limit: usize,
    slots: usize,
    waiting: AtomicUsize,
    running: AtomicUsize,
    /// Share of the KV cache that holds tokens: the bits of an `f64`.
    kv_usage: AtomicU64,
    draining: AtomicBool,
    /// How long an answer takes from the moment that its request leaves the queue.
    mean: MeanTime,
    ends: Mutex<Ends>,
    /// Why no further request can be served.
    failure: Mutex<Option<String>>,
}

impl Status {
    pub(crate) fn new(queue_limit: usize, slots: usize) -> Self {
        Self {
            queue_limit,
            slots,
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            kv_usage: AtomicU64::new(0.0_f64.to_bits()),
            draining: AtomicBool::new(false),
            mean: MeanTime::default(),
            ends: Mutex::default(),
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

    /// When those who wait now will have been answered, as far as the last answers tell: by how far they
    /// ended apart while others waited, whatever held them up, and before there are enough of them by the
    /// mean time of an answer and the slots.
    pub(crate) fn retry_after(&self) -> Duration {
        let waiting = self.waiting() as f64 + 1.0;
        let apart = self.ends().apart();
        let apart = apart.unwrap_or_else(|| self.mean.get().as_secs_f64() / self.slots.max(1) as f64);
        Duration::try_from_secs_f64(apart * waiting)
            .unwrap_or(LONGEST_RETRY)
            .clamp(SHORTEST_RETRY, LONGEST_RETRY)
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_duration(&self, took: Duration) {
        self.ends().record(Instant::now(), self.waiting() > 0);
        self.mean.record(took);
    }
}

/// When the last answers ended while others waited.
#[derive(Debug, Default)]
struct Ends(VecDeque<Instant>);

/// Answers that are looked back on, and how many it takes to say something.
const MOST_ENDS: usize = 16;
const LEAST_ENDS: usize = 5;

impl Ends {
    fn record(&mut self, now: Instant, others_wait: bool) {
        if !others_wait {
            // How far they end apart now says when questions came, not how long answers take.
            self.0.clear();
            return;
        }
        if self.0.len() == MOST_ENDS {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// Mean time from one to the next, seconds.
    fn apart(&self) -> Option<f64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let count = self.0.len();
        (count >= LEAST_ENDS)
            .then(|| last.saturating_duration_since(*first).as_secs_f64() / (count - 1) as f64)
    }
}

/// Marks the model as broken when the thread that holds it panics. Must be dropped before the jobs that the
/// thread holds (locals drop in reverse order), so that their callers are told the reason.
pub(super) struct PanicGuard {
    shared: Arc<Status>,
    thread: &'static str,
}

impl PanicGuard {
    pub(super) fn new(shared: &Arc<Status>, thread: &'static str) -> Self {
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
    shared: Arc<Status>,
    running: bool,
}

impl Ticket {
    /// Takes a place in the queue.
    pub(crate) fn enter(shared: &Arc<Status>) -> Result<Self, GenerateError> {
        if let Some(reason) = shared.failure() {
            return Err(GenerateError::Internal(reason));
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
    shared: Arc<Status>,
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
            self.end(Event::Failed(GenerateError::Internal(reason)));
        }
    }
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) layout: Layout,
    /// What the request's budget means to the model.
    pub(crate) grant: Grant,
    /// At the beginning of its answers' form, where they have one.
    pub(crate) guide: Option<Guide>,
    /// Seed of the request, drawn where the caller gave none.
    pub(crate) seed: u64,
    pub(super) submitted: Instant,
    started: Option<Instant>,
    /// Stages that ran for this request, in order.
    pub(super) stages: Vec<(Stage, Duration)>,
    timeout: Duration,
    reply: Reply,
    ticket: Ticket,
}

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(super) struct Waiting {
    events: UnboundedSender<Event>,
    /// Nothing lasts until then where there is none.
    until: Option<Instant>,
}

impl Waiting {
    #[cfg(test)]
    pub(super) fn new(events: UnboundedSender<Event>, until: Instant) -> Self {
        Self { events, until: Some(until) }
    }

    /// Whether the caller has hung up, or the request's time is up.
    pub(super) fn is_over(&self) -> bool {
        self.events.is_closed() || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// A request whose images are embedded.
pub(crate) struct Ready {
    pub(crate) job: Job,
    pub(crate) visuals: Vec<Visual>,
}

impl Job {
    pub(crate) fn new(
        request: Request,
        (layout, grant, guide): (Layout, Grant, Option<Guide>),
        timeout: Duration,
        ticket: Ticket,
        events: UnboundedSender<Event>,
    ) -> Self {
        let seed = request.sampling.seed.unwrap_or_else(rand::random);
        let reply = Reply { events, shared: Arc::clone(&ticket.shared), ended: false };
        Self {
            request,
            layout,
            grant,
            guide,
            seed,
            submitted: Instant::now(),
            started: None,
            stages: Vec::new(),
            timeout,
            reply,
            ticket,
        }
    }

    /// Whether work on this request still makes sense; tells the caller when its time is up.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.reply.events.is_closed() {
            self.reply.ended = true;
        } else if let Some(reason) = self.reply.shared.failure() {
            self.fail(GenerateError::Internal(reason));
        } else if self.submitted.elapsed() >= self.timeout {
            self.fail(GenerateError::Timeout(self.timeout));
        }
        !self.reply.ended
    }

    /// Who waits for it.
    pub(super) fn waiting(&self) -> Waiting {
        let until = self.submitted.checked_add(self.timeout);
        Waiting { events: self.reply.events.clone(), until }
    }

    /// Whether the last event was sent, or the caller is gone.
    pub(super) fn ended(&self) -> bool {
        self.reply.ended
    }

    pub(super) fn start(&mut self) {
        self.ticket.start();
        self.started = Some(Instant::now());
    }

    pub(super) fn send(&self, event: Event) {
        self.reply.send(event);
    }

    pub(super) fn fail(&mut self, error: GenerateError) {
        self.reply.end(Event::Failed(error));
    }

    pub(super) fn finish(&mut self, done: Event) {
        if let Some(started) = self.started {
            self.reply.shared.record_duration(started.elapsed());
        }
        self.reply.end(done);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// 64 requests wait for 4 slots.
    fn full() -> (Arc<Status>, Vec<Ticket>) {
        let shared = Arc::new(Status::new(64, 4));
        let tickets = (0..64).map(|_| Ticket::enter(&shared).unwrap()).collect();
        (shared, tickets)
    }

    fn told(shared: &Arc<Status>) -> Duration {
        match Ticket::enter(shared) {
            Err(GenerateError::QueueFull { retry_after, .. }) => retry_after,
            other => panic!("expected a full queue, found {other:?}"),
        }
    }

    #[test]
    fn who_is_refused_is_told_when_the_queue_will_have_been_answered() {
        let (shared, _tickets) = full();
        assert_eq!(told(&shared), SHORTEST_RETRY, "nothing was measured yet");
        shared.record_duration(Duration::from_secs(2));
        // 65 requests, 4 at a time, 2 s each.
        assert_eq!(told(&shared), Duration::from_secs_f64(32.5));

        let start = Instant::now();
        for second in 0..20 {
            shared.ends().record(start + Duration::from_secs(second) / 2, true);
        }
        assert_eq!(told(&shared), Duration::from_secs_f64(32.5), "one ends every half a second");
        for second in 0..20 {
            shared.ends().record(start + Duration::from_secs(second * 60), true);
        }
        assert_eq!(told(&shared), LONGEST_RETRY);
    }

    #[test]
    fn pauses_between_questions_are_no_measure_of_answers() {
        let (shared, _tickets) = full();
        let start = Instant::now();
        for minute in 0..8 {
            shared.ends().record(start + Duration::from_secs(minute * 60), true);
        }
        shared.ends().record(start, false);
        assert_eq!(told(&shared), SHORTEST_RETRY);
    }
}
