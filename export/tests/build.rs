//! Builds are reproducible, atomic and not repeated needlessly.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use arrcoc_bundle::Bundle;
use arrcoc_bundle::Target;
use arrcoc_export::build;
use arrcoc_export::init::{SHARD_BYTES, WeightType};
use arrcoc_export::progress::Progress;
use common::{Workshop, contents, program};

#[test]
fn same_checkpoint_same_bytes() {
    for target in Target::ALL {
        let (one, two) = (Workshop::new(), Workshop::new());
        let (first, second) = (one.build(target).unwrap(), two.build(target).unwrap());
        assert!(!first.up_to_date);
        let (first, second) = (contents(&first.bundle), contents(&second.bundle));
        assert!(first.len() > 10);
        for (a, b) in first.iter().zip(&second) {
            assert_eq!(a.0, b.0);
            assert!(a.1 == b.1, "{} differs between two builds", a.0);
        }
    }
}

#[test]
fn shards_make_no_difference() {
    let (whole, sharded) = (Workshop::new(), Workshop::with(WeightType::Bfloat16, 300_000));
    assert!(sharded.checkpoint().join("model.safetensors.index.json").exists());
    let (whole, sharded) = (whole.build(Target::Cpu).unwrap(), sharded.build(Target::Cpu).unwrap());
    assert_eq!(whole.checkpoint_sha256, sharded.checkpoint_sha256);
    assert!(contents(&whole.bundle) == contents(&sharded.bundle));
}

#[test]
fn weights_arrive_unchanged() {
    // 32-bit weights need no conversion: each tensor's bytes must stand in the bundle as they stand in the
    // checkpoint.
    let workshop = Workshop::with(WeightType::Float32, SHARD_BYTES);
    workshop.build(Target::Cpu).unwrap();
    let (header, data) = common::split(&fs::read(workshop.checkpoint().join("model.safetensors")).unwrap());
    let graph = arrcoc_export::onnx::read(&workshop.bundle().join("refiner.onnx")).unwrap();
    let mut compared = 0;
    for tensor in &graph.initializers {
        let (Some(entry), Some(place)) =
            (header.get(&tensor.name), tensor.location(&workshop.bundle()).unwrap())
        else {
            continue;
        };
        let offsets = entry["data_offsets"].as_array().unwrap();
        let [from, to] = [0, 1].map(|i| offsets[i].as_u64().unwrap() as usize);
        let stored = fs::read(workshop.bundle().join(&place.file)).unwrap();
        assert!(data[from..to] == stored[place.offset as usize..(place.offset + place.length) as usize]);
        compared += 1;
    }
    assert!(compared >= 30, "only {compared} tensors of the refiner were found under their own names");
}

#[test]
fn bundle_that_is_up_to_date_is_left_alone() {
    let workshop = Workshop::new();
    let first = workshop.build(Target::Cpu).unwrap();
    let manifest = workshop.bundle().join("manifest.yaml");
    let written = fs::metadata(&manifest).unwrap().modified().unwrap();
    let second = workshop.build(Target::Cpu).unwrap();
    assert!(!first.up_to_date && second.up_to_date);
    assert_eq!(fs::metadata(&manifest).unwrap().modified().unwrap(), written);
    assert_eq!(first.files.len(), second.files.len());

    let forced = build::Options { force: true, ..workshop.options(Target::Cpu) };
    assert!(!build::build(&workshop.checkpoint(), &forced, Progress::Silent).unwrap().up_to_date);
}

#[test]
fn anything_that_changed_is_built_again() {
    let workshop = Workshop::new();
    workshop.build(Target::Cpu).unwrap();

    let shorter = build::Options { max_context: Some(256), ..workshop.options(Target::Cpu) };
    assert!(!build::build(&workshop.checkpoint(), &shorter, Progress::Silent).unwrap().up_to_date);

    workshop.build(Target::Cpu).unwrap();
    workshop.edit_weights("model.safetensors", |_, data| data[1000] ^= 1);
    assert!(!workshop.build(Target::Cpu).unwrap().up_to_date, "a weight changed");

    fs::write(workshop.checkpoint().join("chat_template.jinja"), "{{ messages }}").unwrap();
    assert!(!workshop.build(Target::Cpu).unwrap().up_to_date, "the template changed");

    fs::write(workshop.bundle().join("decoder.onnx.data"), "damaged").unwrap();
    assert!(!workshop.build(Target::Cpu).unwrap().up_to_date, "the bundle was damaged");
    assert!(Bundle::open(&workshop.bundle()).is_ok());
}

/// Kills a build after `delay`; returns whether it was still running.
fn kill_after(workshop: &Workshop, delay: Duration, force: bool) -> bool {
    let mut command = program();
    command.arg("build").arg(workshop.checkpoint()).arg("--out").arg(workshop.path("engines"));
    command.args(force.then_some("--force")).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(delay);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// Delays spread over a build, from just started to just finished.
fn delays(workshop: &Workshop, count: u32) -> impl Iterator<Item = Duration> + use<> {
    let started = Instant::now();
    assert!(
        program()
            .arg("build")
            .arg(workshop.checkpoint())
            .arg("--out")
            .arg(workshop.path("rehearsal"))
            .output()
            .unwrap()
            .status
            .success()
    );
    let whole = started.elapsed();
    (0..count).map(move |i| whole * i / count)
}

#[test]
fn killed_build_leaves_no_bundle_that_loads() {
    let workshop = Workshop::new();
    let partial = workshop.path("engines/tiny/.fp32-cpu.partial");
    let (mut killed, mut left_files) = (0, 0);
    for delay in delays(&workshop, 40) {
        killed += u32::from(kill_after(&workshop, delay, false));
        left_files += u32::from(partial.exists());
        // Killed before the exchange, there is nothing; killed after it, there is the whole bundle.
        if workshop.bundle().exists() {
            Bundle::open(&workshop.bundle()).unwrap();
            fs::remove_dir_all(workshop.bundle()).unwrap();
        }
        // The manifest comes last, so what was not moved into place loads only if every byte of it is there.
        assert!(Bundle::open(&partial).is_err() || contents(&partial).len() == 17);
    }
    assert!(killed >= 10, "only {killed} builds were killed in time");
    assert!(left_files >= 1, "no build was killed while it wrote");

    workshop.build(Target::Cpu).unwrap();
    assert!(Bundle::open(&workshop.bundle()).is_ok());
    assert!(!partial.exists(), "the next build cleans up");
}

#[test]
fn killed_rebuild_leaves_the_old_bundle_or_the_new_one() {
    let workshop = Workshop::new();
    workshop.build(Target::Cpu).unwrap();
    let mut killed = 0;
    for delay in delays(&workshop, 20) {
        killed += u32::from(kill_after(&workshop, delay, true));
        Bundle::open(&workshop.bundle()).unwrap();
    }
    assert!(killed >= 5, "only {killed} builds were killed in time");
}
