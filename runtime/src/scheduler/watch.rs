//! Ends the encoding of a picture when nobody waits for the answer any more: a large picture takes seconds,
//! and others wait for the encoder.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::job::Waiting;
use crate::library::Cancel;

/// How often somebody looks.
const PERIOD: Duration = Duration::from_millis(50);

/// A thread that looks after one run at a time.
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    watched: Mutex<Watched>,
    changed: Condvar,
}

#[derive(Default)]
struct Watched {
    run: Option<(Waiting, Cancel)>,
    closed: bool,
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, run: Option<(Waiting, Cancel)>) {
        self.watched().run = run;
        self.changed.notify_one();
    }

    fn look(&self) {
        let mut watched = self.watched();
        while !watched.closed {
            watched = match &watched.run {
                None => self.changed.wait(watched).unwrap_or_else(PoisonError::into_inner),
                Some((waiting, cancel)) if waiting.is_over() => {
                    cancel.cancel();
                    watched.run = None;
                    watched
                }
                Some(_) => {
                    let waited = self.changed.wait_timeout(watched, PERIOD);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Watch {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system has none.
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let looks = Arc::clone(&shared);
        let thread = thread::Builder::new().name("encoding".to_owned()).spawn(move || looks.look())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Calls `run`, which ends early when nobody waits for it any more.
    pub(super) fn during<T>(&self, waiting: Waiting, run: impl FnOnce(&Cancel) -> T) -> T {
        let cancel = Cancel::default();
        self.shared.set(Some((waiting, cancel.clone())));
        let _over = Over(&self.shared);
        run(&cancel)
    }
}

/// Looks no longer after a run that is over, also by a panic.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.watched().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It holds nothing that a panic could leave half done.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    /// Runs until it is cancelled, or gives up.
    fn ends_early(waiting: Waiting) -> bool {
        let watch = Watch::start().unwrap();
        watch.during(waiting, |cancel| {
            let (ended, end) = channel();
            cancel.during(
                move || ended.send(()).unwrap_or_default(),
                || end.recv_timeout(Duration::from_secs(20)).is_ok(),
            )
        })
    }

    #[test]
    fn a_run_ends_when_its_caller_hangs_up_or_its_time_is_up() {
        let later = Instant::now() + Duration::from_secs(3600);
        let (events, caller) = unbounded_channel();
        drop(caller);
        assert!(ends_early(Waiting::new(events, later)));
        let (events, _caller) = unbounded_channel();
        assert!(ends_early(Waiting::new(events, Instant::now() + Duration::from_millis(100))));
    }

    #[test]
    fn others_run_to_their_end() {
        let (events, _caller) = unbounded_channel();
        let waiting = Waiting::new(events, Instant::now() + Duration::from_secs(3600));
        let watch = Watch::start().unwrap();
        let ended = watch.during(waiting, |cancel| {
            let (ended, end) = channel();
            cancel.during(move || ended.send(()).unwrap_or_default(), || end.recv_timeout(4 * PERIOD).is_ok())
        });
        assert!(!ended);
    }
}
