#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use arrcoc_models::config::ModelConfig;
use arrcoc_models::graph::{Graph, Layout, Source};
use arrcoc_models::{Target as GraphTarget, arr_coc_ovis::GraphOptions};

use super::*;
use crate::init::Preset;

fn graphs() -> Vec<Graph> {
    let ModelConfig::ArrCocOvis(config) =
        ModelConfig::from_json(&Preset::ArrCocOvisTiny.config("float32")).unwrap();
    config.graphs(GraphOptions { target: GraphTarget::Cpu, context_length: 256 })
}

fn passed(precision: Precision, rules: &str) -> Result<Vec<Graph>, PassError> {
    let rules: Vec<WeightRule> = serde_yaml::from_str(rules).unwrap();
    let request = Request {
        precision,
        target: Target::Cpu,
        rules: &rules,
        calibration: None,
        range: RangeMethod::Absmax,
    };
    apply(request, graphs()).map(|passed| passed.graphs)
}

/// How many operators of each kind a graph has.
fn operators(graphs: &[Graph], name: &str) -> BTreeMap<&'static str, usize> {
    let graph = graphs.iter().find(|graph| graph.name == name).unwrap();
    let mut counts = BTreeMap::new();
    for node in &graph.nodes {
        *counts.entry(node.operator).or_default() += 1;
    }
    counts
}

fn count(graphs: &[Graph], name: &str, operator: &str) -> usize {
    operators(graphs, name).get(operator).copied().unwrap_or(0)
}

#[test]
fn fp32_changes_nothing() {
    let before = graphs();
    for (a, b) in passed(Precision::Fp32, "[]").unwrap().iter().zip(&before) {
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
    }
}

#[test]
fn int8_takes_every_linear_layer_of_encoders_and_decoder() {
    let before = graphs();
    let after = passed(Precision::Int8, "[]").unwrap();
    for encoder in ["vision_encoder", "refiner"] {
        // What a Gemm multiplies that is no plain weight (the neck's reshaped kernel) stays.
        let (all, left) = (count(&before, encoder, "Gemm"), count(&after, encoder, "Gemm"));
        assert_eq!(count(&after, encoder, "MatMulIntegerToFloat"), all - left);
        assert!(left <= 1, "{encoder} keeps {left} of {all}");
    }
    assert_eq!(count(&after, "decoder", "MatMulNBits"), count(&before, "decoder", "Gemm"));
    assert_eq!(count(&after, "embedding", "GatherBlockQuantized"), 1);
    for kept in ["allocator", "compressor", "quality_adapter"] {
        assert_eq!(operators(&after, kept), operators(&before, kept));
    }
}

#[test]
fn projections_of_one_tensor_share_its_quantized_rows() {
    let refiner = |graphs: &[Graph]| operators(graphs, "refiner");
    let after = refiner(&passed(Precision::Int8, "[]").unwrap());
    assert!(after["QuantizeLinear"] < after["MatMulIntegerToFloat"], "{after:?}");
}

#[test]
fn every_input_is_made_before_it_is_read_and_once() {
    for precision in [Precision::Int8, Precision::Int4] {
        for graph in passed(precision, "[]").unwrap() {
            let mut known: Vec<&str> = graph.inputs.iter().map(|x| x.name()).collect();
            known.extend(graph.initializers.iter().map(|x| &*x.name));
            for node in &graph.nodes {
                for input in node.inputs.iter().filter(|name| !name.is_empty()) {
                    assert!(known.contains(&&**input), "{}: {input} of {}", graph.name, node.name);
                }
                for output in node.outputs.iter().filter(|name| !name.is_empty()) {
                    assert!(!known.contains(&&**output), "{}: {output} is made twice", graph.name);
                    known.push(output);
                }
            }
        }
    }
}

#[test]
fn no_weight_is_left_that_nothing_reads_and_tied_ones_stay_one() {
    let after = passed(Precision::Int4, "[]").unwrap();
    let layout = Layout::new(&after);
    let decoder = layout.data.iter().find(|file| file.name == "decoder.onnx.data").unwrap();
    let floats = decoder
        .pieces
        .iter()
        .filter(|piece| matches!(&piece.source, Source::Checkpoint { shape, .. } if shape.len() > 1));
    assert_eq!(floats.count(), 0);
    // The table lies with the graph that comes first.
    let tables = layout.data.iter().flat_map(|file| &file.pieces).filter(|piece| {
        matches!(&piece.source, Source::Quantized(part) if part.tensor.ends_with("embed_tokens.weight"))
    });
    assert_eq!(tables.count(), 2, "values and scales");
}

#[test]
fn the_last_rule_that_fits_counts() {
    let rules = r#"
        - {graph: vision_encoder, form: int4-block32}
        - {graph: vision_encoder, tensor: "*.layers.0.*", form: fp32}
        - {graph: embedding, operator: Gather, form: fp32}
    "#;
    let (plain, ruled) = (passed(Precision::Int8, "[]").unwrap(), passed(Precision::Int8, rules).unwrap());
    assert_eq!(count(&ruled, "vision_encoder", "MatMulIntegerToFloat"), 0);
    let kept = count(&ruled, "vision_encoder", "Gemm") - count(&plain, "vision_encoder", "Gemm");
    assert_eq!(kept, 4, "qkv, proj and the two of the MLP");
    assert_eq!(count(&ruled, "embedding", "Gather"), 1);
}

#[test]
fn a_rule_that_fits_nothing_is_an_error_that_counts_from_one() {
    let rules = "[{graph: decoder, form: fp32}, {graph: decodr, form: fp32}]";
    let error = passed(Precision::Int8, rules).err().unwrap().to_string();
    assert!(error.starts_with("rule 2 fits no weight") && error.contains("vision_encoder"), "{error}");
    let error = passed(Precision::Int8, r#"[{tensor: "layers[", form: fp32}]"#).err().unwrap().to_string();
    assert!(error.starts_with("rule 1"), "{error}");
}

#[test]
fn quantized_bundles_are_for_the_cpu() {
    let request = Request {
        precision: Precision::Int8,
        target: Target::Portable,
        rules: &[],
        calibration: None,
        range: RangeMethod::Absmax,
    };
    let error = apply(request, graphs()).err().unwrap();
    assert!(error.to_string().contains("--target cpu"), "{error}");
}
