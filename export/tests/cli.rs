//! The command line: help that teaches, errors that are said once, and exit statuses.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{Workshop, program, run};
use serde_json::Value;

#[test]
fn help() {
    for command in ["", "init", "build", "inspect", "verify", "completions"] {
        let mut program = program();
        program.args((!command.is_empty()).then_some(command)).arg("--help");
        let (status, stdout, _) = run(&mut program);
        assert_eq!(status, 0);
        let name = if command.is_empty() { "top" } else { command };
        insta::assert_snapshot!(format!("help_{name}"), stdout);
    }
}

#[test]
fn usage_errors_exit_with_two() {
    for (args, expected) in [
        (vec!["build"], "required arguments were not provided"),
        (vec!["frobnicate"], "unrecognized subcommand"),
        (vec!["build", "x", "--out", "y", "--precision", "fp16"], "fp16 bundles are not implemented"),
        (vec!["build", "x", "--out", "y", "--precision", "bf7"], "expected fp32"),
        (vec!["build", "x", "--out", "y", "--target", "tensorrt"], "use cpu or portable"),
        (vec!["init", "--preset", "nope", "--out", "y"], "arr-coc-ovis-tiny"),
    ] {
        let (status, _, stderr) = run(program().args(&args));
        assert_eq!(status, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
}

#[test]
fn failures_exit_with_one_and_are_said_once() {
    let workshop = Workshop::new();
    fs::write(workshop.checkpoint().join("model.safetensors"), "no such thing").unwrap();
    let mut program = program();
    program.arg("build").arg(workshop.checkpoint()).arg("--out").arg(workshop.path("engines"));
    let (status, stdout, stderr) = run(&mut program);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert_eq!(stderr.matches("error:").count(), 1);
    assert_eq!(stderr.matches("its header claims").count(), 1);
    assert!(stderr.contains("\n  because: "), "{stderr}");
}

#[test]
fn init_is_reproducible_and_never_overwrites_unasked() {
    let workshop = Workshop::new();
    let init = |out: &str, seed: &str, force: bool| {
        let mut command = program();
        command
            .args(["init", "--preset", "arr-coc-ovis-tiny", "--seed", seed, "--out"])
            .arg(workshop.path(out));
        command.args(force.then_some("--force"));
        run(&mut command)
    };
    assert_eq!(init("again", "3", false).0, 0);
    assert!(common::contents(&workshop.checkpoint()) == common::contents(&workshop.path("again")));
    let (status, _, stderr) = init("again", "4", false);
    assert_eq!(status, 1);
    assert!(stderr.contains("exists already") && stderr.contains("--force"), "{stderr}");
    assert_eq!(init("again", "4", true).0, 0);
    assert!(common::contents(&workshop.checkpoint()) != common::contents(&workshop.path("again")));
}

#[test]
fn json_is_one_object_a_line_and_ends_with_the_result() {
    let workshop = Workshop::new();
    let mut command = program();
    command.arg("build").arg(workshop.checkpoint()).arg("--json").arg("--out").arg(workshop.path("engines"));
    let (status, stdout, stderr) = run(&mut command);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let result = lines.last().unwrap();
    assert_eq!(result["event"], "result");
    assert_eq!(result["files"].as_array().unwrap().len(), 16);
    let on_disk: u64 = common::contents(&workshop.bundle())
        .iter()
        .filter(|(name, _)| name != "manifest.yaml")
        .map(|(_, bytes)| bytes.len() as u64)
        .sum();
    assert_eq!(result["bytes"], on_disk);
}

#[test]
fn inspect_describes_checkpoints_and_bundles() {
    let workshop = Workshop::new();
    workshop.build(arrcoc_runtime::bundle::manifest::Target::Portable).unwrap();
    let inspect = |path| {
        let (status, stdout, stderr) = run(program().arg("inspect").arg(workshop.path(path)).arg("--json"));
        assert_eq!(status, 0, "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()
    };
    let checkpoint = inspect("tiny");
    assert_eq!(checkpoint["kind"], "checkpoint");
    assert_eq!(checkpoint["problem"], Value::Null);
    assert_eq!(checkpoint["components"].as_array().unwrap().len(), 6);
    let parameters = checkpoint["parameters"].as_u64().unwrap();
    assert_eq!(checkpoint["bytes"].as_u64(), Some(parameters * 2), "bfloat16");

    let bundle = inspect("engines/tiny/fp32-portable");
    assert_eq!(bundle["kind"], "bundle");
    assert_eq!(bundle["graphs"].as_object().unwrap().len(), 7);
    assert_eq!(bundle["graphs"]["vision_encoder"]["opset"], 18);
    assert_eq!(bundle["graphs"]["vision_encoder"]["inputs"][0][1], "float32 [batch, 3, height, width]");

    workshop.edit_json("config.json", |config| config["model_type"] = "llama".into());
    let problem = inspect("tiny")["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("llama"), "{problem}");
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (status, stdout, _) = run(program().args(["completions", shell]));
        assert_eq!(status, 0);
        assert!(stdout.contains("verify") && stdout.contains("max-context"));
    }
}
