//! What commands replace and remove: their own, and nothing else.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use arrcoc_bundle::Target;
use arrcoc_tests::repository;
use common::{Workshop, program, run};

fn build(workshop: &Workshop, more: &[&str]) -> (i32, String) {
    let mut command = program();
    command.arg("build").arg(workshop.checkpoint()).arg("--out").arg(workshop.path("engines")).args(more);
    let (status, _, stderr) = run(&mut command);
    (status, stderr)
}

fn init(out: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.args(["init", "--preset", "arr-coc-ovis-tiny", "--out"]).arg(out).args(more);
    command
}

#[test]
fn build_replaces_bundles_only() {
    let workshop = Workshop::new();
    let bundle = workshop.bundle();
    let notes = bundle.join("notes.txt");
    fs::create_dir_all(&bundle).unwrap();
    fs::write(&notes, "a user's").unwrap();
    for more in [&[][..], &["--force"]] {
        let (status, stderr) = build(&workshop, more);
        assert_eq!(status, 1, "{stderr}");
        assert!(stderr.contains("is not replaced") && stderr.contains("fp32-cpu"), "{stderr}");
        assert_eq!(fs::read_to_string(&notes).unwrap(), "a user's");
    }
    // An empty directory is nobody's loss; a bundle is ours, until there is something else in it.
    fs::remove_file(&notes).unwrap();
    assert_eq!(build(&workshop, &[]).0, 0);
    assert_eq!(build(&workshop, &["--force"]).0, 0);
    fs::write(&notes, "a user's").unwrap();
    let (status, stderr) = build(&workshop, &["--force"]);
    assert!(status == 1 && stderr.contains("`notes.txt`"), "{stderr}");
    assert!(notes.is_file());
    fs::remove_dir_all(&bundle).unwrap();

    fs::write(&bundle, "a user's").unwrap();
    assert_eq!(build(&workshop, &["--force"]).0, 1);
    assert_eq!(fs::read_to_string(&bundle).unwrap(), "a user's");
    fs::remove_file(&bundle).unwrap();

    let elsewhere = workshop.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &bundle).unwrap();
    assert_eq!(build(&workshop, &["--force"]).0, 1);
    assert!(bundle.is_symlink() && elsewhere.is_dir());
}

#[test]
fn nothing_is_left_and_nothing_is_followed() {
    let workshop = Workshop::new();
    workshop.build(Target::Cpu).unwrap();
    let partial = workshop.path("engines/tiny/.fp32-cpu.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("decoder.onnx.data"), "left by a killed build").unwrap();
    let (status, stderr) = build(&workshop, &["--max-context", "512"]);
    assert!(status == 0 && stderr.contains("is up to date"), "{stderr}");
    assert!(!partial.exists());

    let elsewhere = workshop.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("notes.txt"), "a user's").unwrap();
    symlink(&elsewhere, &partial).unwrap();
    for more in [&["--force"][..], &["--max-context", "512"]] {
        let (status, stderr) = build(&workshop, more);
        assert!(status == 1 && stderr.contains(".fp32-cpu.partial"), "{stderr}");
    }
    assert_eq!(fs::read_to_string(elsewhere.join("notes.txt")).unwrap(), "a user's");
}

#[test]
fn init_replaces_checkpoints_only_and_only_when_told() {
    let workshop = Workshop::new();
    let checkpoint = workshop.checkpoint();
    assert_eq!(run(&mut init(&checkpoint, &["--force"])).0, 0);
    for (name, file) in [("tiny", "notes.txt"), ("other", "config.json")] {
        let file = workshop.path(name).join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "{}").unwrap();
        let (status, _, stderr) = run(&mut init(&workshop.path(name), &["--force"]));
        assert!(status == 1 && stderr.contains("is not replaced"), "{stderr}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
    }
    // Trained weights have the same file names, and exist only once.
    let trained = workshop.path("trained");
    fs::create_dir(&trained).unwrap();
    for entry in fs::read_dir(repository("reference/checkpoints/arr-coc-ledger")).unwrap() {
        let file = entry.unwrap();
        fs::copy(file.path(), trained.join(file.file_name())).unwrap();
    }
    let weights = || fs::read(trained.join("model.safetensors")).unwrap();
    let before = weights();
    let (status, _, stderr) = run(&mut init(&trained, &["--force"]));
    assert!(status == 1 && stderr.contains("is not replaced"), "{stderr}");
    assert!(weights() == before);
    // A link that leads nowhere is something, too.
    symlink("nowhere", workshop.path("link")).unwrap();
    for more in [&[][..], &["--force"]] {
        assert_eq!(run(&mut init(&workshop.path("link"), more)).0, 1);
    }
    assert!(workshop.path("link").is_symlink());
}

#[test]
fn bundles_behind_the_hubs_links_can_be_looked_at() {
    let workshop = Workshop::new();
    for target in [Target::Cpu, Target::Portable] {
        workshop.build(target).unwrap();
    }
    let blobs = workshop.path("blobs");
    fs::create_dir(&blobs).unwrap();
    for bundle in ["fp32-cpu", "fp32-portable"] {
        for entry in fs::read_dir(workshop.path("engines/tiny").join(bundle)).unwrap() {
            let path = entry.unwrap().path();
            let blob = blobs.join(format!("{bundle}-{}", path.file_name().unwrap().display()));
            fs::rename(&path, &blob).unwrap();
            symlink(&blob, &path).unwrap();
        }
    }
    let (status, stdout, stderr) = run(program().arg("inspect").arg(workshop.bundle()));
    assert!(status == 0 && stdout.contains("every file matches its hash"), "{stderr}");
    if common::has_onnx_runtime() {
        // On ONNX Runtime and on tract.
        let report = common::verified(&workshop.bundle());
        assert!(report.passed, "{report}");
    }
}
