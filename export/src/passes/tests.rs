#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};

use arrcoc_models::families::{self, GraphOptions};
use arrcoc_models::graph::{Attribute, DOMAIN, Element, Graph, Layout, Source};

use super::*;
use crate::calibrate::{Circumstances, GraphRanges};
use crate::init::{self, WeightType};

mod cuda;

fn graphs_for(target: Target) -> Vec<Graph> {
    let preset = families::preset("arr-coc-ovis-tiny").unwrap();
    let composition = init::compose(preset, WeightType::Float32).unwrap();
    composition.graphs(GraphOptions { target, context_length: 256 })
}

fn graphs() -> Vec<Graph> {
    graphs_for(Target::Cpu)
}

/// What is asked of a portable bundle.
fn for_gpus<'a>(
    precision: Precision,
    rules: &'a [WeightRule],
    calibration: Option<&'a Calibration>,
) -> Request<'a> {
    let (target, range) = (Target::Portable, RangeMethod::Absmax);
    Request { precision, target, rules, calibration, portable: &[], range }
}

fn passed(precision: Precision, rules: &str) -> Result<Vec<Graph>, PassError> {
    let rules: Vec<WeightRule> = serde_yaml::from_str(rules).unwrap();
    let request = Request {
        precision,
        target: Target::Cpu,
        rules: &rules,
        calibration: None,
        portable: &[],
        range: RangeMethod::Absmax,
    };
    apply(request, graphs()).map(|passed| passed.graphs)
}

/// Graphs for CUDA at a precision, by a calibration of the portable ones.
fn for_cuda(precision: Precision, rules: &str, calibration: &Calibration) -> Result<Passed, PassError> {
    let rules: Vec<WeightRule> = serde_yaml::from_str(rules).unwrap();
    let portable = &graphs_for(Target::Portable);
    let (target, range, calibration) = (Target::Cuda, RangeMethod::Absmax, Some(calibration));
    let request = Request { precision, target, rules: &rules, calibration, portable, range };
    apply(request, graphs_for(target))
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
    for (graph, operator) in
        [("vision_encoder", "QuantizedLinear"), ("refiner", "QuantizedLinear"), ("decoder", "BlockLinear")]
    {
        // What a Gemm multiplies that is no plain weight (the neck's reshaped kernel) stays.
        let (all, left) = (count(&before, graph, "Gemm"), count(&after, graph, "Gemm"));
        assert_eq!(count(&after, graph, operator), all - left);
        assert!(left <= 1, "{graph} keeps {left} of {all}");
    }
    assert_eq!(count(&after, "decoder", "Gemm"), 0);
    assert_eq!((count(&before, "embedding", "Gather"), count(&after, "embedding", "Gather")), (1, 2));
    for kept in ["allocator", "compressor", "quality_adapter"] {
        assert_eq!(operators(&after, kept), operators(&before, kept));
    }
}

#[test]
fn attention_is_in_16_bits_behind_a_product_in_8() {
    let before = graphs();
    let layers = count(&before, "vision_encoder", "GridAttention");
    assert!(layers > 1);
    let rules = r#"[{graph: vision_encoder, tensor: "*.layers.0.attn.qkv.*", form: fp32}]"#;
    for (rules, kept) in [("[]", 0), (rules, 1)] {
        let after = passed(Precision::Int8, rules).unwrap();
        assert_eq!(count(&after, "vision_encoder", "GridAttention"), kept);
        assert_eq!(count(&after, "vision_encoder", "GridAttentionBf16"), layers - kept);
    }
}

#[test]
fn every_operator_of_ours_is_defined_and_every_definition_called() {
    for precision in [Precision::Fp32, Precision::Int8, Precision::Int4] {
        for graph in passed(precision, "[]").unwrap() {
            let ours = graph.nodes.iter().filter(|node| node.domain == DOMAIN);
            let called: HashSet<&str> = ours.map(|node| node.operator).collect();
            let defined: HashSet<&str> = graph.functions.iter().map(|function| function.name()).collect();
            assert_eq!(called, defined, "{} in {precision}", graph.name);
        }
    }
}

#[test]
fn every_input_is_made_before_it_is_read_and_once() {
    let integers = [Precision::Int8, Precision::Int4].map(|precision| passed(precision, "[]").unwrap());
    let floats = [Precision::Fp16, Precision::Fp8, Precision::Int4]
        .map(|precision| portable(precision, "[]", 1.0).unwrap());
    for graphs in integers.into_iter().chain(floats.map(|passed| passed.graphs)) {
        for graph in graphs {
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
    // A head in 4 bits has other bytes than the embeddings, which keep 8.
    let narrow = r#"[{graph: decoder, tensor: "*embed_tokens.weight", form: int4-block32}]"#;
    for (precision, rules, forms) in
        [(Precision::Int8, "[]", 1), (Precision::Int4, "[]", 1), (Precision::Int4, narrow, 2)]
    {
        let after = passed(precision, rules).unwrap();
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
        assert_eq!(tables.count(), 2 * forms, "{precision}: values and scales");
    }
}

#[test]
fn the_last_rule_that_fits_counts() {
    let rules = r#"
        - {graph: vision_encoder, form: int4-block32}
        - {graph: vision_encoder, tensor: "*.layers.0.*", form: fp32}
        - {graph: embedding, operator: Gather, form: fp32}
    "#;
    let (plain, ruled) = (passed(Precision::Int8, "[]").unwrap(), passed(Precision::Int8, rules).unwrap());
    assert_eq!(count(&ruled, "vision_encoder", "QuantizedLinear"), 0);
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
    let request = for_gpus(Precision::Int8, &[], None);
    let error = apply(request, graphs()).err().unwrap();
    assert!(error.to_string().contains("--target cpu"), "{error}");
    let rules: Vec<WeightRule> = serde_yaml::from_str("[{graph: decoder, form: w8a8}]").unwrap();
    let error = apply(for_gpus(Precision::Fp32, &rules, None), graphs()).err().unwrap();
    assert!(error.to_string().contains("rule 1: the form `w8a8` cannot be part of an fp32"), "{error}");
}

/// The portable graphs at a precision of floats, all of whose tensors are said to reach `magnitude`.
fn portable(precision: Precision, rules: &str, magnitude: f32) -> Result<Passed, PassError> {
    let graphs = graphs_for(Target::Portable);
    let rules: Vec<WeightRule> = serde_yaml::from_str(rules).unwrap();
    let calibration = calibration(&graphs, magnitude);
    let request = for_gpus(precision, &rules, Some(&calibration));
    apply(request, graphs)
}

fn calibration(graphs: &[Graph], magnitude: f32) -> Calibration {
    let mut weights = BTreeMap::new();
    let mut ranges = BTreeMap::new();
    for graph in graphs {
        let names =
            graph.inputs.iter().chain(&graph.values).map(|value| (value.name().to_owned(), magnitude));
        let found = GraphRanges {
            structure: structure(graph),
            magnitudes: names.collect(),
            ..GraphRanges::default()
        };
        ranges.insert(graph.name.to_owned(), found);
        weights.extend(graph.initializers.iter().map(|tensor| (tensor.name.to_string(), vec![1.0])));
    }
    Calibration {
        sha256: String::new(),
        checkpoint_sha256: String::new(),
        circumstances: Circumstances {
            tool: String::new(),
            runtime: String::new(),
            data_sha256: String::new(),
            image_size: Some(512),
            images: 1,
            questions: 1,
            skipped: Vec::new(),
        },
        adapter: Vec::new(),
        graphs: ranges,
        weights,
    }
}

/// Element types of everything in a graph.
fn elements(graph: &Graph) -> BTreeMap<&str, Element> {
    let values = graph.inputs.iter().chain(&graph.values).chain(&graph.outputs);
    let values = values.map(|value| (value.name(), value.element()));
    values.chain(graph.initializers.iter().map(|tensor| (&*tensor.name, tensor.element))).collect()
}

#[test]
fn no_operator_mixes_floats_of_two_widths() {
    let seen = calibration(&graphs_for(Target::Portable), 1.0);
    for precision in [Precision::Fp16, Precision::Fp8, Precision::Int4] {
        let portable = portable(precision, "[]", 1.0).unwrap().graphs;
        let cuda = for_cuda(precision, "[]", &seen).unwrap().graphs;
        for graph in portable.into_iter().chain(cuda) {
            let elements = elements(&graph);
            for node in graph
                .nodes
                .iter()
                .filter(|node| !["Cast", "QuantizeLinear", "DequantizeLinear"].contains(&node.operator))
            {
                let names = node.inputs.iter().chain(&node.outputs).filter(|name| !name.is_empty());
                let floats =
                    names.map(|name| elements[&**name]).filter(|x| matches!(x, Element::F32 | Element::F16));
                let widths: HashSet<Element> = floats.collect();
                assert!(widths.len() < 2, "{}: {} of {precision}", graph.name, node.name);
            }
        }
    }
}

#[test]
fn products_are_half_and_norms_and_interfaces_are_not() {
    let passed = portable(Precision::Fp16, "[]", 1.0).unwrap();
    assert_eq!((passed.kept, passed.cache_element), (Vec::new(), CacheElement::Fp16));
    let decoder = passed.graphs.iter().find(|graph| graph.name == "decoder").unwrap();
    let elements = elements(decoder);
    for node in &decoder.nodes {
        let expected = match node.operator {
            "Gemm" | "MatMul" => Element::F16,
            "ReduceMean" | "Sqrt" | "Softmax" => Element::F32,
            _ => continue,
        };
        assert_eq!(elements[&*node.outputs[0]], expected, "{}", node.name);
    }
    for (name, expected) in [
        ("inputs_embeds", Element::F32),
        ("logits", Element::F32),
        ("past_key_values.0.key", Element::F16),
        ("present.0.value", Element::F16),
    ] {
        assert_eq!(elements[name], expected, "{name}");
    }
}

#[test]
fn what_is_large_stays_and_a_cache_cannot() {
    let error = portable(Precision::Fp16, "[]", 20_000.0).err().unwrap().to_string();
    assert!(error.contains("present.0.key") && error.contains("20000"), "{error}");
    let rules = "[{graph: decoder, form: fp32}]";
    let error = portable(Precision::Fp16, rules, 20_000.0).err().unwrap().to_string();
    assert!(error.contains("present."), "the cache is half whatever the layers are: {error}");
    let kept = portable(Precision::Fp16, "[]", 16_000.0).unwrap().kept;
    assert_eq!(kept, []);
}

#[test]
fn a_layer_in_16_bits_keeps_its_attention_there() {
    let count = |rules: &str, operator: &str| {
        let graphs = portable(Precision::Fp8, rules, 1.0).unwrap().graphs;
        count(&graphs, "refiner", operator)
    };
    let all = count("[]", "QuantizeLinear");
    for layer in [0, 1] {
        let rules = format!("[{{graph: refiner, tensor: \"*.layers.{layer}.*\", form: fp16}}]");
        // Inputs of q, k and v together, of the output projection and of the two of the MLP, and four factors
        // of attention.
        assert_eq!(all - count(&rules, "QuantizeLinear"), 8, "layer {layer}");
    }
}

/// Of every product that unpacks weights: the type of the integers, the attributes of what unpacks them, and
/// how many inputs that has.
fn unpacked(graph: &Graph) -> Vec<(Element, String, usize)> {
    let elements = elements(graph);
    let unpackers = graph.nodes.iter().filter(|node| node.operator == "DequantizeLinear");
    let describe = |node: &Node| {
        let [values, scales] = [0, 1].map(|at| graph.initializers.iter().find(|x| x.name == node.inputs[at]));
        let (values, scales) = (values.unwrap(), scales.unwrap());
        let block = values.shape[0] / scales.shape[0];
        assert_eq!(
            (values.shape[1], values.shape[0] % scales.shape[0]),
            (scales.shape[1], 0),
            "{}",
            node.name
        );
        assert_eq!((scales.element, elements[&*node.outputs[0]]), (Element::F16, Element::F16));
        let expected = [("axis", Attribute::Int(0)), ("block_size", Attribute::Int(block as i64))];
        assert_eq!(format!("{:?}", node.attributes), format!("{expected:?}"), "{}", node.name);
        let readers: Vec<&Node> =
            graph.nodes.iter().filter(|x| x.inputs.contains(&node.outputs[0])).collect();
        assert_eq!(readers.len(), 1, "{}", node.name);
        assert_eq!((readers[0].operator, &readers[0].inputs[1]), ("MatMul", &node.outputs[0]));
        assert_eq!(elements[&*readers[0].outputs[0]], Element::F16);
        (values.element, format!("{block}"), node.inputs.len())
    };
    unpackers.map(describe).collect()
}

#[test]
fn int4_unpacks_the_decoders_weights_in_front_of_the_product() {
    let fp16 = portable(Precision::Fp16, "[]", 1.0).unwrap();
    let int4 = portable(Precision::Int4, "[]", 1.0).unwrap();
    assert_eq!(int4.cache_element, CacheElement::Fp16);
    for (before, after) in fp16.graphs.iter().zip(&int4.graphs) {
        let unpacked = unpacked(after);
        if after.name == "decoder" {
            // All but the output head.
            assert_eq!(unpacked.len(), count(&fp16.graphs, "decoder", "Gemm") - 1);
            assert_eq!(count(&int4.graphs, "decoder", "Gemm"), 1);
            assert!(unpacked.iter().all(|x| *x == (Element::I4, "32".to_owned(), 2)), "{unpacked:?}");
            assert_eq!(after.opset(), 21);
        } else {
            assert_eq!(format!("{after:?}"), format!("{before:?}"));
        }
    }
}

#[test]
fn rules_choose_blocks_of_int4_and_what_has_none() {
    let rules = r#"
        - {graph: decoder, tensor: "*.layers.0.*", form: int4-block16-asymmetric}
        - {graph: decoder, tensor: "*.layers.1.*", form: fp16}
        - {graph: refiner, form: int4-block64}
        - {graph: embedding, form: int4-block32}
    "#;
    let passed = portable(Precision::Int4, rules, 1.0).unwrap();
    let graph = |name: &str| passed.graphs.iter().find(|graph| graph.name == name).unwrap();
    let decoder = unpacked(graph("decoder"));
    let asymmetric = decoder.iter().filter(|x| **x == (Element::U4, "16".to_owned(), 3)).count();
    assert_eq!((asymmetric, decoder.len()), (7, 14), "{decoder:?}");
    // Layers with a bias, which is added behind.
    let refiner = unpacked(graph("refiner"));
    assert!(
        refiner.len() > 1 && refiner.iter().all(|x| *x == (Element::I4, "64".to_owned(), 2)),
        "{refiner:?}"
    );
    assert_eq!(elements(graph("embedding"))["inputs_embeds"], Element::F32);
    assert_eq!(unpacked(graph("embedding")), []);

    for form in ["w8a8", "int8-block32", "fp8"] {
        let rules = format!("[{{graph: decoder, form: {form}}}]");
        let error = portable(Precision::Int4, &rules, 1.0).err().unwrap().to_string();
        assert!(error.contains("int4 bundle for portable; expected int4-blockN"), "{error}");
    }
}

#[test]
fn what_is_large_stays_out_of_int4_too() {
    let error = portable(Precision::Int4, "[]", 20_000.0).err().unwrap().to_string();
    assert!(error.contains("present.0.key") && error.contains("20000"), "{error}");
}

#[test]
fn another_versions_calibration_is_refused() {
    let graphs = graphs();
    let calibration = calibration(&graphs, 1.0);
    let request = for_gpus(Precision::Fp16, &[], Some(&calibration));
    // The calibration is of the fused graphs.
    let portable = graphs_for(Target::Portable);
    let error = apply(request, portable).err().unwrap();
    assert!(matches!(error, PassError::OtherGraph { .. }), "{error}");
}

#[test]
fn a_weight_of_unknown_size_is_not_trusted() {
    let graphs = graphs_for(Target::Portable);
    let mut calibration = calibration(&graphs, 1.0);
    let bias = "clip_vision_model.encoder.layers.0.mlp.fc1.bias";
    assert!(calibration.weights.remove(bias).is_some());
    let request = for_gpus(Precision::Fp16, &[], Some(&calibration));
    let error = apply(request, graphs).err().unwrap();
    assert!(matches!(&error, PassError::NotCalibrated { tensor, .. } if tensor == bias), "{error}");
}
