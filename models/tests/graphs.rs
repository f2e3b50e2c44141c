//! What must hold for every graph of every target: names, order, shapes, contract.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashSet;

use arrcoc_bundle::Target;
use arrcoc_models::config::ConfigError;
use arrcoc_models::families::{self, Composition, Files, GraphOptions};
use arrcoc_models::graph::{Graph, Layout, Source};
use serde_json::{Value, json};

fn config_json() -> Value {
    json!({
        "model_type": "arr_coc_ovis", "image_token_id": 61, "token_budgets": [64, 100], "image_sizes": [128, 160],
        "vision_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64,
            "image_size": 128, "window_size": 3, "global_attn_indexes": [1], "output_channels": 16},
        "allocator_config": {"hidden_size": 16, "num_attention_heads": 2},
        "compressor_config": {"hidden_size": 24, "gist_grid": 4},
        "clip_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14},
        "adapter_config": {"hidden_size": 20, "target_std": 0.02},
        "text_config": {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 62, "tie_word_embeddings": true,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    })
}

fn read(config: &Value) -> Result<Box<dyn Composition>, ConfigError> {
    let image_processor = json!({
        "image_processor_type": "SamImageProcessor", "image_mean": 0.5, "image_std": 0.5,
        "size": {"longest_edge": 128}, "pad_size": {"height": 128, "width": 128},
    });
    families::read(&Files::of_preset(config, &image_processor))
}

fn composition() -> Box<dyn Composition> {
    read(&config_json()).unwrap()
}

fn graphs(target: Target) -> Vec<Graph> {
    composition().graphs(GraphOptions { target, context_length: 64 })
}

fn all_graphs() -> Vec<Graph> {
    Target::ALL.into_iter().flat_map(graphs).collect()
}

#[test]
fn every_input_of_a_node_comes_before_it() {
    for graph in all_graphs() {
        let mut known: HashSet<_> = graph.inputs.iter().map(|input| input.name().to_owned()).collect();
        known.extend(graph.initializers.iter().map(|tensor| tensor.name.to_string()));
        for node in &graph.nodes {
            for input in node.inputs.iter().filter(|name| !name.is_empty()) {
                assert!(known.contains(&**input), "{}: `{}` uses `{input}` too early", graph.name, node.name);
            }
            for output in node.outputs.iter().filter(|name| !name.is_empty()) {
                assert!(known.insert(output.to_string()), "{}: `{output}` is made twice", graph.name);
            }
        }
    }
}

#[test]
fn every_tensor_has_a_shape() {
    for graph in all_graphs() {
        let described = graph.values.iter().chain(&graph.outputs).map(|value| value.name().to_owned());
        let described: HashSet<_> = described.collect();
        for output in graph.nodes.iter().flat_map(|node| &node.outputs).filter(|name| !name.is_empty()) {
            assert!(described.contains(&**output), "{}: `{output}` has no value_info", graph.name);
        }
    }
}

#[test]
fn node_names_are_unique() {
    for graph in all_graphs() {
        let mut names = HashSet::new();
        for node in &graph.nodes {
            assert!(names.insert(&node.name), "{}: two nodes are called `{}`", graph.name, node.name);
        }
    }
}

#[test]
fn portable_graphs_use_standard_operators_only() {
    for graph in graphs(Target::Portable) {
        assert!(graph.is_standard(), "{} uses an operator outside the standard", graph.name);
    }
}

/// Of everything but the decoder's attention there is one spelling for GPUs.
#[test]
fn graphs_for_cuda_are_the_portable_ones_but_for_attention() {
    for (cuda, portable) in graphs(Target::Cuda).into_iter().zip(graphs(Target::Portable)) {
        assert!(cuda.functions.is_empty(), "{} has operators of ours", cuda.name);
        let own: HashSet<_> =
            cuda.nodes.iter().filter(|node| !node.domain.is_empty()).map(|node| node.operator).collect();
        if cuda.name == "decoder" {
            assert_eq!(own, HashSet::from(["RotaryEmbedding", "GroupQueryAttention"]));
            continue;
        }
        assert_eq!(own, HashSet::new(), "{}", cuda.name);
        assert_eq!(cuda.nodes, portable.nodes, "{}", cuda.name);
    }
}

#[test]
fn axes_are_the_contract() {
    let graphs = graphs(Target::Portable);
    let axes = |name: &str| graphs.iter().find(|graph| graph.name == name).unwrap().axes();
    assert_eq!(axes("vision_encoder"), ["batch", "height", "width"]);
    assert_eq!(axes("allocator"), ["batch", "patches", "query_len"]);
    assert_eq!(axes("compressor"), ["batch", "patches", "tokens"]);
    assert_eq!(axes("refiner"), ["batch", "tokens"]);
    assert_eq!(axes("quality_adapter"), ["batch", "tokens"]);
    assert_eq!(axes("decoder"), ["batch", "seq", "total", "past"]);
    assert_eq!(axes("embedding"), ["batch", "seq"]);
}

#[test]
fn tied_weights_are_stored_once() {
    let layout = Layout::new(&graphs(Target::Cpu));
    assert!(layout.data.iter().all(|file| file.name != "embedding.onnx.data"));
    let mut stored = HashSet::new();
    for piece in layout.data.iter().flat_map(|file| &file.pieces) {
        if let Source::Checkpoint { tensor, range, .. } = &piece.source {
            assert!(stored.insert((tensor, range.clone())), "`{tensor}` is stored twice");
        }
    }
}

#[test]
fn pieces_of_a_data_file_do_not_overlap() {
    for file in &Layout::new(&graphs(Target::Cpu)).data {
        let mut end = 0;
        for piece in &file.pieces {
            assert!(piece.offset >= end && piece.offset.is_multiple_of(64), "{}", file.name);
            end = piece.offset + piece.length;
        }
        assert_eq!(file.length(), end);
    }
}

#[test]
fn parameters_are_the_checkpoint_with_what_the_reference_carries_unused() {
    let parameters = composition().parameters();
    let unused: Vec<_> = parameters.iter().filter(|p| !p.used).map(|p| p.name.as_str()).collect();
    let expected = ["embeddings.patch_embedding.weight", "post_layernorm.bias", "post_layernorm.weight"];
    assert_eq!(unused, expected.map(|name| format!("clip_vision_model.{name}")));
    let stacked = parameters.iter().find(|p| p.name == "arr_coc_compressor.fc1.weight").unwrap();
    assert_eq!(stacked.shape, [2, 24, 16]);
    assert!(!parameters.iter().any(|p| p.name == "ovis_llm.lm_head.weight"), "the head is tied");
}

#[test]
fn a_config_says_what_is_wrong_with_it() {
    let refuse = |path: &str, value: Value| {
        let mut json = config_json();
        let (parent, key) = path.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[key] = value;
        read(&json).unwrap_err()
    };
    let error = refuse("/model_type", json!("llava"));
    assert!(matches!(&error, ConfigError::ModelType { found, .. } if found == "llava"), "{error}");
    for (path, value, key) in [
        ("/vision_config/num_attention_heads", json!(5), "hidden_size"),
        ("/vision_config/global_attn_indexes", json!([9]), "global_attn_indexes"),
        ("/token_budgets", json!([100, 64]), "token_budgets"),
        ("/token_budgets", json!([]), "token_budgets"),
        ("/image_sizes", json!([130]), "image_sizes"),
        ("/compressor_config/gist_grid", json!(0), "gist_grid"),
        ("/adapter_config/target_std", json!(0.0), "target_std"),
        ("/text_config/num_key_value_heads", json!(0), "num_key_value_heads"),
        ("/text_config/rope_parameters/rope_type", json!("dynamic"), "rope_parameters"),
    ] {
        let error = refuse(path, value);
        assert!(matches!(&error, ConfigError::Value { key: found, .. } if *found == key), "{path}: {error}");
    }
    assert!(matches!(refuse("/clip_config", json!("no")), ConfigError::Parse { section: "clip_config", .. }));
}
