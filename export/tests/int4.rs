//! Portable bundles with 4-bit weights: what they compute, what ONNX Runtime makes of them, and what TensorRT
//! takes.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrcoc_bundle::Bundle;
use arrcoc_bundle::manifest::RawManifest;
use arrcoc_bundle::{Precision, Target, WeightForm, WeightRule};
use arrcoc_export::build;
use arrcoc_export::calibrate::Calibration;
use arrcoc_export::onnx::{self, FLOAT16, INT4, Initializer, UINT4};
use arrcoc_export::progress::Progress;
use arrcoc_runtime::decoder::{self, Rows};
use arrcoc_runtime::library::CpuOptions;
use arrcoc_runtime::library::ort::{OrtLibrary, Provider};
use arrcoc_runtime::tensor::Tensor;
use arrcoc_tests::graphs::operators_that_ran;
use common::{Workshop, calibrated, has_onnx_runtime, program, run, verified};
use half::f16;

/// Linear layers of a decoder layer: queries, keys, values, output, and the three of the MLP.
const LINEAR: usize = 7;
/// Layers of the tiny preset's decoder.
const LAYERS: usize = 3;

/// A checkpoint and a calibration of it, where there is ONNX Runtime.
fn prepared() -> Option<(Workshop, Calibration)> {
    has_onnx_runtime().then(|| {
        let workshop = Workshop::new();
        let calibration = calibrated(&workshop);
        (workshop, calibration)
    })
}

/// Blocks of the decoder's layers.
fn blocks(size: usize, symmetric: bool) -> Vec<WeightRule> {
    vec![WeightRule {
        graph: Some("decoder".to_owned()),
        role: None,
        tensor: Some("*.layers.*".to_owned()),
        operator: None,
        form: WeightForm::Blocks { bits: 4, size, symmetric },
    }]
}

fn int4(
    workshop: &Workshop,
    calibration: &Calibration,
    target: Target,
    weight_rules: Vec<WeightRule>,
) -> Bundle {
    let options = build::Options {
        precision: Precision::Int4,
        // For CPUs a calibration smooths, which makes other weights.
        calibration: (target == Target::Portable).then(|| calibration.clone()),
        weight_rules,
        ..workshop.options(target)
    };
    let built = build::build(&workshop.checkpoint(), &options, Progress::Silent).unwrap();
    Bundle::open(&built.bundle).unwrap()
}

/// The last logits of a prompt of made-up embeddings.
fn logits(bundle: &Bundle, runtime: &OrtLibrary) -> Vec<f32> {
    const TOKENS: usize = 9;
    let width = bundle.manifest().decoder.hidden_size;
    let numbers = (0..TOKENS * width).map(|i| ((i * 7919 % 1013) as f32 / 506.5 - 1.0) * 0.03).collect();
    let prompt = Tensor::from_vec(&[1, TOKENS, width], numbers).unwrap();
    let mut decoder = decoder::load(bundle, runtime, 1, TOKENS + 1).unwrap();
    let slot = decoder.slots_mut().allocate().unwrap();
    decoder.prefill(slot, &Rows::plain(prompt)).unwrap().values().to_vec()
}

/// max |a - b| / max |b|.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn int4_verifies_is_smaller_and_keeps_what_is_not_the_decoders_in_16_bits() {
    let Some((workshop, calibration)) = prepared() else { return };
    workshop.build(Target::Portable).unwrap();
    let sixteen = build::Options {
        precision: Precision::Fp16,
        calibration: Some(calibration.clone()),
        ..workshop.options(Target::Portable)
    };
    let sixteen = build::build(&workshop.checkpoint(), &sixteen, Progress::Silent).unwrap().bundle;
    let length = |bundle: &Path| fs::metadata(bundle.join("decoder.onnx.data")).unwrap().len();
    for rules in [vec![], blocks(32, false), blocks(128, true), blocks(16, false)] {
        let bundle = int4(&workshop, &calibration, Target::Portable, rules.clone());
        let report = verified(&workshop.path("engines/tiny/int4-portable"));
        println!("{rules:?}: {report}");
        assert!(report.passed, "{rules:?}: {report}");
        for stage in &report.stages {
            let (coarse, least) =
                (stage.stage == "decoder", if stage.stage == "decoder" { 0.95 } else { 0.9999 });
            // The weights lose something, the arithmetic with them next to nothing.
            assert!(stage.distance < 1e-2, "{rules:?}: {report}");
            assert_eq!(stage.loss.unwrap() > 1e-2, coarse, "{rules:?}: {report}");
            assert!(stage.cosine > least, "{rules:?}: {report}");
        }
        let manifest = fs::read_to_string(workshop.path("engines/tiny/int4-portable/manifest.yaml")).unwrap();
        let raw: RawManifest = serde_yaml::from_str(&manifest).unwrap();
        assert_eq!((raw.graphs["decoder"].opset, raw.graphs["refiner"].opset), (21, 18));
        assert_eq!(bundle.manifest().precision, Precision::Int4);
        // Between 4.1 and 5.3 of 16 bits a weight; the rest is the head and rotary tables, the same in both.
        let (four, sixteen) = (length(&workshop.path("engines/tiny/int4-portable")), length(&sixteen));
        assert!(four * 5 < sixteen * 3, "{four} of {sixteen} bytes");
    }
}

/// The integers of a tensor in four bits, or its floats, in the order in which they are stored.
fn stored(bundle: &Path, tensor: &Initializer) -> Vec<f32> {
    let bytes = match tensor.location(&bundle.join("decoder.onnx")).unwrap() {
        None => tensor.raw_data.clone(),
        Some(place) => {
            let file = fs::read(bundle.join(place.file)).unwrap();
            file[place.offset as usize..][..place.length as usize].to_vec()
        }
    };
    let halves =
        |sign: fn(u8) -> f32| bytes.iter().flat_map(move |byte| [sign(byte & 15), sign(byte >> 4)]).collect();
    match tensor.data_type {
        INT4 => halves(|bits| f32::from((bits << 4) as i8 >> 4)),
        UINT4 | onnx::UINT8 => halves(f32::from),
        FLOAT16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// A linear layer's weights by the operators' definitions, \[out, in\], and the step of each.
struct Layer {
    weights: Vec<f32>,
    steps: Vec<f32>,
}

/// Every layer in blocks of 4 bits that a decoder has, by the checkpoint's name.
fn layers(workshop: &Workshop, target: &str, size: usize) -> BTreeMap<String, Layer> {
    let bundle = workshop.path(&format!("engines/tiny/int4-{target}"));
    let tensors = onnx::read(&bundle.join("decoder.onnx")).unwrap().initializers;
    let find = |name: String| tensors.iter().find(|tensor| tensor.name == name);
    let quantized = tensors.iter().filter_map(|tensor| {
        let name = tensor.name.strip_suffix(".quantized").filter(|name| name.contains(".layers."))?;
        let [values, scales] =
            [tensor, find(format!("{name}.scale")).unwrap()].map(|part| stored(&bundle, part));
        let points = find(format!("{name}.zero_point")).map(|part| stored(&bundle, part));
        let columns = scales.len() * size / rows_of(tensor, target);
        let rows = rows_of(tensor, target);
        let mut layer = Layer { weights: Vec::new(), steps: Vec::new() };
        for at in 0..rows * columns {
            let (row, column) = (at / columns, at % columns);
            let per_row = columns / size;
            // For CPUs rows of zero points begin at a byte.
            let (value, block, point) = match target {
                "cpu" => {
                    (at, row * per_row + column / size, row * per_row.next_multiple_of(2) + column / size)
                }
                _ => (column * rows + row, column / size * rows + row, column / size * rows + row),
            };
            let middle = if target == "cpu" { 8.0 } else { 0.0 };
            let zero = points.as_ref().map_or(middle, |points| points[point]);
            layer.steps.push(scales[block].abs());
            layer.weights.push(scales[block] * (values[value] - zero));
        }
        Some((name.to_owned(), layer))
    });
    quantized.collect()
}

fn rows_of(values: &Initializer, target: &str) -> usize {
    values.dims[if target == "cpu" { 0 } else { 1 }] as usize
}

#[test]
fn weights_are_those_of_the_same_blocks_for_the_cpu() {
    let Some((workshop, calibration)) = prepared() else { return };
    // Symmetric blocks of 32 lie in tiles for CPUs; tests/tests/kernels.rs has them beside PyTorch.
    for (size, symmetric) in [(32, false), (16, true), (16, false)] {
        for target in [Target::Cpu, Target::Portable] {
            int4(&workshop, &calibration, target, blocks(size, symmetric));
        }
        let (cpu, portable) = (layers(&workshop, "cpu", size), layers(&workshop, "portable", size));
        assert_eq!(cpu.len(), LINEAR * LAYERS);
        assert!(cpu.keys().eq(portable.keys()));
        let (mut equal, mut squares) = (0, 0.0);
        for (name, cpu) in &cpu {
            let portable = &portable[name];
            assert_eq!(cpu.weights.len(), portable.weights.len(), "{name}");
            for at in 0..cpu.weights.len() {
                let apart = (cpu.weights[at] - portable.weights[at]).abs();
                // Ends of symmetric blocks saturate: by up to a step for the CPU, by two here.
                let [ours, theirs] = if symmetric { [2.02, 1.07] } else { [0.52, 0.52] };
                let most = ours * portable.steps[at] + theirs * cpu.steps[at];
                assert!(apart <= most, "{name} {at}: {apart} apart, {most} at most");
                squares += f64::from(apart / cpu.steps[at]).powi(2);
                equal += usize::from(apart < 0.01 * cpu.steps[at]);
            }
        }
        let all: usize = cpu.values().map(|layer| layer.weights.len()).sum();
        let apart = (squares / all as f64).sqrt();
        println!("blocks of {size}, symmetric {symmetric}: {equal} of {all} the same, {apart} steps apart");
        // Two roundings that know nothing of each other are the root of 2/12 apart, 0.41 of a step.
        assert!(apart < 0.5, "{apart}");
        // With zero points both lay the same sixteen numbers over a block; only the scale's sixteen bits are
        // between them.
        assert!(symmetric || equal * 100 > all * 98, "{equal} of {all}");
    }
}

#[test]
fn onnx_runtime_makes_one_operator_of_unpacking_and_product() {
    let Some((workshop, calibration)) = prepared() else { return };
    let open = || OrtLibrary::open(2, Provider::Cpu(CpuOptions::default())).unwrap();
    let ort = open();
    for (size, symmetric) in [(32, true), (32, false)] {
        let profiles = workshop.path(&format!("profiles-{symmetric}"));
        let profiled = open().profiled(Some(profiles.clone()));
        let portable = int4(&workshop, &calibration, Target::Portable, blocks(size, symmetric));
        let found = logits(&portable, &profiled);
        let ran = operators_that_ran(&profiles).unwrap();
        println!("{ran:?}");
        assert_eq!(ran.get("MatMulNBits"), Some(&(LINEAR * LAYERS)), "{ran:?}");
        assert_eq!(ran.get("DequantizeLinear"), None, "{ran:?}");

        // The portable head has 16 bits: this one has more than 4, too.
        let mut rules = blocks(size, symmetric);
        let head = WeightRule { tensor: Some("*embed_tokens.weight".to_owned()), ..rules[0].clone() };
        rules.push(WeightRule { form: WeightForm::W8a8, ..head });
        let expected = logits(&int4(&workshop, &calibration, Target::Cpu, rules), &ort);
        let apart = distance(&found, &expected);
        println!("symmetric {symmetric}: {apart} from the same blocks for the CPU");
        // With zero points the weights are the same but for a few: what is left is that for the CPU
        // activations are rounded to 8 bits.
        assert!(symmetric || apart < 8e-2, "{apart}");
    }
}

#[test]
fn tensorrt_takes_symmetric_blocks_and_refuses_others_by_name() {
    let Some((workshop, calibration)) = prepared() else { return };
    let dry_run = |rules: Vec<WeightRule>| {
        int4(&workshop, &calibration, Target::Portable, rules);
        run(program().arg("compile").arg(workshop.path("engines/tiny/int4-portable")).arg("--dry-run"))
    };
    for rules in [vec![], blocks(128, true)] {
        let (status, stdout, stderr) = dry_run(rules);
        assert!(status == 0 && stdout.contains("decoder"), "{stderr}");
    }
    let (status, _, stderr) = dry_run(blocks(32, false));
    assert!(status == 1 && stderr.contains("DequantizeLinear"), "{stderr}");
    assert!(stderr.contains("uint4") && stderr.contains("the form `int4-blockN`"), "{stderr}");
}
