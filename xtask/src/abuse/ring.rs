//! Where attacks take place: a server with a question that it must go on answering, and what was seen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::shell;
use crate::soak::Subject;
use crate::traffic::PAGE;
use crate::traffic::http::{self, Answer};
use crate::traffic::questions::{self, Question, Said};
use crate::traffic::server::{Launch, Log, Server};
use crate::traffic::watch;

/// Most resident memory above what an idle server has, for the worst single request: bytes.
const SINGLE: f64 = 600e6;
/// The same for 32 of them at once.
const MANY: f64 = 1500e6;
/// 99 of 100 probes are answered within this many milliseconds.
const HEALTH: f64 = 50.0;
/// Address space of a server under attack, bytes: it must not take the machine down with it.
const ADDRESS_SPACE: u64 = 10 << 30;
/// Longest wait for an answer to an attack.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);

/// What is attacked, and where.
pub(super) struct Ring<'a> {
    pub(super) subject: &'a Subject,
    /// An empty directory.
    pub(super) work: &'a Path,
    question: Question,
}

/// What was seen of an attack.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) name: String,
    /// Resident memory above an idle server's: at one request, and at many at once. Bytes.
    pub(super) single: Option<f64>,
    pub(super) many: Option<f64>,
    /// Milliseconds that 99 of 100 probes stayed below meanwhile, and how many of them failed.
    pub(super) health: Option<(f64, usize)>,
    /// Answers, by what they are.
    pub(super) answers: BTreeMap<String, usize>,
    /// What is otherwise than it should be; what the figures say is added by [`Row::wrongs`].
    pub(super) wrong: Vec<String>,
    pub(super) note: String,
}

impl Row {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub(super) fn count(&mut self, answer: &std::io::Result<Answer>) {
        *self.answers.entry(told(answer)).or_default() += 1;
    }

    /// Notes an expectation that was not met.
    pub(super) fn expect(&mut self, met: bool, what: &str) {
        if !met {
            self.wrong.push(what.to_owned());
        }
    }

    /// All that is otherwise than it should be.
    pub(super) fn wrongs(&self) -> Vec<String> {
        let mut wrongs = self.wrong.clone();
        for (bytes, most, what) in [(self.single, SINGLE, "one request"), (self.many, MANY, "many")] {
            if let Some(bytes) = bytes.filter(|bytes| *bytes >= most) {
                wrongs.push(format!(
                    "{what}: {:.0} MB above idle, below {:.0} expected",
                    bytes / 1e6,
                    most / 1e6
                ));
            }
        }
        if let Some((milliseconds, failed)) = self.health {
            if milliseconds >= HEALTH {
                wrongs.push(format!("/health p99 {milliseconds:.0} ms, below {HEALTH:.0} expected"));
            }
            if failed > 0 {
                wrongs.push(format!("{failed} probes failed"));
            }
        }
        wrongs
    }

    fn said(&self) -> String {
        let answers = self.answers.iter().map(|(answer, count)| match count {
            1 => answer.clone(),
            count => format!("{answer} x {count}"),
        });
        answers.chain((!self.note.is_empty()).then(|| self.note.clone())).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn value(&self) -> Value {
        json!({
            "attack": self.name,
            "one_request_above_idle_bytes": self.single,
            "many_above_idle_bytes": self.many,
            "health_p99_ms": self.health.map(|(milliseconds, _)| milliseconds),
            "health_failed": self.health.map(|(_, failed)| failed),
            "answers": self.answers,
            "note": self.note,
            "wrong": self.wrongs(),
        })
    }

    pub(super) fn print(rows: &[Self]) {
        println!("| attack | one, MB | many, MB | /health p99, ms | answers | wrong |");
        println!("|---|---:|---:|---:|---|---|");
        for row in rows {
            let megabytes =
                |bytes: Option<f64>| bytes.map_or(String::new(), |bytes| format!("{:.0}", bytes / 1e6));
            let health = row.health.map_or(String::new(), |(milliseconds, failed)| match failed {
                0 => format!("{milliseconds:.0}"),
                failed => format!("{milliseconds:.0} ({failed} failed)"),
            });
            let (single, many, wrong) = (megabytes(row.single), megabytes(row.many), row.wrongs().join("; "));
            println!("| {} | {single} | {many} | {health} | {} | {wrong} |", row.name, row.said());
        }
    }
}

/// An answer in a few words.
pub(super) fn told(answer: &std::io::Result<Answer>) -> String {
    match answer {
        Ok(answer) => answer.status.to_string(),
        Err(error) => crate::soak::cut(error).to_owned(),
    }
}

impl<'a> Ring<'a> {
    pub(super) fn new(subject: &'a Subject, work: &'a Path) -> Result<Self> {
        let question = questions::all(&shell::root().join(PAGE), 0)?.into_iter().next();
        Ok(Self { subject, work, question: question.context("there is a question")? })
    }

    pub(super) fn bundle_flags(&self) -> Vec<String> {
        vec!["--bundle".to_owned(), self.subject.bundle.display().to_string()]
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.work.join(format!("{}.log", name.replace(|letter: char| !letter.is_alphanumeric(), "-")))
    }

    pub(super) fn launch(&self, name: &str, flags: Vec<String>) -> Launch<'_> {
        Launch {
            program: &self.subject.program,
            library: &self.subject.library,
            flags,
            address_space: Some(ADDRESS_SPACE),
            log: Log::File(self.log(name)),
        }
    }

    /// A server with defaults that has answered a question.
    pub(super) fn server(&self, name: &str) -> Result<Server> {
        let server = self.launch(name, self.bundle_flags()).ready()?;
        self.warm(&server)?;
        Ok(server)
    }

    pub(super) fn warm(&self, server: &Server) -> Result<()> {
        for _ in 0..3 {
            self.ask(server)?;
        }
        Ok(())
    }

    /// Asks the question, and expects the answer that stands on the page.
    pub(super) fn ask(&self, server: &Server) -> Result<()> {
        let request = http::post(self.question.path, server.address, None, &self.question.body(false));
        let answer = http::exchange(server.address, &request, PATIENCE)?;
        ensure!(answer.status == 200, "{}", answer.status);
        let said = Said::whole(&answer)?;
        let text = said.choices.first().map(|(text, _)| text.trim());
        ensure!(text == self.question.known, "expected {:?}, found {text:?}", self.question.known);
        Ok(())
    }

    /// Runs an attack under watch. Fills the row's probes, and returns how far memory rose above `idle`.
    pub(super) fn watch(
        &self,
        server: &mut Server,
        row: &mut Row,
        idle: u64,
        attack: impl FnOnce(&Server, &mut Row),
    ) -> f64 {
        let process = server.process();
        process.forget_peak();
        let probes = watch::probes(server.address);
        let start = Instant::now();
        attack(server, row);
        // Enough probes for their hundredth to mean something.
        thread::sleep(Duration::from_millis(1500).saturating_sub(start.elapsed()));
        let peak = process.peak().unwrap_or(idle);
        let probes = watch::latencies(probes.finish());
        let (before, failed) = row.health.unwrap_or_default();
        row.health = Some((before.max(probes.percentile(99.0)), failed + probes.failed));
        peak.saturating_sub(idle) as f64
    }

    /// Notes whether the server lives and answers.
    pub(super) fn aftermath(&self, server: &mut Server, row: &mut Row) {
        if let Some(status) = server.ended().or_else(|| server.wait(Duration::from_millis(100))) {
            row.wrong.push(format!("the server ended: {status}"));
        } else if let Err(error) = self.ask(server) {
            row.wrong.push(format!("a question afterwards: {error:#}"));
        }
    }

    /// One request after the other, then many of the last at once, each to a fresh server.
    pub(super) fn requests(&self, name: &str, requests: &[(&str, Vec<u8>)], many: usize) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (index, (what, body)) in requests.iter().enumerate() {
            let mut row = Row::new(&format!("{name}: {what}"));
            let mut server = self.server(&row.name)?;
            let idle = server.process().resident().unwrap_or(0);
            let send = |server: &Server| {
                let request = http::post("/v1/chat/completions", server.address, None, body);
                http::exchange(server.address, &request, PATIENCE)
            };
            row.single =
                Some(self.watch(&mut server, &mut row, idle, |server, row| row.count(&send(server))));
            if index == 0 && many > 0 && server.ended().is_none() {
                row.many = Some(self.watch(&mut server, &mut row, idle, |server, row| {
                    let answers: Vec<_> = thread::scope(|scope| {
                        let threads: Vec<_> = (0..many).map(|_| scope.spawn(|| send(server))).collect();
                        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
                    });
                    answers.iter().for_each(|answer| row.count(answer));
                }));
                row.name = format!("{} (and {many} at once)", row.name);
            }
            self.aftermath(&mut server, &mut row);
            rows.push(row);
        }
        Ok(rows)
    }
}
