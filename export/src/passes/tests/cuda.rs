//! Graphs for CUDA, by calibrations of portable ones.

use super::*;

#[test]
fn attention_for_cuda_is_half_and_layers_of_int4_are_packed() {
    let seen = calibration(&graphs_for(Target::Portable), 1.0);
    for precision in [Precision::Fp16, Precision::Int4] {
        let passed = for_cuda(precision, "[]", &seen).unwrap();
        assert_eq!((passed.kept, passed.cache_element), (Vec::new(), CacheElement::Fp16));
        let decoder = passed.graphs.iter().find(|graph| graph.name == "decoder").unwrap();
        let (elements, mut attentions) = (elements(decoder), 0);
        for node in decoder.nodes.iter().filter(|node| node.operator == "GroupQueryAttention") {
            let floats = node.inputs[..5].iter().chain(&node.outputs);
            assert!(floats.into_iter().all(|name| elements[&**name] == Element::F16), "{node:?}");
            attentions += 1;
        }
        for node in decoder.nodes.iter().filter(|node| node.operator == "RotaryEmbedding") {
            assert_eq!(elements[&*node.outputs[0]], Element::F32);
        }
        let packed = decoder.nodes.iter().filter(|node| node.operator == "MatMulNBits");
        assert!(attentions > 0);
        // Four layers of attention, three of the MLP; the head stays in 16 bits.
        assert_eq!(packed.count(), if precision == Precision::Int4 { attentions * 7 } else { 0 });
        assert_eq!(count(&passed.graphs, "decoder", "DequantizeLinear"), 0);
    }
    let asymmetric = "[{role: decoder, operator: Gemm, form: int4-block16-asymmetric}]";
    let passed = for_cuda(Precision::Int4, asymmetric, &seen).unwrap();
    let decoder = passed.graphs.iter().find(|graph| graph.name == "decoder").unwrap();
    let packed = decoder.nodes.iter().find(|node| node.operator == "MatMulNBits").unwrap();
    let (size, level) = (Attribute::Int(16), Attribute::Int(0));
    assert!(packed.attributes.contains(&("block_size", size)), "{packed:?}");
    assert!(packed.attributes.contains(&("accuracy_level", level)), "{packed:?}");
    assert_eq!(packed.inputs.len(), 4, "zero points");
}

/// Names count operators, so the same name is another tensor in the other graph: what was seen goes by what
/// tensors are.
#[test]
fn a_calibration_of_portable_graphs_finds_what_overflows_for_cuda() {
    let graphs = graphs_for(Target::Portable);
    let portable = graphs.iter().find(|graph| graph.name == "decoder").unwrap();
    let made_by = |name: &str| {
        let reads = |input: &str| input.ends_with(&format!("layers.0.{name}.weight"));
        let layer = portable.nodes.iter().find(|node| node.inputs.iter().any(|input| reads(input)));
        layer.unwrap().outputs[0].to_string()
    };
    let seen = |tensor: &str, magnitude| {
        let mut seen = calibration(&graphs, 1.0);
        let magnitudes = &mut seen.graphs.get_mut("decoder").unwrap().magnitudes;
        assert_eq!(magnitudes.insert(tensor.to_owned(), magnitude), Some(1.0), "{tensor}");
        for node in portable.nodes.iter().filter(|node| node.operator == "Reshape") {
            magnitudes.insert(
                node.outputs[0].to_string(),
                magnitudes.get(&*node.inputs[0]).copied().unwrap_or(0.0),
            );
        }
        seen
    };
    // Queries and keys are normalised first.
    for layer in ["self_attn.q_norm", "self_attn.k_norm", "self_attn.v_proj"] {
        let error = for_cuda(Precision::Fp16, "[]", &seen(&made_by(layer), 30_000.0)).err().unwrap();
        assert!(
            matches!(&error, PassError::CacheOverflow { node, .. } if node.ends_with("GroupQueryAttention")),
            "{error}"
        );
    }
    // A product elsewhere stays in 32 bits and is named, as in the portable graphs.
    let layer = made_by("mlp.up_proj");
    let seen = seen(&layer, 30_000.0);
    let kept: Vec<_> = for_cuda(Precision::Fp16, "[]", &seen).unwrap().kept;
    assert!(kept.iter().any(|kept| kept.node.contains("up_proj")), "{kept:?}");
    let rules: Vec<WeightRule> = Vec::new();
    let of_portable = apply(for_gpus(Precision::Fp16, &rules, Some(&seen)), graphs.clone()).unwrap().kept;
    assert_eq!(kept, of_portable);
}

/// Of every family, each tensor of floats is either the same in the portable graph or has a bound.
#[test]
fn every_tensor_for_cuda_is_known_from_the_portable_graphs() {
    for preset in families::presets().filter(|preset| preset.name.ends_with("tiny")) {
        let composition = init::compose(preset, WeightType::Float32).unwrap();
        let graphs = |target| composition.graphs(GraphOptions { target, context_length: 256 });
        let portable = graphs(Target::Portable);
        let seen = calibration(&portable, 1.0).graphs;
        for (graph, twin) in graphs(Target::Cuda).iter().zip(&portable) {
            let ranges = twin::ranges(graph, twin, &seen[graph.name]);
            let floats = graph.values.iter().filter(|value| value.element() == Element::F32);
            let unknown: Vec<_> = floats
                .map(|value| value.name())
                .filter(|name| !ranges.magnitudes.contains_key(*name))
                .collect();
            assert!(unknown.is_empty(), "{}, {}: {unknown:?}", preset.name, graph.name);
        }
    }
}

#[test]
fn what_no_calibration_tells_of_graphs_for_cuda_is_an_error() {
    let graphs = graphs_for(Target::Portable);
    let mut seen = calibration(&graphs, 1.0);
    let decoder = graphs.iter().find(|graph| graph.name == "decoder").unwrap();
    let product = decoder.nodes.iter().find(|node| node.operator == "Gemm").unwrap();
    seen.graphs.get_mut("decoder").unwrap().magnitudes.remove(&*product.outputs[0]);
    let error = for_cuda(Precision::Fp16, "[]", &seen).err().unwrap();
    assert!(matches!(error, PassError::NotCalibrated { .. }), "{error}");
    seen.graphs.get_mut("decoder").unwrap().structure.clear();
    let error = for_cuda(Precision::Fp16, "[]", &seen).err().unwrap();
    assert!(matches!(error, PassError::OtherGraph { graph: "decoder" }), "{error}");
    let error = for_cuda(Precision::Int8, "[]", &seen).err().unwrap();
    assert!(error.to_string().contains("`--precision fp16`, `int4`"), "{error}");
}
