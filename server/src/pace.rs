//! How fast a request's body arrives: fast enough to be waited for, or not.

use std::time::{Duration, Instant};

/// Bytes per second below which a body stands still, as far as others who need its place are concerned. The
/// slowest mobile networks are ten times as fast.
const FAIR_RATE: f64 = 4096.0;

/// The rate is measured over this long at least, so that one lost packet is no standstill.
const WINDOW: Duration = Duration::from_secs(2);

/// Measures the arrival of one body.
#[derive(Debug)]
pub(crate) struct Pace {
    window: Instant,
    bytes: usize,
    slow_since: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { window: now, bytes: 0, slow_since: None }
    }

    /// Notes bytes that arrived.
    pub(crate) fn note(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes;
        let seconds = now.saturating_duration_since(self.window).as_secs_f64();
        if seconds < WINDOW.as_secs_f64() {
            return;
        }
        let slow = (self.bytes as f64) < FAIR_RATE * seconds;
        self.slow_since = slow.then(|| self.slow_since.unwrap_or(self.window));
        (self.window, self.bytes) = (now, 0);
    }

    /// Since when the body has come too slowly; `None` while it comes at a fair speed.
    pub(crate) fn slow_since(&self, now: Instant) -> Option<Instant> {
        // No window was closed for as long as two take: nothing comes at all.
        let silent = now.saturating_duration_since(self.window) >= 2 * WINDOW;
        self.slow_since.or_else(|| silent.then_some(self.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_bodies_are_fair_and_silent_or_trickling_ones_are_not() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut steady = Pace::new(start);
        (1..20).for_each(|second| steady.note(20_000, after(second)));
        assert_eq!(steady.slow_since(after(20)), None);
        assert!(steady.slow_since(after(30)).is_some(), "it fell silent");

        let mut trickling = Pace::new(start);
        trickling.note(30 << 20, after(1));
        (2..10).for_each(|second| trickling.note(1, after(second)));
        // What came at first buys no time later.
        assert!(trickling.slow_since(after(10)).is_some());
        (10..14).for_each(|second| trickling.note(1 << 20, after(second)));
        assert_eq!(trickling.slow_since(after(14)), None, "it came back");

        let new = Pace::new(start);
        assert_eq!(new.slow_since(after(1)), None);
    }
}
