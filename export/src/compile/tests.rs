//! Graphs of every preset against TensorRT's parser, and plans of a bundle, all without a GPU.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use arrcoc_bundle::{Precision, Target};
use arrcoc_models::families::{self, GraphOptions, Preset};
use arrcoc_models::graph::Layout;
use arrcoc_runtime::library::PlanLengths;
use prost::Message;
use tempfile::TempDir;

use super::parser::{Reason, check};
use super::*;
use crate::init::{SHARD_BYTES, WeightType};
use crate::onnx::{Attribute, Model};
use crate::{build as bundles, init};

fn tiny() -> &'static Preset {
    families::preset("arr-coc-ovis-tiny").unwrap()
}

/// Graphs of a preset by file name, as they are written.
fn models(preset: &Preset, target: Target) -> Vec<(String, Model)> {
    let composition = init::compose(preset, WeightType::Float32).unwrap();
    let graphs = composition.graphs(GraphOptions { target, context_length: 4096 });
    let models = Layout::new(&graphs).models.into_iter();
    models.map(|(name, bytes)| (name, Model::decode(bytes.as_slice()).unwrap())).collect()
}

fn compressor() -> Model {
    let mut models = models(tiny(), Target::Portable).into_iter();
    models.find(|(name, _)| name == "compressor.onnx").unwrap().1
}

#[test]
fn tensorrt_takes_every_portable_graph_of_every_preset() {
    for preset in families::presets() {
        for (name, model) in models(preset, Target::Portable) {
            assert!(model.graph.as_ref().unwrap().nodes.len() > 1 || name == "embedding.onnx", "{name}");
            let findings = check(&model);
            assert!(findings.is_empty(), "{}, {name}: {}", preset.name, shown(&findings));
        }
    }
}

#[test]
fn fused_operators_of_the_cpu_are_named() {
    let named: BTreeSet<String> = models(tiny(), Target::Cpu)
        .iter()
        .flat_map(|(_, model)| check(model))
        .inspect(|finding| assert_eq!(finding.reason, Reason::Operator, "{finding}"))
        .map(|finding| finding.operator)
        .collect();
    for operator in ["arrcoc.CachedAttention", "com.microsoft.SkipSimplifiedLayerNormalization"] {
        assert!(named.contains(operator), "{operator}: {named:?}");
    }
}

#[test]
fn a_planted_operator_or_type_is_named_with_its_node() {
    let mut model = compressor();
    let graph = model.graph.as_mut().unwrap();
    let product = graph.nodes.iter_mut().find(|node| node.operator == "Gemm").unwrap();
    product.operator = "MatMulInteger".into();
    let name = product.name.clone();
    let findings = check(&model);
    assert_eq!((findings.len(), &findings[0].node, &findings[0].reason), (1, &name, &Reason::Operator));
    assert!(shown(&findings).contains(&format!("MatMulInteger `{name}`")), "{}", shown(&findings));

    let mut model = compressor();
    let graph = model.graph.as_mut().unwrap();
    let features = graph.inputs.iter_mut().find(|value| value.name == "image_features").unwrap();
    // 64-bit floats, of which TensorRT has none.
    features.r#type.as_mut().unwrap().tensor.as_mut().unwrap().element = 11;
    let findings = check(&model);
    let wrong = |finding: &Finding| matches!(&finding.reason, Reason::Type { value, found: "other", .. } if value == "image_features");
    assert!(!findings.is_empty() && findings.iter().all(wrong), "{}", shown(&findings));
}

#[test]
fn conditions_of_single_operators_are_held() {
    let mut model = compressor();
    let graph = model.graph.as_mut().unwrap();
    let top_k = graph.nodes.iter_mut().find(|node| node.operator == "TopK").unwrap();
    let (k, sorted) =
        (top_k.inputs[1].clone(), top_k.attributes.iter_mut().find(|a| a.name == "sorted").unwrap());
    *sorted = Attribute { name: "sorted".into(), int: 0 };
    assert_eq!(check(&model)[0].reason, Reason::TopK);

    let mut model = compressor();
    let graph = model.graph.as_mut().unwrap();
    let many = graph.initializers.iter_mut().find(|tensor| tensor.name == k).unwrap();
    many.raw_data = 3840_i64.to_le_bytes().to_vec();
    assert!(check(&model).iter().any(|finding| finding.reason == Reason::TopK));

    let mut model = compressor();
    model.opsets[0].version = 25;
    assert_eq!(check(&model)[0].reason, Reason::Opset { found: 25 });
}

/// A directory with the tiny preset's bundle of a target.
fn bundle(target: Target) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (preset, dtype) = (tiny(), WeightType::Float32);
    let checkpoint = dir.path().join("tiny");
    let out = checkpoint.clone();
    let options = init::Options { preset, seed: 3, dtype, shard_bytes: SHARD_BYTES, out, force: false };
    init::init(&options, Progress::Silent).unwrap();
    let options = bundles::Options {
        out: dir.path().join("engines"),
        precision: Precision::Fp32,
        target,
        weight_rules: Vec::new(),
        calibration: None,
        range: crate::calibrate::RangeMethod::Absmax,
        name: None,
        max_context: None,
        force: false,
    };
    let summary = bundles::build(&checkpoint, &options, Progress::Silent).unwrap();
    (dir, summary.bundle)
}

#[test]
fn a_dry_run_says_what_would_be_built_where_and_for_which_shapes() {
    let (_dir, path) = bundle(Target::Portable);
    let lengths = PlanLengths { context_length: 1024, prefill_chunk: 128 };
    let tensorrt = TensorRtOptions { lengths, ..TensorRtOptions::default() };
    let listed = dry_run(&path, &Options { tensorrt, ..Options::default() }).unwrap();
    assert_eq!(listed.plans.len(), 7);
    assert!(listed.plans.iter().all(|plan| !plan.built));
    let text = listed.to_string();
    for part in [
        "visual_tokens:1x64x64",
        "visual_tokens:1x256x64",
        "visual_tokens:1x400x64",
        "pixel_values:1x3x512x512",
        "pixel_values:1x3x1280x1280",
        "past_key_values.0.key:1x2x0x32",
        "past_key_values.0.key:1x2x1023x32",
        "inputs_embeds:1x128x96",
        "attention_mask:1x1151",
        "trt_builder_optimization_level=3",
    ] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    if let Some(reason) = &listed.unknown {
        assert!(listed.machine.starts_with("<gpu>-sm<nn>"), "{}", listed.machine);
        assert!(text.contains("The machine is a placeholder") && reason.contains("TensorRT"), "{reason}");
        // Where nothing can be built, building says so in the same words.
        let error = compile(&path, &Options::default(), Progress::Silent).unwrap_err().to_string();
        assert_eq!(&error, reason);
    }
}

#[test]
fn every_plan_has_a_place_of_its_own_that_the_lengths_are_part_of() {
    let (_dir, path) = bundle(Target::Portable);
    let bundle = Bundle::open(&path).unwrap();
    let places = |context_length: usize| {
        let lengths = PlanLengths { context_length, ..PlanLengths::default() };
        let tensorrt = TensorRtOptions { lengths, ..TensorRtOptions::default() };
        let listed = list(&bundle, &Options { tensorrt, ..Options::default() }, "machine", None).unwrap();
        listed.plans.into_iter().map(|plan| plan.place.dir).collect::<BTreeSet<_>>()
    };
    let (short, long) = (places(1024), places(2048));
    assert_eq!(short.len(), 7);
    assert!(short.iter().all(|dir| {
        dir.starts_with(path.parent().unwrap().canonicalize().unwrap().join(".tensorrt/machine"))
    }));
    // Encoder, compressor, refiner and adapter know nothing of the context.
    assert_eq!(short.intersection(&long).count(), 4);
}

#[test]
fn a_bundle_for_the_cpu_and_an_unknown_graph_are_refused() {
    let (_dir, path) = bundle(Target::Cpu);
    let error = dry_run(&path, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("expected a bundle of target `portable`, found `cpu`"), "{error}");
    let (_dir, path) = bundle(Target::Portable);
    let graphs = vec!["decodr".to_owned()];
    let error = dry_run(&path, &Options { graphs, ..Options::default() }).unwrap_err().to_string();
    assert!(error.contains("decoder") && error.contains("found `decodr`"), "{error}");
}
