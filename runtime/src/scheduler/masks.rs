//! What may come next in answers that have a form, computed beside a step of the decoder.
//!
//! On a thread of its own and not on the scheduler's: that one waits for the decoder, and what it did
//! before or behind the step would come on top of every answer's time. The thread lives as long as the
//! step. To start one takes some 20 microseconds, and nothing is started where no answer has a form.

use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use crate::form::Guide;

/// Calls `run`, and prepares guides meanwhile; returns how long that took, where there are any. A guide that
/// was not prepared, since the system had no thread, is when it is asked.
pub(super) fn during<T>(guides: Vec<&mut Guide>, run: impl FnOnce() -> T) -> (T, Option<Duration>) {
    if guides.is_empty() {
        return (run(), None);
    }
    let prepare = move || {
        let started = Instant::now();
        guides.into_iter().for_each(Guide::prepare);
        started.elapsed()
    };
    thread::scope(|scope| {
        let thread = Builder::new().name("arrcoc-masks".into()).spawn_scoped(scope, prepare);
        let result = run();
        (result, thread.ok().and_then(|thread| thread.join().ok()))
    })
}
