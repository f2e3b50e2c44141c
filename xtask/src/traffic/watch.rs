//! What is watched while traffic goes on: how long probes take, and how much memory the server has.

use std::io::BufReader;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http;
use super::server::Process;

/// A probe that takes longer has failed, as an orchestrator sees it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two probes.
const PAUSE: Duration = Duration::from_millis(10);

/// Times of many exchanges.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies {
    /// Milliseconds, in any order.
    pub(crate) milliseconds: Vec<f64>,
    /// How many failed; each counts as [`PATIENCE`] too.
    pub(crate) failed: usize,
}

impl Latencies {
    /// The time that `percent` of the exchanges stayed below; 0 when there were none.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let index = ((sorted.len() as f64 * percent / 100.0).ceil() as usize).saturating_sub(1);
        sorted.get(index).copied().unwrap_or(0.0)
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.milliseconds.extend(other.milliseconds);
        self.failed += other.failed;
    }
}

/// A thread that does the same again and again until it is asked for what it found.
pub(crate) struct Watch<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<T>>,
}

impl<T: Send + 'static> Watch<T> {
    fn every(pause: Duration, look: impl Fn() -> Option<T> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut found = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    found.extend(look());
                    thread::sleep(pause);
                }
                found
            }
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub(crate) fn finish(self) -> Vec<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// One probe: milliseconds, and whether it was answered 200.
pub(crate) type Probe = (f64, bool);

/// Asks `/health` on a new connection, as orchestrators do.
pub(crate) fn probes(address: SocketAddr) -> Watch<Probe> {
    Watch::every(PAUSE, move || {
        let start = Instant::now();
        let request = http::head("GET", "/health", address, &[("Connection", "close")]);
        let answered = http::connect(address, PATIENCE).and_then(|mut stream| {
            stream.write_all(&request)?;
            http::read(&mut BufReader::new(stream))
        });
        let fine = answered.is_ok_and(|answer| answer.status == 200);
        let took = if fine { start.elapsed() } else { PATIENCE };
        Some((took.as_secs_f64() * 1e3, fine))
    })
}

/// What probes found. While a probe waits, later probes are not sent: they count as if
/// they had been, each with the rest of the wait. Otherwise a single probe of three seconds would be lost
/// among a hundred quick ones.
pub(crate) fn latencies(probes: Vec<Probe>) -> Latencies {
    let failed = probes.iter().filter(|(_, fine)| !fine).count();
    let rests = |(wait, _): (f64, bool)| {
        let rest = move |index: u32| wait - f64::from(index) * PAUSE.as_secs_f64() * 1e3;
        std::iter::once(wait).chain((1..).map(rest).take_while(|rest| *rest > 0.0))
    };
    Latencies { milliseconds: probes.into_iter().flat_map(rests).collect(), failed }
}

/// Resident memory over time: seconds since the start, bytes.
pub(crate) fn memory(process: Process) -> Watch<(f64, u64)> {
    let start = Instant::now();
    Watch::every(Duration::from_millis(100), move || {
        Some((start.elapsed().as_secs_f64(), process.resident()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let latencies = Latencies { milliseconds: (1..=100).rev().map(f64::from).collect(), failed: 0 };
        assert_eq!([50.0, 99.0, 100.0].map(|p| latencies.percentile(p)), [50.0, 99.0, 100.0]);
        assert_eq!(Latencies::default().percentile(99.0), 0.0);
    }

    #[test]
    fn a_long_wait_counts_as_the_probes_that_it_kept_back() {
        let quick = vec![(1.0, true); 100];
        let waited = latencies([&quick[..], &[(3000.0, true)]].concat());
        assert_eq!(waited.milliseconds.len(), 100 + 300);
        assert!(waited.percentile(99.0) > 2900.0);
    }
}
