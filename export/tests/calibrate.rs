//! Calibrations, and what fp16 makes of them: a planted overflow is kept in 32 bits, or named.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use arrcoc_export::build;
use arrcoc_export::calibrate::{self, CalibrateError, Calibration, Options};
use arrcoc_export::progress::Progress;
use arrcoc_export::verify;
use arrcoc_runtime::bundle::manifest::{KeptNode, Precision, RawManifest, Target};
use common::{Workshop, chain, contents, has_onnx_runtime, program, run};

/// A photograph.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images/astronaut.jpg");

/// Multiplies a tensor of bfloat16 numbers by a power of two, exactly.
fn scale(workshop: &Workshop, tensor: &str, exponent: i16) {
    workshop.edit_weights("model.safetensors", |header, data| {
        let offsets = &header[tensor]["data_offsets"];
        let (start, end) = (offsets[0].as_u64().unwrap() as usize, offsets[1].as_u64().unwrap() as usize);
        for bytes in data[start..end].chunks_exact_mut(2) {
            let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
            // Tiny numbers become zero rather than something else.
            let at = i16::try_from((bits >> 7) & 0xff).unwrap();
            let moved = if (1..255).contains(&(at + exponent)) && at > 0 {
                (bits & 0x807f) | (u16::try_from(at + exponent).unwrap() << 7)
            } else {
                bits & 0x8000
            };
            bytes.copy_from_slice(&moved.to_le_bytes());
        }
    });
}

fn questions(workshop: &Workshop, rows: &str) -> PathBuf {
    let path = workshop.path("questions.json");
    fs::write(&path, rows).unwrap();
    fs::copy(PAGE, workshop.path("page.jpg")).unwrap();
    path
}

const ROWS: &str = r#"[{"image": "page.jpg", "query": "Which number belongs to DZ?", "answer": "1"},
    {"image": "page.jpg", "query": "How many records are there?", "answer": "2"}]"#;

fn options(workshop: &Workshop, rows: &str) -> Options {
    Options {
        data: questions(workshop, rows),
        output: workshop.path("calibration.json"),
        limit: None,
        image_size: None,
        tokens: 4,
        threads: 2,
    }
}

fn calibrated(workshop: &Workshop) -> Calibration {
    let options = options(workshop, ROWS);
    calibrate::calibrate(&workshop.checkpoint(), &options, Progress::Silent).unwrap()
}

fn fp16(workshop: &Workshop, calibration: Option<Calibration>) -> Result<PathBuf, String> {
    let target = Target::Portable;
    let options = build::Options { precision: Precision::Fp16, calibration, ..workshop.options(target) };
    let built = build::build(&workshop.checkpoint(), &options, Progress::Silent);
    built.map(|summary| summary.bundle).map_err(|error| chain(&error))
}

fn kept(bundle: &Path) -> Vec<KeptNode> {
    let text = fs::read_to_string(bundle.join("manifest.yaml")).unwrap();
    serde_yaml::from_str::<RawManifest>(&text).unwrap().kept_fp32
}

fn verified(bundle: &Path) -> verify::Report {
    let options = verify::Options {
        reference: None,
        checkpoint: None,
        image_size: None,
        tokens: 16,
        seed: 1,
        threads: 2,
    };
    verify::verify(bundle, &options, Progress::Silent).unwrap()
}

#[test]
fn a_calibration_reads_back_as_it_was_and_comes_out_the_same_twice() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    let first = calibrated(&workshop);
    let bytes = fs::read(workshop.path("calibration.json")).unwrap();
    assert!(Calibration::read(&workshop.path("calibration.json")).unwrap() == first);
    calibrated(&workshop);
    assert!(fs::read(workshop.path("calibration.json")).unwrap() == bytes);
    assert!(contents_names(&workshop.path("")).iter().all(|name| !name.starts_with(".calibrate")));

    assert_eq!((first.circumstances.images, first.circumstances.questions), (1, 2));
    let decoder = &first.graphs["decoder"];
    let head = decoder.input_of("ovis_llm.model.layers.0.mlp.down_proj.weight").unwrap();
    let largest = head.channels.iter().copied().fold(0.0, f32::max);
    assert!(largest > 0.0 && largest == head.histogram.largest());
    assert!(first.adapter.iter().map(|tier| tier.tokens).eq([64, 100, 160, 256, 400]));
}

fn contents_names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn fp16_is_close_smaller_and_the_same_twice() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    let whole = workshop.build(Target::Portable).unwrap().bytes;
    let calibration = calibrated(&workshop);
    let bundle = fp16(&workshop, Some(calibration.clone())).unwrap();
    let first = contents(&bundle);
    fs::remove_dir_all(&bundle).unwrap();
    assert!(contents(&fp16(&workshop, Some(calibration)).unwrap()) == first);
    let bytes = first.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() as u64;
    assert!(bytes < whole * 3 / 4, "{bytes} of {whole}");
    assert_eq!(kept(&bundle), []);
    let report = verified(&bundle);
    assert!(report.passed, "{report}");
    let lossy = report.stages.iter().filter(|stage| stage.distance > 1e-5);
    assert!(lossy.map(|stage| stage.stage.as_str()).eq(["vision_encoder", "refiner", "decoder"]), "{report}");
}

/// The product of the two is what it was; between them stands what 16 bits cannot hold.
#[test]
fn a_planted_overflow_stays_in_32_bits_and_verifies() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    scale(&workshop, "ovis_llm.model.layers.1.mlp.up_proj.weight", 20);
    scale(&workshop, "ovis_llm.model.layers.1.mlp.down_proj.weight", -20);
    workshop.build(Target::Portable).unwrap();
    let bundle = fp16(&workshop, Some(calibrated(&workshop))).unwrap();
    let kept = kept(&bundle);
    assert!(kept.iter().any(|node| node.node.contains("layers/1/mlp/up_proj")), "{kept:?}");
    assert!(kept.iter().any(|node| node.node.contains("layers/1/mlp/down_proj")), "{kept:?}");
    assert!(
        kept.iter().all(|node| node.node.contains("layers/1/mlp") && node.magnitude > 65504.0),
        "{kept:?}"
    );
    let report = verified(&bundle);
    assert!(report.passed, "{report}");
}

#[test]
fn a_cache_that_would_overflow_fails_the_build_and_names_it() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    scale(&workshop, "ovis_llm.model.layers.0.self_attn.v_proj.weight", 20);
    scale(&workshop, "ovis_llm.model.layers.0.self_attn.o_proj.weight", -20);
    let error = fp16(&workshop, Some(calibrated(&workshop))).unwrap_err();
    assert!(error.contains("present.0.value") && error.contains("16-bit"), "{error}");
    assert!(!workshop.path("engines/tiny/fp16-portable").exists());
}

#[test]
fn fp16_asks_for_a_calibration_of_this_checkpoint() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    let error = fp16(&workshop, None).unwrap_err();
    assert!(error.contains("arrcoc-export calibrate"), "{error}");
    let calibration = calibrated(&workshop);
    scale(&workshop, "ovis_llm.model.layers.0.mlp.up_proj.weight", 1);
    let error = fp16(&workshop, Some(calibration.clone())).unwrap_err();
    assert!(error.contains("another checkpoint"), "{error}");
    let cpu = build::Options {
        precision: Precision::Fp16,
        calibration: Some(calibration),
        ..workshop.options(Target::Cpu)
    };
    let error = build::build(&workshop.checkpoint(), &cpu, Progress::Silent).unwrap_err();
    assert!(chain(&error).contains("--target portable"), "{error}");
}

#[test]
fn what_cannot_be_calibrated_is_said() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    let attempt = |rows: &str| {
        let options = options(&workshop, rows);
        calibrate::calibrate(&workshop.checkpoint(), &options, Progress::Silent).map_err(Box::new)
    };
    let missing = r#"{"image": "gone.png", "query": "Q?", "answer": ""}"#;
    fs::write(workshop.path("broken.png"), &fs::read(PAGE).unwrap()[..300]).unwrap();
    let broken = r#"{"image": "broken.png", "query": "Q?", "answer": ""}"#;
    let good = r#"{"image": "page.jpg", "query": "Q?", "answer": ""}"#;
    let mixed = attempt(&format!("[{missing}, {broken}, {good}, {missing}]")).unwrap();
    let skipped: Vec<&str> = mixed.circumstances.skipped.iter().map(|one| one.image.as_str()).collect();
    assert_eq!((skipped, mixed.circumstances.questions), (vec!["gone.png", "broken.png"], 1));

    let before = fs::read(workshop.path("calibration.json")).unwrap();
    let error = attempt(&format!("[{missing}, {broken}]")).unwrap_err();
    assert!(
        matches!(&error, CalibrateError::NoImage { count: 2, image, .. } if image == "gone.png"),
        "{error}"
    );
    for (rows, expected) in [("[]", "no question"), ("[{}]", "row 0"), ("nonsense", "neither")] {
        let error = chain(&*attempt(rows).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(
        fs::read(workshop.path("calibration.json")).unwrap(),
        before,
        "a failed run leaves the file alone"
    );
}

#[test]
fn a_corrupt_calibration_is_refused() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    calibrated(&workshop);
    let path = workshop.path("calibration.json");
    let text = fs::read_to_string(&path).unwrap();
    let build = || {
        let mut command = program();
        command.arg("build").arg(workshop.checkpoint()).arg("--out").arg(workshop.path("engines"));
        run(command.args(["--precision", "fp16", "--target", "portable", "--calibration"]).arg(&path))
    };
    for (damaged, expected) in [
        (text[..text.len() / 2].to_owned(), "no calibration"),
        (text.replacen("\"format\":1", "\"format\":2", 1), "`format`: expected 1"),
        (text.replacen("\"largest\":", "\"largest\":-", 1), "2048 bins"),
        (text.replacen("\"products\":{\"", "\"products\":{\"x\":\"y\",\"", 1), "the name of an activation"),
        (text.replacen("\"weights\":{", "\"weights\":{\"w\":[-1.0],", 1), "`weights.w`: expected finite"),
    ] {
        assert_ne!(damaged, text);
        fs::write(&path, damaged).unwrap();
        let (status, _, stderr) = build();
        assert!(status == 1 && stderr.contains(expected), "{expected}: {stderr}");
    }
    fs::write(&path, &text).unwrap();
    let (status, _, stderr) = build();
    assert_eq!(status, 0, "{stderr}");
}
