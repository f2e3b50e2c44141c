//! Bundles below fp32: what is written, and that it computes row by row.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use arrcoc_bundle::Bundle;
use arrcoc_bundle::{Precision, Target, WeightForm};
use arrcoc_export::build;
use arrcoc_export::progress::Progress;
use arrcoc_runtime::library::LibraryKind;
use arrcoc_runtime::tensor::Tensor;
use common::{Workshop, chain, contents, has_onnx_runtime, program, run};

#[test]
fn same_checkpoint_same_bytes_and_fewer_of_them() {
    let (one, two) = (Workshop::new(), Workshop::new());
    let whole = one.build(Target::Cpu).unwrap().bytes;
    for precision in [Precision::Int8, Precision::Int4] {
        let (a, b) = (one.quantize(precision), two.quantize(precision));
        let (a, b) = (contents(&a), contents(&b));
        assert_eq!(a, b);
        let bytes = a.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() as u64;
        assert!(bytes < whole * 2 / 3, "{precision}: {bytes} of {whole}");
    }
}

#[test]
fn a_weight_that_is_no_number_is_refused_by_name() {
    let workshop = Workshop::new();
    let tensor = "ovis_llm.model.layers.0.mlp.up_proj.weight";
    workshop.edit_weights("model.safetensors", |header, data| {
        let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        data[start + 6..start + 8].copy_from_slice(&[0xc0, 0x7f]); // NaN in bfloat16
    });
    let options = build::Options { precision: Precision::Int8, ..workshop.options(Target::Cpu) };
    let error = build::build(&workshop.checkpoint(), &options, Progress::Silent).unwrap_err();
    let said = chain(&error);
    assert!(said.contains(tensor) && said.contains("element 3 is NaN"), "{said}");
}

#[test]
fn rules_of_weights_are_kept_in_the_manifest() {
    let workshop = Workshop::new();
    let rules = workshop.path("rules.yaml");
    fs::write(&rules, "- {graph: decoder, tensor: \"*.layers.0.*\", form: int4-block16-asymmetric}\n")
        .unwrap();
    let build = |file: &std::path::Path| {
        let mut command = program();
        command.arg("build").arg(workshop.checkpoint()).arg("--out").arg(workshop.path("engines"));
        run(command.args(["--precision", "int8", "--weight-rules"]).arg(file))
    };
    let (status, _, stderr) = build(&rules);
    assert_eq!(status, 0, "{stderr}");
    let manifest = fs::read_to_string(workshop.path("engines/tiny/int8-cpu/manifest.yaml")).unwrap();
    let four = WeightForm::Blocks { bits: 4, size: 16, symmetric: false };
    assert!(manifest.contains(&format!("form: {four}")), "{manifest}");

    for (text, expected) in [
        ("- {graph: decoder, form: int5}", "expected `fp32`, `fp16`"),
        ("- {graph: decoder, form: fp16}", "rule 1: the form `fp16` cannot"),
        ("- {graph: nothing, form: fp32}", "rule 1 fits no weight"),
        ("{graph: decoder}", "expected a list of rules"),
        ("- {layer: 1, form: fp32}", "unknown field `layer`"),
    ] {
        fs::write(&rules, text).unwrap();
        let (status, _, stderr) = build(&rules);
        assert!(status == 1 && stderr.contains(expected), "{text}: {stderr}");
    }
    let (status, _, stderr) = build(&workshop.path("nowhere.yaml"));
    assert!(status == 1 && stderr.contains("nowhere.yaml"), "{stderr}");
}

/// Every token is quantized by itself: a bright image beside it must not cost a dark one its accuracy, or its
/// sameness.
#[test]
fn an_image_is_encoded_the_same_beside_any_other() {
    if !has_onnx_runtime() {
        return;
    }
    let ort = LibraryKind::Ort.open(1).unwrap();
    let workshop = Workshop::new();
    let bundle = Bundle::open(&workshop.quantize(Precision::Int8)).unwrap();
    let mut encoder = ort.load_from(&bundle, "vision_encoder").unwrap();
    let size = bundle.axis("vision_encoder", "height").unwrap().min as usize;
    let image = |scale: f32| -> Vec<f32> {
        (0..3 * size * size).map(|i| scale * ((i * 7919 % 1013) as f32 / 506.5 - 1.0)).collect()
    };
    let mut encode = |images: &[Vec<f32>]| -> Vec<f32> {
        let pixels = Tensor::from_vec(&[images.len(), 3, size, size], images.concat()).unwrap();
        let outputs = encoder.run(&[("pixel_values", pixels)]).unwrap();
        outputs[0].1.as_slice::<f32>().unwrap().to_vec()
    };
    let alone = encode(&[image(0.1)]);
    let beside = encode(&[image(0.1), image(50.0)]);
    assert_eq!(alone, beside[..alone.len()]);
    assert!(alone.iter().any(|x| *x != 0.0));
}

/// Sixteen bits would drop what is left of such weights without a word.
#[test]
fn weights_too_small_for_sixteen_bit_scales_are_refused_with_a_rule() {
    let workshop = Workshop::new();
    let tensor = "ovis_llm.model.layers.0.mlp.up_proj.weight";
    workshop.edit_weights("model.safetensors", |header, data| {
        let [start, end] = [0, 1].map(|end| header[tensor]["data_offsets"][end].as_u64().unwrap() as usize);
        for bytes in data[start..end].chunks_exact_mut(2) {
            // A bfloat16 is the upper half of a float.
            let value = f32::from_le_bytes([0, 0, bytes[0], bytes[1]]) * 1e-6;
            bytes.copy_from_slice(&value.to_le_bytes()[2..]);
        }
    });
    for precision in [Precision::Int8, Precision::Int4] {
        let mut options = build::Options { precision, ..workshop.options(Target::Cpu) };
        let said = chain(&build::build(&workshop.checkpoint(), &options, Progress::Silent).unwrap_err());
        assert!(said.contains(tensor) && said.contains("form: w8a8"), "{said}");
        let rule = format!("[{{tensor: \"{tensor}\", form: w8a8}}]");
        options.weight_rules = serde_yaml::from_str(&rule).unwrap();
        build::build(&workshop.checkpoint(), &options, Progress::Silent).unwrap();
    }
}
