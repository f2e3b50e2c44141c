//! Calibrations, and what fp16 makes of them: a planted overflow is kept in 32 bits, or named.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use arrcoc_bundle::manifest::{KeptNode, RawManifest};
use arrcoc_bundle::{Precision, Target, WeightForm, WeightRule};
use arrcoc_export::build;
use arrcoc_export::calibrate::{self, CalibrateError, Calibration, RangeMethod};
use arrcoc_export::progress::Progress;
use common::{
    PAGE, Workshop, calibrated, calibration_options as options, chain, contents, has_onnx_runtime, program,
    run, verified,
};

/// Multiplies a tensor of bfloat16 numbers by a power of two, exactly.
fn scale(workshop: &Workshop, tensor: &str, exponent: i16) {
    scale_where(workshop, tensor, exponent, |_| true);
}

/// The same for some of its columns.
fn scale_where(workshop: &Workshop, tensor: &str, exponent: i16, columns: impl Fn(usize) -> bool) {
    workshop.edit_weights("model.safetensors", |header, data| {
        let entry = &header[tensor];
        let offset = |at: usize| entry["data_offsets"][at].as_u64().unwrap() as usize;
        let width = entry["shape"].as_array().unwrap().last().unwrap().as_u64().unwrap() as usize;
        let elements = data[offset(0)..offset(1)].chunks_exact_mut(2).enumerate();
        for (_, bytes) in elements.filter(|(index, _)| columns(index % width)) {
            let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
            let at = i16::try_from((bits >> 7) & 0xff).unwrap();
            // Tiny numbers become zero rather than something else.
            let moved = match u16::try_from(at + exponent) {
                Ok(moved) if at > 0 && (1..255).contains(&moved) => (bits & 0x807f) | (moved << 7),
                _ => bits & 0x8000,
            };
            bytes.copy_from_slice(&moved.to_le_bytes());
        }
    });
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

/// Large weights behind a norm that makes the products what they were: the gate keeps them in 32 bits; where
/// there is no gate the build fails and says which rule does.
#[test]
fn a_weight_too_large_for_its_form_stays_in_32_bits_or_fails_the_build() {
    const LAYER: &str = "ovis_llm.model.layers.1";
    const LARGE: [&str; 2] = ["mlp.gate_proj.weight", "mlp.up_proj.weight"];
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    LARGE.iter().for_each(|name| scale(&workshop, &format!("{LAYER}.{name}"), 26));
    scale(&workshop, &format!("{LAYER}.post_attention_layernorm.weight"), -26);
    workshop.build(Target::Portable).unwrap();
    workshop.build(Target::Cpu).unwrap();
    let calibration = calibrated(&workshop);
    for precision in [Precision::Fp16, Precision::Fp8, Precision::Int4] {
        let options = build::Options {
            precision,
            calibration: Some(calibration.clone()),
            ..workshop.options(Target::Portable)
        };
        let built = build::build(&workshop.checkpoint(), &options, Progress::Silent).unwrap();
        let kept = kept(&built.bundle);
        let stays = |name: &str| kept.iter().any(|node| node.tensor == format!("{LAYER}.{name}"));
        assert!(LARGE.into_iter().all(stays), "{precision}: {kept:?}");
        let report = verified(&built.bundle);
        assert!(report.passed, "{precision}: {report}");
    }

    let rule = |name| WeightRule {
        graph: None,
        role: None,
        tensor: Some(format!("{LAYER}.{name}")),
        operator: None,
        form: WeightForm::Fp32,
    };
    let int4 = |weight_rules| {
        let options =
            build::Options { precision: Precision::Int4, weight_rules, ..workshop.options(Target::Cpu) };
        build::build(&workshop.checkpoint(), &options, Progress::Silent)
    };
    let error = chain(&int4(Vec::new()).map(|summary| summary.bundle).unwrap_err());
    assert!(error.contains("mlp.gate_proj.weight") && error.contains("262016"), "{error}");
    let report = verified(&int4(LARGE.map(rule).to_vec()).unwrap().bundle);
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
    assert!(chain(&error).contains("for portable and cuda only"), "{error}");
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
        matches!(&*error, CalibrateError::NoImage { count: 2, image, .. } if image == "gone.png"),
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
        (text.replacen("\"structure\":\"", "\"structure\":\"0", 1), "another version's"),
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

/// Distance and cosine of the encoder's features at int8.
fn encoder(workshop: &Workshop, calibration: Option<Calibration>) -> (f64, f64) {
    let options = build::Options {
        precision: Precision::Int8,
        calibration,
        force: true,
        ..workshop.options(Target::Cpu)
    };
    let bundle = build::build(&workshop.checkpoint(), &options, Progress::Silent).unwrap().bundle;
    let report = verified(&bundle);
    let stage = report.stages.iter().find(|stage| stage.stage == "vision_encoder").unwrap();
    (stage.distance, stage.cosine)
}

/// Three channels of every norm 64 times larger than trained norms would have them, and the weights behind
/// them as much smaller: the same function, with outliers.
#[test]
fn smoothing_holds_what_planted_outliers_cost() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.build(Target::Portable).unwrap();
    let (plain, _) = encoder(&workshop, None);
    for layer in 0..4 {
        for (norm, linear) in [("layer_norm1", "attn.qkv"), ("layer_norm2", "mlp.lin1")] {
            plant(&workshop, &format!("sam_encoder.layers.{layer}"), norm, linear);
        }
    }
    workshop.build(Target::Portable).unwrap();
    let (naive, naive_cosine) = encoder(&workshop, None);
    let (smoothed, smoothed_cosine) = encoder(&workshop, Some(calibrated(&workshop)));
    assert!(naive > 3.0 * plain, "planted outliers cost nothing: {naive} after {plain}");
    assert!(smoothed < 1.5 * plain, "{smoothed} smoothed, {naive} not, {plain} without outliers");
    assert!(smoothed_cosine > naive_cosine, "{smoothed_cosine} smoothed, {naive_cosine} not");
}

fn plant(workshop: &Workshop, layer: &str, norm: &str, linear: &str) {
    const CHANNELS: [usize; 3] = [3, 17, 40];
    const POWER: i16 = 6;
    for (tensor, power) in [
        (format!("{layer}.{norm}.weight"), POWER),
        (format!("{layer}.{norm}.bias"), POWER),
        (format!("{layer}.{linear}.weight"), -POWER),
    ] {
        scale_where(workshop, &tensor, power, |column| CHANNELS.contains(&column));
    }
}

#[test]
fn fp8_rounds_every_product_and_stores_its_weights_in_a_byte() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.build(Target::Portable).unwrap();
    let calibration = calibrated(&workshop);
    let sixteen = fp16(&workshop, Some(calibration.clone())).unwrap();
    let build = |range| {
        let options = build::Options {
            precision: Precision::Fp8,
            calibration: Some(calibration.clone()),
            range,
            ..workshop.options(Target::Portable)
        };
        build::build(&workshop.checkpoint(), &options, Progress::Silent).unwrap()
    };
    let built = build(RangeMethod::Absmax);
    let report = verified(&built.bundle);
    assert!(report.passed, "{report}");
    let coarse = report.stages.iter().filter(|stage| stage.distance > 1e-2);
    assert!(
        coarse.map(|stage| stage.stage.as_str()).eq(["vision_encoder", "refiner", "decoder"]),
        "{report}"
    );
    assert!(report.stages.iter().all(|stage| stage.cosine > 0.98), "{report}");

    let length = |bundle: &Path| fs::metadata(bundle.join("vision_encoder.onnx.data")).unwrap().len();
    assert!(
        length(&built.bundle) * 10 < length(&sixteen) * 9,
        "{} of {}",
        length(&built.bundle),
        length(&sixteen)
    );
    let manifest = fs::read_to_string(built.bundle.join("manifest.yaml")).unwrap();
    let raw: RawManifest = serde_yaml::from_str(&manifest).unwrap();
    assert_eq!((raw.graphs["decoder"].opset, raw.graphs["allocator"].opset), (21, 18));

    // TensorRT's parser takes both, as far as its table tells.
    for bundle in [&sixteen, &built.bundle] {
        let (status, stdout, stderr) = run(program().arg("compile").arg(bundle).arg("--dry-run"));
        assert!(status == 0 && stdout.contains("decoder"), "{stderr}");
    }

    // Another way to read the ranges makes other graphs, which are not mistaken for these.
    assert!(build(RangeMethod::Absmax).up_to_date);
    assert!(!build(RangeMethod::Percentile).up_to_date);
    assert!(verified(&built.bundle).passed);
}
