//! `verify` says yes to what `build` writes, and no to what differs from it.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use arrcoc_bundle::{Bundle, Drift, Precision, Target};
use arrcoc_export::progress::Progress;
use arrcoc_export::verify::{self, Options, Report, StageReport, VerifyError};
use common::{Workshop, has_onnx_runtime, mended, program, run, verify_options};
use serde_json::Value;

fn options() -> Options {
    Options { tokens: 8, ..verify_options() }
}

fn verify(bundle: &Path) -> Report {
    verify::verify(bundle, &options(), Progress::Silent).unwrap()
}

#[test]
fn nan_weights_are_named() {
    let workshop = Workshop::new();
    let tensor = "clip_vision_model.encoder.layers.1.mlp.fc1.weight";
    workshop.edit_weights("model.safetensors", |header, data| {
        let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        // Element 5 becomes NaN, element 6 minus infinity.
        data[start + 10..start + 14].copy_from_slice(&[0xc0, 0x7f, 0x80, 0xff]);
    });
    workshop.build(Target::Cpu).unwrap();

    let (status, stdout, stderr) = run(program().arg("verify").arg(workshop.bundle()).arg("--json"));
    assert_eq!(status, 1);
    assert!(stderr.contains("failed verification"), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["passed"], false);
    let found = &report["weights"]["not_finite"];
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["tensor"], tensor);
    assert_eq!((found[0]["count"].as_u64(), found[0]["first"].as_u64()), (Some(2), Some(5)));

    let (status, stdout, _) = run(program().arg("verify").arg(workshop.bundle()));
    assert_eq!(status, 1);
    assert!(stdout.contains(&format!("{tensor} (refiner): 2 NaN or infinite, the first at element 5")));
}

#[test]
fn both_targets_pass_and_a_changed_weight_does_not() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.build(Target::Portable).unwrap();
    workshop.build(Target::Cpu).unwrap();
    for target in ["fp32-portable", "fp32-cpu"] {
        let report = verify(&workshop.path("engines/tiny").join(target));
        assert!(report.passed, "{report}");
        let graphs =
            Bundle::open(&workshop.path("engines/tiny").join(target)).unwrap().manifest().graphs.clone();
        assert_eq!(report.stages.len(), graphs.values().map(|graph| graph.outputs.len()).sum::<usize>());
        assert_eq!(report.decoding.unwrap().agreeing, 8);
    }

    // A hundred weights in the middle of the refiner's file, each off by a factor of four.
    mended(&workshop.bundle(), "refiner.onnx.data", |bytes| {
        let middle = bytes.len() / 2 / 4 * 4;
        for float in bytes[middle..middle + 400].chunks_exact_mut(4) {
            float[3] ^= 1;
        }
    });
    let report = verify(&workshop.bundle());
    assert!(!report.passed);
    assert_eq!(report.strayed.iter().map(|found| found.graph.as_str()).collect::<Vec<_>>(), ["refiner"]);
    let failed: Vec<_> = report.stages.iter().filter(|stage| !stage.passed()).collect();
    assert_eq!(failed.iter().map(|stage| stage.stage.as_str()).collect::<Vec<_>>(), ["refiner"], "{report}");
}

#[test]
fn quantized_bundles_are_close_and_other_stages_as_before() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.build(Target::Portable).unwrap();
    for precision in [Precision::Int8, Precision::Int4] {
        let report = verify(&workshop.quantize(precision));
        assert!(report.passed, "{report}");
        assert!(report.strayed.is_empty());
        let graphs: Vec<&str> = report.losses.iter().map(|loss| loss.graph.as_str()).collect();
        assert_eq!(graphs, ["decoder", "embedding", "refiner", "vision_encoder"]);
        for StageReport { stage, distance, loss, cosine, .. } in &report.stages {
            let quantized = graphs.contains(&stage.as_str());
            assert_eq!(loss.unwrap() > 1e-3, quantized, "{precision}: {report}");
            // Tables are read and nothing is multiplied.
            assert!(stage != "embedding" || *distance <= 1e-6, "{precision}: {report}");
            assert!(
                *cosine > if precision == Precision::Int4 { 0.95 } else { 0.999 },
                "{precision}: {report}"
            );
        }
    }
}

#[test]
fn a_drifted_adapter_is_flagged() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.edit_weights("model.safetensors", |header, data| {
        let start = header["quality_adapter.scale"]["data_offsets"][0].as_u64().unwrap() as usize;
        data[start + 2..start + 4].copy_from_slice(&[0x40, 0x40]); // the second tier's: 3.0 in bfloat16
    });
    workshop.build(Target::Portable).unwrap();
    let report = verify(&workshop.path("engines/tiny/fp32-portable"));
    assert!(!report.passed, "{report}");
    assert!(report.stages.iter().all(verify::StageReport::passed), "both runtimes agree on it: {report}");
    let drifted: Vec<_> = report.adapter.iter().filter(|tier| tier.drift.is_some()).collect();
    assert_eq!(drifted.len(), 1, "{report}");
    assert_eq!((drifted[0].tokens, drifted[0].drift), (100, Some(Drift::Std)));
    assert!(report.to_string().contains("DRIFTED (standard deviation)"), "{report}");
}

#[test]
fn cpu_bundle_needs_the_portable_one() {
    let workshop = Workshop::new();
    workshop.build(Target::Cpu).unwrap();
    let error = verify::verify(&workshop.bundle(), &options(), Progress::Silent).unwrap_err();
    assert!(matches!(error, VerifyError::NoReference { .. }));
    assert!(error.to_string().contains("--target portable"));
}

#[test]
fn what_surrounds_the_graphs_must_be_the_references() {
    let workshop = Workshop::new();
    workshop.build(Target::Portable).unwrap();
    let built = workshop.build(Target::Cpu).unwrap().bundle;
    let path = built.join("manifest.yaml");
    let sound = fs::read_to_string(&path).unwrap();
    let first = |key: &str| {
        let rest = &sound[sound.find(key).unwrap() + key.len()..];
        rest.lines().next().unwrap().to_owned()
    };
    for (key, value, what) in
        [("  native_size:", " 640", "processor"), ("  images_first:", " false", "vision")]
    {
        let (old, new) = (format!("{key}{}", first(key)), format!("{key}{value}"));
        assert_ne!(old, new);
        fs::write(&path, sound.replacen(&old, &new, 1)).unwrap();
        let error = verify::verify(&built, &options(), Progress::Silent).unwrap_err();
        assert!(matches!(error, VerifyError::Surroundings { what: found, .. } if found == what), "{error}");
    }
}

#[test]
fn bundles_of_different_checkpoints_are_not_compared() {
    let workshop = Workshop::new();
    workshop.build(Target::Cpu).unwrap();
    workshop.edit_weights("model.safetensors", |_, data| data[0] ^= 1);
    workshop.build(Target::Portable).unwrap();
    let error = verify::verify(&workshop.bundle(), &options(), Progress::Silent).unwrap_err();
    assert!(matches!(error, VerifyError::OtherCheckpoint { .. }), "{error}");
    let options = Options { checkpoint: Some(workshop.checkpoint()), ..options() };
    let error = verify::verify(&workshop.bundle(), &options, Progress::Silent).unwrap_err();
    assert!(matches!(error, VerifyError::OtherCheckpoint { .. }), "{error}");
}

#[test]
fn an_image_of_ones_own_is_taken_and_a_broken_one_named() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.build(Target::Portable).unwrap();
    let bundle = workshop.build(Target::Cpu).unwrap().bundle;
    let photograph = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images/astronaut.jpg");
    let with = |image: std::path::PathBuf| {
        verify::verify(&bundle, &Options { image: Some(image), ..options() }, Progress::Silent)
    };
    let report = with(photograph.into()).unwrap();
    assert!(report.passed, "{report}");
    let broken = workshop.path("broken.jpg");
    fs::write(&broken, &fs::read(photograph).unwrap()[..500]).unwrap();
    assert!(matches!(with(broken), Err(VerifyError::Image { .. })));
    assert!(matches!(with(workshop.path("gone.jpg")), Err(VerifyError::Read { .. })));
}

/// As for an engine that takes short steps only.
#[test]
fn a_prompt_goes_in_by_steps_and_with_the_answer_into_the_context() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.build(Target::Portable).unwrap();
    let bundle = workshop.path("engines/tiny/fp32-portable");
    let verify = |flags: [&str; 4]| {
        let (status, stdout, stderr) =
            run(program().arg("verify").arg(&bundle).args(["--json", "--tokens", "8"]).args(flags));
        assert_eq!(status, 0, "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()["decoding"].clone()
    };
    let whole = verify(["--context", "4096", "--prefill-chunk", "4096"]);
    assert_eq!((whole["tokens"].as_u64(), whole["differing"].as_u64()), (Some(8), Some(0)));
    assert_eq!(verify(["--context", "4096", "--prefill-chunk", "7"]), whole);
    let short = program().arg("verify").arg(&bundle).args(["--context", "2"]).output().unwrap();
    let stderr = String::from_utf8(short.stderr).unwrap();
    assert!(!short.status.success() && stderr.contains("at least 3 tokens, found 2"), "{stderr}");
    // Two places of the context are for the first token and the decoder's own.
    assert_eq!(verify(["--context", "30", "--prefill-chunk", "7"])["tokens"], 1);
}
