//! Logs that nobody reads, files that change, directories that are somebody else's.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result};

use super::ring::{Ring, Row};
use crate::shell;
use crate::traffic::http;
use crate::traffic::questions;
use crate::traffic::server::{Launch, Log};
use crate::traffic::{CHECKPOINT, PAGE};

const ASKED: usize = 20;
/// Longest wait for a server that was asked to end.
const END: Duration = Duration::from_secs(10);

/// What happens to the log.
#[derive(Clone, Copy, PartialEq)]
enum Reader {
    Gone,
    Stalled,
    /// There never was room.
    Full,
}

pub(super) fn log(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, reader) in [
        ("the reader of the pipe gone", Reader::Gone),
        ("the reader stalls", Reader::Stalled),
        ("/dev/full", Reader::Full),
    ] {
        let mut row = Row::new(&format!("log: {what}"));
        let log = if reader == Reader::Full { Log::File("/dev/full".into()) } else { Log::Pipe };
        // Enough lines to fill a pipe.
        let flags = [ring.bundle_flags(), vec!["--log-filter".to_owned(), "trace".to_owned()]].concat();
        let launch = Launch { log, ..ring.launch(&row.name, flags) };
        let mut server = match launch.start() {
            Ok(server) => server,
            Err(error) => {
                row.wrong.push(format!("not started: {error:#}"));
                rows.push(row);
                continue;
            }
        };
        // Nobody reads while it loads either: the reader is gone from the beginning, or stalls from the
        // beginning.
        let pipe = server.pipe.take();
        let kept = if reader == Reader::Gone { None } else { pipe };
        if let Err(error) = server.await_ready() {
            row.wrong.push(format!("not ready: {error:#}"));
            rows.push(row);
            continue;
        }
        let idle = server.process().resident().unwrap_or(0);
        row.single = Some(ring.watch(&mut server, &mut row, idle, |server, row| {
            let body = b"{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":2}";
            let request = http::post("/v1/chat/completions", server.address, None, body);
            for _ in 0..ASKED {
                row.count(&http::exchange(server.address, &request, Duration::from_secs(2)));
            }
        }));
        row.expect(row.answers.get("200") == Some(&ASKED), "expected every question answered");
        match server.terminate(END) {
            Some(status) => {
                row.note = format!("SIGTERM: {status}");
                row.expect(status.success(), "expected status 0 after SIGTERM");
            }
            None => row.wrong.push("SIGTERM had no effect for 10 s".to_owned()),
        }
        drop(kept);
        rows.push(row);
    }
    Ok(rows)
}

/// Copies a directory of files.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Files of a bundle that is being served are written over, or cut short.
pub(super) fn changed_files(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, cut) in [("written over", false), ("cut short", true)] {
        let mut row = Row::new(&format!("changed files: weights {what} while they are served"));
        let bundle = ring.work.join(what.replace(' ', "-"));
        copy(&ring.subject.bundle, &bundle)?;
        let flags = vec!["--bundle".to_owned(), bundle.display().to_string()];
        let mut server = ring.launch(&row.name, flags).ready()?;
        ring.warm(&server)?;
        let weights: Vec<PathBuf> = fs::read_dir(&bundle)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "data"))
            .collect();
        // The writer may be held off for as long as the server reads the files.
        std::thread::spawn(move || weights.iter().try_for_each(|path| spoil(path, cut)));
        let idle = server.process().resident().unwrap_or(0);
        let body = question()?;
        row.single = Some(ring.watch(&mut server, &mut row, idle, |server, row| {
            let request = http::post("/v1/chat/completions", server.address, None, &body);
            for _ in 0..6 {
                std::thread::sleep(Duration::from_millis(700));
                let answer = http::exchange(server.address, &request, super::ring::PATIENCE);
                row.count(&answer);
                let right =
                    answer.is_ok_and(|answer| answer.status != 200 || answer.text().contains("\"284\""));
                row.expect(right, "answers from changed weights");
            }
        }));
        // When its bundle was written to, a server says so at /health as well, until it is restarted.
        row.wrong.retain(|wrong| !wrong.starts_with("/health") && !wrong.ends_with("probes failed"));
        row.wrong.dedup();
        if let Some(status) = server.wait(Duration::from_millis(300)) {
            row.wrong.push(format!("the server ended: {status}"));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn spoil(path: &Path, cut: bool) -> std::io::Result<()> {
    let length = fs::metadata(path)?.len();
    let mut file = OpenOptions::new().write(true).open(path)?;
    match cut {
        true => file.set_len(0),
        false => std::io::Write::write_all(&mut file, &vec![0x3c; length as usize]),
    }
}

/// The first question, again: what was seen of the page is cached, and the decoder must run.
fn question() -> Result<Vec<u8>> {
    let questions = questions::all(&shell::root().join(PAGE), 0)?;
    Ok(questions.first().context("there is a question")?.body(false))
}

/// A checkpoint like the ledger's with another chat template.
pub(super) fn checkpoint_with(dir: &Path, template: &str) -> Result<PathBuf> {
    copy(&shell::root().join(CHECKPOINT), dir)?;
    fs::write(dir.join("chat_template.jinja"), template)?;
    Ok(dir.to_owned())
}

/// `arrcoc-export build` beside the server's program.
pub(super) fn build(ring: &Ring<'_>, checkpoint: &Path, out: &Path) -> Result<Output> {
    let export = ring.subject.program.with_file_name("arrcoc-export");
    let mut build = shell::command(export);
    build.arg("build").arg(checkpoint).arg("--out").arg(out).args(["--name", "arr-coc-ledger"]);
    Ok(build.args(["--precision", "fp32", "--target", "cpu"]).output()?)
}

/// Templates that fail at every request, or at every one with an image: named at build, not at the request.
pub(super) fn broken_templates(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, template) in [
        ("an unknown filter", "{% for m in messages %}{{ m.content | no_such_filter }}{% endfor %}"),
        ("no place for an image", "{% for m in messages %}{{ m.role }}{% endfor %}"),
        ("fails on lists", "{% for m in messages %}{{ m.content.strip() }}<|image_pad|>{% endfor %}"),
    ] {
        let mut row = Row::new(&format!("broken templates: {what}"));
        let dir = ring.work.join(format!("template-{}", rows.len()));
        let output = build(ring, &checkpoint_with(&dir.join("checkpoint"), template)?, &dir.join("out"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        row.note = format!("build: {}", output.status);
        row.expect(!output.status.success(), "built");
        row.expect(output.status.success() || said.contains("chat_template"), "the template is not named");
        rows.push(row);
    }
    Ok(rows)
}

pub(super) fn foreign_directories(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let checkpoint = shell::root().join(CHECKPOINT);
    let mut foreign = Row::new("foreign directories: somebody's notes at the destination");
    let out = ring.work.join("foreign");
    let destination = out.join("arr-coc-ledger/fp32-cpu");
    fs::create_dir_all(&destination)?;
    fs::write(destination.join("notes.txt"), "mine")?;
    let output = build(ring, &checkpoint, &out)?;
    foreign.note = format!("build: {}", output.status);
    foreign.expect(destination.join("notes.txt").is_file(), "the notes are gone");
    foreign.expect(!output.status.success(), "the build replaced them");

    let mut link = Row::new("foreign directories: a link where the partial directory goes");
    let (out, victim) = (ring.work.join("linked"), ring.work.join("victim"));
    fs::create_dir_all(out.join("arr-coc-ledger"))?;
    fs::create_dir_all(&victim)?;
    fs::write(victim.join("precious.txt"), "mine")?;
    symlink(&victim, out.join("arr-coc-ledger/.fp32-cpu.partial"))?;
    let output = build(ring, &checkpoint, &out)?;
    link.note = format!("build: {}", output.status);
    link.expect(victim.join("precious.txt").is_file(), "the link was followed, and what it led to is gone");
    Ok(vec![foreign, link])
}
