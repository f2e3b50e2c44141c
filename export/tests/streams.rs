//! Where the program writes: progress may go nowhere, results may not, and a reader that has seen enough is
//! no failure.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{Workshop, program};
use serde_json::Value;

/// A pipe that nobody reads any more.
fn broken() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// Has no room for a byte.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn output(command: &mut Command, stdout: Stdio, stderr: Stdio) -> Output {
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap().wait_with_output().unwrap()
}

fn build(workshop: &Workshop, out: &str) -> Command {
    let mut command = program();
    command.arg("build").arg(workshop.checkpoint()).arg("--out").arg(workshop.path(out));
    command
}

fn is_bundle(dir: &Path) -> bool {
    arrcoc_bundle::Bundle::open(dir).is_ok()
}

#[test]
fn progress_that_nobody_sees_stops_no_build() {
    let workshop = Workshop::new();
    for (out, stderr) in [("full", full()), ("broken", broken())] {
        let output = output(&mut build(&workshop, out), Stdio::null(), stderr);
        assert_eq!(output.status.code(), Some(0), "{out}");
        assert!(is_bundle(&workshop.path(out).join("tiny/fp32-cpu")), "{out}");
    }
    // JSON on a standard output whose reader has left: the bundle is what was wanted.
    let output = output(build(&workshop, "json").arg("--json"), broken(), Stdio::piped());
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    assert!(is_bundle(&workshop.path("json/tiny/fp32-cpu")));
}

#[test]
fn a_reader_that_stalls_holds_no_build_up() {
    let workshop = Workshop::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (filled, wait) = channel();
    let copy = writer.try_clone().unwrap();
    // Writes until the pipe is full, and then waits with it for the end of the test.
    let filler = std::thread::spawn(move || {
        while writer.write(&[b'x'; 1 << 12]).is_ok() {
            let _ = filled.send(());
        }
    });
    while wait.recv_timeout(Duration::from_millis(200)).is_ok() {}
    let output = output(&mut build(&workshop, "engines"), Stdio::null(), copy.into());
    assert_eq!(output.status.code(), Some(0));
    assert!(is_bundle(&workshop.bundle()));
    drop(reader);
    filler.join().unwrap();
}

#[test]
fn results_that_cannot_be_written_are_errors_and_readers_that_leave_are_none() {
    let workshop = Workshop::new();
    let checkpoint = workshop.checkpoint();
    let listings: [&[&str]; 5] = [
        &["inspect", checkpoint.to_str().unwrap(), "--tensors"],
        &["plan", "--preset", "arr-coc-ovis-base"],
        &["completions", "bash"],
        &["--help"],
        &["build", "--help"],
    ];
    for arguments in listings {
        let left = output(program().args(arguments), broken(), Stdio::piped());
        let text = String::from_utf8_lossy(&left.stderr).into_owned();
        assert_eq!((left.status.code(), text.as_str()), (Some(0), ""), "{arguments:?}");
        let failed = output(program().args(arguments), full(), Stdio::piped());
        let text = String::from_utf8_lossy(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.starts_with("error: cannot write to standard output"), "{arguments:?}: {text}");
    }
    // The bundle is there, and the result that says so is not.
    let failed = output(build(&workshop, "engines").arg("--json"), full(), Stdio::piped());
    assert_eq!(failed.status.code(), Some(1));
    assert!(is_bundle(&workshop.bundle()));
}

#[test]
fn errors_that_nobody_reads_keep_their_exit_code() {
    for stderr in [broken(), full()] {
        let failed = output(program().args(["inspect", "/nonexistent"]), Stdio::null(), stderr);
        assert_eq!(failed.status.code(), Some(1));
    }
    for stderr in [broken(), full()] {
        let failed = output(program().arg("no-such-command"), Stdio::null(), stderr);
        assert_eq!(failed.status.code(), Some(2));
    }
}

#[test]
fn the_last_line_is_the_result_also_where_progress_is_json() {
    let workshop = Workshop::new();
    let built = output(build(&workshop, "engines").arg("--json"), Stdio::piped(), Stdio::piped());
    let last: Value =
        serde_json::from_str(String::from_utf8(built.stdout).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "result");
}
