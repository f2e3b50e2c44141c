//! A run that ends early, because nobody waits for its result any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ends the runs that it is given to ([`super::Graph::run_until`]). Clones end the same runs.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cancelled: bool,
    /// How the run in work is ended.
    end: Option<Box<dyn Fn() + Send>>,
}

impl Cancel {
    /// Ends the run in work, and every later one.
    pub fn cancel(&self) {
        let mut state = self.state();
        state.cancelled = true;
        if let Some(end) = &state.end {
            end();
        }
    }

    /// Whether nothing is to be begun any more.
    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    /// Calls `run`, and `end` if it is to end early: before it, or on another thread while it runs.
    pub fn during<T>(&self, end: impl Fn() + Send + 'static, run: impl FnOnce() -> T) -> T {
        {
            let mut state = self.state();
            if state.cancelled {
                end();
            }
            state.end = Some(Box::new(end));
        }
        let _over = Over(self);
        run()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets how to end a run when it is over, also by a panic.
struct Over<'a>(&'a Cancel);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state().end = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn runs_end_before_while_and_never_after() {
        let ends = Arc::new(AtomicUsize::new(0));
        let end = || {
            let ends = Arc::clone(&ends);
            move || {
                ends.fetch_add(1, Ordering::SeqCst);
            }
        };
        let count = || ends.load(Ordering::SeqCst);
        let cancel = Cancel::default();
        assert_eq!(cancel.during(end(), count), 0);
        assert_eq!(
            cancel.during(end(), || {
                cancel.clone().cancel();
                count()
            }),
            1
        );
        cancel.cancel();
        assert_eq!(count(), 1, "nothing runs");
        assert_eq!(cancel.during(end(), count), 2, "a later one ends at once");
    }
}
