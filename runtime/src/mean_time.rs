//! A moving average of times, kept by many threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The average: a quarter of the newest time and three quarters of the older ones. A lost update does no
/// harm.
#[derive(Debug, Default)]
pub struct MeanTime {
    micros: AtomicU64,
}

impl MeanTime {
    /// Notes one time.
    pub fn record(&self, took: Duration) {
        let (took, old) = (took.as_micros() as u64, self.micros.load(Ordering::Relaxed));
        self.micros.store(if old == 0 { took } else { (old * 3 + took) / 4 }, Ordering::Relaxed);
    }

    /// The average so far; zero before the first.
    pub fn get(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}
