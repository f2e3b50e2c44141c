//! What a long command says while it runs: bars on a terminal, lines elsewhere, or JSON objects for machines.
//!
//! Bars and lines go to standard error, JSON to standard output, one object a line. The work goes on when
//! nobody reads them; only the last object, the result, must be written.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arrcoc_runtime::console;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// Shortest time between two JSON objects about the same step.
const JSON_INTERVAL: Duration = Duration::from_millis(500);

/// How often a wait is told of, where no spinner turns.
const WAIT_INTERVAL: Duration = Duration::from_secs(15);

/// How a command reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A bar per step.
    Bars,
    /// A line per finished step.
    Lines,
    /// JSON objects.
    Json,
    /// Nothing; for tests and libraries.
    Silent,
}

impl Progress {
    /// What fits standard error, or JSON where that was asked for.
    pub fn detect(json: bool) -> Self {
        if json {
            Self::Json
        } else if std::io::stderr().is_terminal() {
            Self::Bars
        } else {
            Self::Lines
        }
    }

    /// Starts a step that will handle `bytes` bytes.
    pub fn step(self, name: &str, bytes: u64) -> Step {
        let target =
            if self == Self::Bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = "{msg:<28} {wide_bar:.cyan/dim} {bytes:>10} / {total_bytes:<10} {eta:>4}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(bytes), target)
            .with_style(style)
            .with_message(name.to_owned());
        Step { progress: self, name: name.to_owned(), bar, started: Instant::now(), reported: Instant::now() }
    }

    /// Says something that is not about bytes.
    pub fn note(self, text: &str) {
        match self {
            Self::Bars => {
                console::note(text);
                // Before the next bar is drawn.
                console::in_order();
            }
            Self::Lines => console::note(text),
            Self::Json => emit(&json!({ "event": "note", "text": text })),
            Self::Silent => {}
        }
    }

    /// Starts a wait for something that does not say how long it takes: a spinner, or a line every quarter of
    /// a minute.
    pub fn wait(self, text: &str) -> Waiting {
        let said = Arc::new(Mutex::new(text.to_owned()));
        let mut waiting = Waiting { said: Arc::clone(&said), spinner: None, end: None, thread: None };
        match self {
            Self::Silent => {}
            Self::Bars => {
                let spinner = ProgressBar::new_spinner().with_message(text.to_owned());
                let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
                spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                spinner.enable_steady_tick(Duration::from_millis(120));
                waiting.spinner = Some(spinner);
            }
            Self::Lines | Self::Json => {
                let (end, ended) = channel::<()>();
                let started = Instant::now();
                waiting.end = Some(end);
                let tell = move || {
                    while ended.recv_timeout(WAIT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                        let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                        self.note(&format!("{said}, {} s", started.elapsed().as_secs()));
                    }
                };
                // Without a thread nothing is told, and the work goes on.
                waiting.thread = thread::Builder::new().name("wait".to_owned()).spawn(tell).ok();
            }
        }
        waiting
    }

    /// The last object of a command for machines; nothing for people, who get [`Progress::note`]s.
    ///
    /// # Errors
    /// It cannot be written; that its reader has left is none.
    pub fn result(self, value: &Value) -> io::Result<()> {
        if self == Self::Json { console::print(&format!("{value}\n")) } else { Ok(()) }
    }
}

/// A wait; it ends when it is dropped.
#[derive(Debug)]
pub struct Waiting {
    said: Arc<Mutex<String>>,
    spinner: Option<ProgressBar>,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    /// Says what is waited for now.
    pub fn say(&self, text: &str) {
        text.clone_into(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(spinner) = &self.spinner {
            spinner.set_message(text.to_owned());
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// A step under way.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    name: String,
    bar: ProgressBar,
    started: Instant,
    reported: Instant,
}

impl Step {
    /// Another `bytes` bytes are done.
    pub fn advance(&mut self, bytes: u64) {
        self.bar.inc(bytes);
        if self.progress == Progress::Json && self.reported.elapsed() > JSON_INTERVAL {
            self.reported = Instant::now();
            self.report("progress");
        }
    }

    /// All is to be done again.
    pub fn rewind(&mut self) {
        self.bar.set_position(0);
    }

    /// The step is done.
    pub fn finish(self) {
        let seconds = self.started.elapsed().as_secs_f64();
        match self.progress {
            Progress::Bars => self.bar.finish(),
            Progress::Lines => {
                let size = human_bytes(self.bar.length().unwrap_or(0));
                console::note(&format!("{:<28} {size:>10}  {seconds:6.2} s", self.name));
            }
            Progress::Json => self.report("done"),
            Progress::Silent => {}
        }
    }

    fn report(&self, event: &str) {
        let (done, total) = (self.bar.position(), self.bar.length());
        emit(&json!({ "event": event, "step": self.name, "bytes": done, "total": total }));
    }
}

fn emit(value: &Value) {
    // A reader that has gone away misses nothing that it wants; the work itself goes on.
    let _ = console::print(&format!("{value}\n"));
}

/// A size as people read it.
pub fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Largest resident memory that this process has had, bytes; `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_covers_what_was_touched() {
        let touched = vec![1u8; 64 << 20];
        assert!(peak_memory().is_some_and(|peak| peak >= touched.len() as u64));
    }
}
