//! Where the programs write: readers that leave, disks that are full, and nobody at all.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::process::{Command, Output, Stdio};

/// A pipe that nobody reads any more.
fn broken() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// Has no room for a byte.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn run(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arrcoc-serve"));
    command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command.spawn().unwrap().wait_with_output().unwrap()
}

/// What prints a result and needs no bundle.
fn listings() -> [Vec<&'static str>; 5] {
    let configuration = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/serve.yaml");
    [
        vec!["config", "check", configuration],
        vec!["completions", "bash"],
        vec!["--help"],
        vec!["serve", "--help"],
        vec!["--version"],
    ]
}

#[test]
fn a_reader_that_leaves_ends_a_listing_quietly() {
    for arguments in listings() {
        let output = run(&arguments, broken(), Stdio::piped());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.is_empty(), "{arguments:?}: {} {text}", output.status);
    }
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    for arguments in listings() {
        let output = run(&arguments, full(), Stdio::piped());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.starts_with("error: cannot write to standard output"), "{arguments:?}: {text}");
    }
}

#[test]
fn errors_that_nobody_reads_keep_their_exit_code() {
    for (arguments, code) in [
        (vec!["config", "check", "/nonexistent.yaml"], 2),
        (vec!["serve", "--bundle", "/nonexistent"], 2),
        (vec!["serve", "--no-such-flag"], 2),
        (vec!["swap", "int4", "--key", "k", "--url", "http://127.0.0.1:1"], 1),
    ] {
        for stderr in [broken(), full()] {
            assert_eq!(run(&arguments, Stdio::null(), stderr).status.code(), Some(code), "{arguments:?}");
        }
    }
}
