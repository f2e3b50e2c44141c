//! What a soak found.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::shell::shown;
use crate::traffic::watch::Latencies;

const MEGABYTE: f64 = 1e6;
/// How far resident memory may grow between the second tenth of the time and the last, bytes: allocators keep
/// a little here and there; a leak of 2 kB a request would show.
const GROWTH: f64 = 48.0 * MEGABYTE;
/// How far it may ever be above what it is at rest, bytes.
const ABOVE_REST: f64 = 600.0 * MEGABYTE;
/// Longest answer to a bad request, bytes. What is wrong with it can be said in less than it takes to repeat
/// it.
const LONGEST_ERROR: usize = 4096;
/// How many failures of a kind are shown.
const SHOWN: usize = 5;

/// What clients counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Times of good answers.
    pub(super) good: Latencies,
    /// How often a good request was told to come again later.
    pub(super) later: usize,
    pub(super) lost: Vec<String>,
    pub(super) mixed: Vec<String>,
    /// Statuses of bad requests, by what was bad.
    pub(super) bad: BTreeMap<&'static str, BTreeMap<String, usize>>,
    pub(super) longest_error: usize,
    /// Bad requests that were answered as if the server were at fault.
    pub(super) failures: Vec<String>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.good.extend(other.good);
        self.later += other.later;
        self.lost.extend(other.lost);
        self.mixed.extend(other.mixed);
        self.failures.extend(other.failures);
        self.longest_error = self.longest_error.max(other.longest_error);
        for (kind, statuses) in other.bad {
            for (status, count) in statuses {
                *self.bad.entry(kind).or_default().entry(status).or_default() += count;
            }
        }
    }

    /// Bad requests of all kinds by their answer.
    fn statuses(&self) -> BTreeMap<&str, usize> {
        let mut statuses = BTreeMap::new();
        for (status, count) in self.bad.values().flatten() {
            *statuses.entry(status.as_str()).or_default() += count;
        }
        statuses
    }
}

/// All that was found.
pub(super) struct Report {
    pub(super) seconds: f64,
    /// Resident memory before the first request, bytes.
    pub(super) rest: u64,
    /// The same two seconds after the last one.
    pub(super) settled: u64,
    /// Seconds and bytes meanwhile.
    pub(super) memory: Vec<(f64, u64)>,
    pub(super) health: Latencies,
    pub(super) tally: Tally,
    /// How the server ended, when it did.
    pub(super) died: Option<String>,
    /// Whether every question was answered afterwards as before.
    pub(super) again: bool,
}

impl Report {
    /// The middle of resident memory in a tenth of the time, bytes.
    fn tenth(&self, index: usize) -> f64 {
        let during: Vec<f64> = self.during().map(|(_, bytes)| bytes as f64).collect();
        let mut part = during[during.len() * index / 10..during.len() * (index + 1) / 10].to_vec();
        part.sort_by(f64::total_cmp);
        part.get(part.len() / 2).copied().unwrap_or(0.0)
    }

    fn during(&self) -> impl Iterator<Item = (f64, u64)> {
        self.memory.iter().copied().filter(|(seconds, _)| *seconds <= self.seconds)
    }

    fn peak(&self) -> f64 {
        self.memory.iter().map(|(_, bytes)| *bytes as f64).fold(0.0, f64::max)
    }

    fn bad(&self) -> usize {
        self.tally.statuses().values().sum()
    }

    fn value(&self) -> Value {
        let latencies = |times: &Latencies| {
            json!({
                "count": times.milliseconds.len(), "failed": times.failed,
                "p50_ms": times.percentile(50.0), "p99_ms": times.percentile(99.0), "longest_ms": times.percentile(100.0),
            })
        };
        let step = (self.memory.len() / 100).max(1);
        json!({
            "seconds": self.seconds,
            "good": latencies(&self.tally.good),
            "later": self.tally.later,
            "lost": self.tally.lost,
            "mixed": self.tally.mixed,
            "bad": self.bad(),
            "bad_by_status": self.tally.statuses(),
            "bad_by_kind": self.tally.bad,
            "server_errors": self.tally.failures,
            "longest_error_bytes": self.tally.longest_error,
            "health": latencies(&self.health),
            "resident_bytes": {
                "at_rest": self.rest, "second_tenth": self.tenth(1), "last_tenth": self.tenth(9),
                "peak": self.peak(), "two_seconds_after": self.settled,
                "over_time": self.memory.iter().step_by(step).collect::<Vec<_>>(),
            },
            "died": self.died,
            "same_answers_afterwards": self.again,
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.value())?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("figures: {}", shown(path));
        Ok(())
    }

    pub(super) fn print(&self) {
        let Tally { good, later, lost, mixed, bad, .. } = &self.tally;
        println!("\n{:<34} {:>8}", "requests", good.milliseconds.len() + self.bad());
        println!("{:<34} {:>8}", "  good", good.milliseconds.len());
        println!("{:<34} {:>8}", "  lost", lost.len());
        println!("{:<34} {:>8}", "  mixed", mixed.len());
        println!("{:<34} {:>8}", "  told to come later (429, 503)", later);
        println!("{:<34} {:>8}", "  bad", self.bad());
        for (status, count) in self.tally.statuses() {
            println!("{:<34} {count:>8}", format!("    {status}"));
        }
        println!("{:<34} {:>8.1}", "seconds", self.seconds);
        for (name, times) in [("good answers", good), ("/health", &self.health)] {
            let (p50, p99) = (times.percentile(50.0), times.percentile(99.0));
            println!("{:<34} {p50:>8.1} {p99:>8.1}", format!("{name}: ms, p50 and p99"));
        }
        for (name, bytes) in [
            ("at rest", self.rest as f64),
            ("second tenth", self.tenth(1)),
            ("last tenth", self.tenth(9)),
            ("peak", self.peak()),
            ("two seconds after", self.settled as f64),
        ] {
            println!("{:<34} {:>8.0}", format!("resident memory, MB: {name}"), bytes / MEGABYTE);
        }
        println!("{:<34} {:>8}", "longest answer to a bad one, bytes", self.tally.longest_error);
        println!("\n{:<34} answers", "bad requests");
        for (kind, statuses) in bad {
            let statuses: Vec<String> =
                statuses.iter().map(|(status, count)| format!("{status} x {count}")).collect();
            println!("{kind:<34} {}", statuses.join(", "));
        }
    }

    /// # Errors
    /// When anything was lost or mixed, memory grew, or the server failed.
    pub(super) fn check(&self) -> Result<()> {
        let mut findings = Vec::new();
        for (what, list) in
            [("lost", &self.tally.lost), ("mixed", &self.tally.mixed), ("5xx", &self.tally.failures)]
        {
            if !list.is_empty() {
                let shown: Vec<&str> = list.iter().take(SHOWN).map(String::as_str).collect();
                findings.push(format!("{} {what}:\n  {}", list.len(), shown.join("\n  ")));
            }
        }
        let (growth, above) = (self.tenth(9) - self.tenth(1), self.peak() - self.rest as f64);
        if growth > GROWTH {
            findings.push(format!(
                "resident memory grew by {:.0} MB, at most {:.0} expected",
                growth / MEGABYTE,
                GROWTH / MEGABYTE
            ));
        }
        if above > ABOVE_REST {
            findings.push(format!(
                "resident memory rose by {:.0} MB, at most {:.0} expected",
                above / MEGABYTE,
                ABOVE_REST / MEGABYTE
            ));
        }
        if self.tally.longest_error > LONGEST_ERROR {
            findings.push(format!(
                "a bad request was answered with {} bytes, at most {LONGEST_ERROR} expected",
                self.tally.longest_error
            ));
        }
        findings.extend(self.died.as_ref().map(|status| format!("the server ended: {status}")));
        if !self.again {
            findings.push("afterwards a question was answered otherwise than before".to_owned());
        }
        match findings.is_empty() {
            true => Ok(()),
            false => bail!("{}", findings.join("\n")),
        }
    }
}
