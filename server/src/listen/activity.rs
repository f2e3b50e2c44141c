//! What a connection is doing, told by its socket ([`super::socket`]) and by its requests
//! ([`super::service`]), asked by [`super::connections`] when somebody needs its place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::framing::Framing;
use crate::pace::Pace;

/// A whole request that has not reached its handler by then never does.
const HANDED_OVER: Duration = Duration::from_secs(1);

/// One connection's state.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    closed: Notify,
}

#[derive(Debug)]
struct State {
    framing: Framing,
    /// Requests handed to their handlers whose answers have not ended.
    answering: usize,
    /// Requests handed to their handlers so far.
    begun: u64,
    /// Since when none is.
    idle_since: Instant,
    /// How the newest body arrives.
    pace: Pace,
    /// The last write has to wait for the client.
    writing: bool,
    /// Something of the newest request's answer was written.
    answer_begun: bool,
    /// The newest request said that it is the last one.
    last_request: bool,
    /// When the client ended its side.
    ended: Option<Instant>,
    /// Waits for the running answer to end.
    reader: Option<Waker>,
}

/// What taking a connection's place would cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// No request is in progress since then.
    Idle(Instant),
    /// A request's body has not come at a fair speed since then.
    Stalled(Instant),
    /// It is at work.
    Busy,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            framing: Framing::default(),
            answering: 0,
            begun: 0,
            idle_since: now,
            pace: Pace::new(now),
            writing: false,
            answer_begun: false,
            last_request: false,
            ended: None,
            reader: None,
        };
        Arc::new(Self { state: Mutex::new(state), closed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the client sent.
    pub(super) fn received(&self, bytes: &[u8]) {
        let state = &mut *self.state();
        state.framing.read(bytes);
        state.pace.note(bytes.len(), Instant::now());
    }

    /// Notes that a request goes to its handler; it is in progress until the guard is dropped. `last`: the
    /// client announced no other.
    pub(super) fn begin(self: &Arc<Self>, last: bool) -> Answering {
        let state = &mut *self.state();
        state.answering += 1;
        state.begun += 1;
        state.answer_begun = false;
        state.last_request = last;
        state.pace = Pace::new(Instant::now());
        Answering(Arc::clone(self))
    }

    /// Notes a write: what of the answer left, or that it waits for the client.
    pub(super) fn wrote(&self, answer: bool, waits: bool) {
        let state = &mut *self.state();
        state.answer_begun |= answer;
        state.writing = waits;
    }

    /// Why the newest request must be refused whatever it asks for.
    pub(super) fn fault(&self) -> Option<&'static str> {
        self.state().framing.fault()
    }

    /// Notes that the client has ended its side. Whether that is to be kept from hyper for now, since whole
    /// requests are being answered; the waker hears when they no longer are.
    ///
    /// A request whose bytes and end come at once has not reached its handler yet: hyper looks for the end
    /// before it hands the request over. A request that hyper refuses itself never reaches one.
    pub(super) fn holds_end(&self, waker: &Waker) -> bool {
        let state = &mut *self.state();
        let ended = *state.ended.get_or_insert_with(Instant::now);
        let coming = state.framing.requests() > state.begun && ended.elapsed() < HANDED_OVER;
        let holds = (state.answering > 0 || coming) && state.framing.between_requests();
        state.reader = holds.then(|| waker.clone());
        holds
    }

    /// Whether the client has ended its side.
    pub(super) fn ended(&self) -> bool {
        self.state().ended.is_some()
    }

    /// Whether nothing of the running answer was written and nothing waits to be.
    pub(super) fn answer_may_begin(&self) -> bool {
        let state = self.state();
        state.answering == 1 && !state.answer_begun && !state.writing
    }

    /// Whether the newest request said that it is the last one.
    pub(super) fn last_request(&self) -> bool {
        self.state().last_request
    }

    /// Whether the client is in the middle of a request.
    pub(super) fn mid_request(&self) -> bool {
        !self.state().framing.between_requests()
    }

    /// What taking its place would cost.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let state = self.state();
        if state.writing {
            Standing::Busy
        } else if state.answering == 0 {
            Standing::Idle(state.idle_since)
        } else if state.framing.in_body()
            && let Some(since) = state.pace.slow_since(now)
        {
            Standing::Stalled(since)
        } else {
            Standing::Busy
        }
    }

    /// Has the connection closed.
    pub(super) fn close(&self) {
        self.closed.notify_one();
    }

    /// Waits for [`Self::close`].
    pub(super) async fn closed(&self) {
        self.closed.notified().await;
    }
}

/// A request in progress.
pub(super) struct Answering(Arc<Activity>);

impl Answering {
    /// The connection that it came on.
    pub(super) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answering -= 1;
        state.idle_since = Instant::now();
        if let Some(reader) = state.reader.take() {
            drop(state);
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_comes_with_its_request_waits_until_that_was_handed_over() {
        let activity = Activity::new();
        assert!(!activity.holds_end(Waker::noop()), "nothing was asked");
        let activity = Activity::new();
        activity.received(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(activity.holds_end(Waker::noop()), "the request has not reached its handler");
        let answering = activity.begin(true);
        assert!(activity.holds_end(Waker::noop()), "it is being answered");
        drop(answering);
        assert!(!activity.holds_end(Waker::noop()), "it was answered");
        activity.received(b"GET / HTTP/1.1\r\nHost");
        assert!(!activity.holds_end(Waker::noop()), "half a request is none");
    }
}
