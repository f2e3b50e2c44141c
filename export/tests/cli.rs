//! The command line: help that teaches, errors that are said once, and exit statuses.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{Workshop, program, run};
use serde_json::Value;

#[test]
fn help() {
    for command in
        ["", "init", "pull", "build", "calibrate", "compile", "inspect", "plan", "verify", "completions"]
    {
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
        (vec!["build", "x", "--out", "y", "--precision", "fp8", "--range", "max"], "expected absmax"),
        (vec!["build", "x", "--out", "y", "--precision", "bf7"], "possible values: fp32"),
        (vec!["build", "x", "--out", "y", "--target", "tensorrt"], "TensorRT takes portable bundles"),
        (vec!["init", "--preset", "nope", "--out", "y"], "arr-coc-ovis-tiny"),
        (vec!["plan"], "required arguments were not provided"),
        (vec!["plan", "x", "--preset", "arr-coc-ovis-tiny"], "cannot be used with"),
        (vec!["plan", "x", "--device", "k80"], "rtx4090"),
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

/// What `arrcoc-serve serve` looks for in `engines`.
#[test]
fn a_checkpoint_of_transformers_is_built_into_engines_unless_told_otherwise() {
    let here = tempfile::tempdir().unwrap();
    let checkpoint = here.path().join("SmolVLM");
    common::copy(&common::stock("smolvlm"), &checkpoint);
    let mut program = program();
    let (status, _, stderr) = run(program.current_dir(here.path()).args(["build", "SmolVLM"]));
    assert_eq!(status, 0, "{stderr}");
    let bundle = arrcoc_bundle::Bundle::open(&here.path().join("engines/SmolVLM/fp32-cpu")).unwrap();
    assert_eq!((bundle.manifest().model.as_str(), bundle.manifest().family.as_str()), ("SmolVLM", "smolvlm"));
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
    workshop.build(arrcoc_bundle::Target::Portable).unwrap();
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
}

#[test]
fn inspect_fails_on_what_cannot_be_built() {
    let workshop = Workshop::new();
    let inspect =
        |json: bool| run(program().arg("inspect").arg(workshop.checkpoint()).args(json.then_some("--json")));
    workshop.edit_json("config.json", |config| config["model_type"] = "qwen9_vl".into());
    let (status, stdout, stderr) = inspect(true);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(status, 1);
    assert!(report["problem"].as_str().unwrap().contains("qwen9_vl"), "{report}");
    assert!(stderr.contains("cannot be built") && stderr.contains("qwen9_vl"), "{stderr}");
    let (status, stdout, stderr) = inspect(false);
    assert_eq!(status, 1);
    assert!(stdout.contains("cannot be built") && stdout.contains("parameters"), "{stdout}");
    assert!(stderr.contains("arr_coc_ovis"), "the families that are taken are not named: {stderr}");
}

#[test]
fn a_gguf_file_is_called_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.Q4_K_M.gguf");
    fs::write(&file, "GGUF").unwrap();
    for path in [dir.path(), &file] {
        for command in ["inspect", "plan"] {
            let (status, _, stderr) = run(program().arg(command).arg(path));
            assert_eq!(status, 1, "{stderr}");
            assert!(stderr.contains("GGUF") && stderr.contains("safetensors"), "{command}: {stderr}");
        }
    }
}

#[test]
fn plan_of_a_preset() {
    let (status, stdout, stderr) = run(program().args(["plan", "--preset", "arr-coc-ovis-base"]));
    assert_eq!((status, stderr.as_str()), (0, ""));
    insta::assert_snapshot!("plan_base", stdout);
}

#[test]
fn plan_reads_no_weights() {
    let workshop = Workshop::new();
    // Only the header is left, and a hole of the right length.
    let path = workshop.checkpoint().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    fs::write(&path, &bytes[..header]).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64).unwrap();
    let plan = |args: &[&str]| {
        let (status, stdout, stderr) = run(program().arg("plan").arg(workshop.checkpoint()).args(args));
        assert_eq!(status, 0, "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()
    };
    let report = plan(&["--json"]);
    let parameters = report["parameters"].as_u64().unwrap();
    assert_eq!(report["stored"].as_u64(), Some(parameters * 2), "bfloat16");
    assert_eq!(report["estimates"].as_array().unwrap().len(), 6);
    assert_eq!(report["verdicts"].as_array().unwrap().len(), 60);
    let of_one = plan(&["--json", "--precision", "FP16", "--device", "t4"]);
    assert_eq!(of_one["verdicts"][0]["outcome"], "fits");

    // The headers must be what the configuration says.
    workshop.edit_json("config.json", |config| config["text_config"]["hidden_size"] = 128.into());
    let (status, _, stderr) = run(program().arg("plan").arg(workshop.checkpoint()));
    assert_eq!(status, 1);
    assert!(stderr.contains("wrong shape of"), "{stderr}");
}

#[test]
fn plan_fails_when_what_was_asked_is_impossible() {
    let plan = |args: &[&str]| run(program().args(["plan", "--preset", "arr-coc-ovis-base"]).args(args));
    let (status, stdout, stderr) = plan(&["--precision", "fp8", "--device", "T4"]);
    assert_eq!(status, 1);
    assert!(stdout.contains("sm_89") && stdout.contains("take int8"), "{stdout}");
    assert!(stderr.contains("fp8 on T4"), "{stderr}");
    let (status, stdout, _) = plan(&["--precision", "fp16", "--device", "T4", "--batch", "64"]);
    assert_eq!(status, 1);
    assert!(stdout.contains("shorten the context to"), "{stdout}");
    // Neither alone is a request that could fail.
    assert_eq!(plan(&["--precision", "fp8"]).0, 0);
    assert_eq!(plan(&["--device", "T4"]).0, 0);
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (status, stdout, _) = run(program().args(["completions", shell]));
        assert_eq!(status, 0);
        assert!(stdout.contains("verify") && stdout.contains("max-context"));
    }
}
