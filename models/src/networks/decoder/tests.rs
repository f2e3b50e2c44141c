#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::config::{ConfigError, Neutral};

fn read(text_config: Value) -> Result<Config, ConfigError> {
    Config::from_json(&text_config, Neutral(&[]), &Kind::ALL)
}

fn config(kind: Kind) -> Config {
    read(json!({"model_type": kind.name()})).unwrap()
}

#[test]
fn what_a_file_does_not_state_is_the_default_of_its_class() {
    let defaults = |config: Config| {
        let Config { intermediate_size, kv_heads, head_dim, vocab_size, max_positions, .. } = config;
        (intermediate_size, kv_heads, head_dim, vocab_size, max_positions, config.sliding_window)
    };
    assert_eq!(defaults(config(Kind::Llama)), (11_008, 32, 128, 32_000, 2048, None));
    assert_eq!(defaults(config(Kind::Mistral)), (14_336, 8, 128, 32_000, 131_072, Some(4096)));
    assert_eq!(defaults(config(Kind::Qwen2)), (22_016, 32, 128, 151_936, 32_768, None));
    assert_eq!(defaults(config(Kind::Qwen3)), (22_016, 32, 128, 151_936, 32_768, None));
    let halved = |kind: Kind| read(json!({"model_type": kind.name(), "hidden_size": 2048})).unwrap().head_dim;
    assert_eq!(Kind::ALL.map(halved), [64, 64, 64, 128]);
    let unnamed = Config::from_json(&json!({}), Neutral(&[]), &[Kind::Qwen2, Kind::Llama]).unwrap();
    assert!(unnamed.qkv_bias && !unnamed.output_bias);
}

#[test]
fn classes_differ_in_biases_and_in_norms_of_heads() {
    let biases = |config: &Config| [config.qkv_bias, config.output_bias, config.mlp_bias];
    let with = |kind: Kind, key: &str| read(json!({"model_type": kind.name(), key: true}));
    assert_eq!(Kind::ALL.map(|kind| config(kind).head_norms), [false, false, false, true]);
    assert_eq!(biases(&config(Kind::Llama)), [false; 3]);
    assert_eq!(biases(&with(Kind::Llama, "attention_bias").unwrap()), [true, true, false]);
    assert_eq!(biases(&with(Kind::Llama, "mlp_bias").unwrap()), [false, false, true]);
    assert_eq!(biases(&with(Kind::Qwen3, "attention_bias").unwrap()), [true, true, false]);
    assert_eq!(biases(&with(Kind::Qwen2, "attention_bias").unwrap()), [true, false, false]);
    let error = with(Kind::Mistral, "attention_bias").unwrap_err().to_string();
    assert!(error.contains("text_config.attention_bias: expected false, or none"), "{error}");
}

#[test]
fn mistral_has_a_window_unless_it_says_none() {
    let window = |value: Value| {
        read(json!({"model_type": "mistral", "sliding_window": value})).unwrap().sliding_window
    };
    assert_eq!(window(json!(1024)), Some(1024));
    assert_eq!(window(Value::Null), None);
    let error = config(Kind::Mistral).check_context(4097).unwrap_err().to_string();
    assert!(error.contains("the context of 4097 tokens") && error.contains("found 4096"), "{error}");
    config(Kind::Mistral).check_context(4096).unwrap();
}

#[test]
fn frequencies_for_longer_contexts() {
    let with = |scaling| Rope { theta: 10_000.0, scaling, axes: Axes::One, width: 64 }.frequencies();
    let plain = with(Scaling::Default);
    assert_eq!((plain.len(), plain[0]), (32, 1.0));
    let halved = with(Scaling::Linear { factor: 2.0 });
    assert!(halved.iter().zip(&plain).all(|(halved, plain)| *halved == plain / 2.0));

    let llama = with(Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 });
    let yarn = with(Scaling::Yarn {
        factor: 8.0,
        fast: 32.0,
        slow: 1.0,
        truncate: true,
        original: 8192.0,
        magnitude: 1.2,
    });
    for scaled in [&llama, &yarn] {
        // The highest stays, the lowest is divided, and what lies between stays in order.
        assert_eq!((scaled[0], scaled[31]), (plain[0], plain[31] / 8.0));
        assert!(scaled.is_sorted_by(|a, b| a > b), "{scaled:?}");
        assert!(scaled.iter().zip(&plain).all(|(scaled, plain)| *scaled <= *plain && *scaled >= plain / 8.0));
    }
    assert_ne!(llama, yarn);
}

#[test]
fn graphs_of_every_kind_have_the_contract() {
    let names = Names { body: "model.text_model", head: "lm_head" };
    for kind in Kind::ALL {
        let small = json!({
            "model_type": kind.name(), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 40,
        });
        let mut config = read(small).unwrap();
        config.deep_levels = 1;
        for (target, own) in [
            (Target::Cpu, &["position_ids", "seqlens_k", "total_sequence_length"][..]),
            (Target::Cuda, &["position_ids", "seqlens_k", "total_sequence_length"]),
            (Target::Portable, &["attention_mask", "position_ids"]),
        ] {
            let graph = graph(&config, names, target, 16);
            let inputs: Vec<_> = graph.inputs.iter().map(|input| input.name()).collect();
            let all = [&["inputs_embeds"], own, &["deep_embeds", "past_key_values.0.key"]].concat();
            assert_eq!(inputs[..all.len()], all, "{kind:?}");
            let positions = graph.inputs.iter().find(|input| input.name() == "position_ids").unwrap();
            assert_eq!(positions.dims(), dims![3, "batch", "seq"]);
            let bodies = graph.parameters.iter().filter(|p| p.name.starts_with("model.text_model."));
            assert_eq!(bodies.count() + 1, graph.parameters.len(), "all but the head: {kind:?}");
            assert!(graph.parameters.iter().any(|p| p.name == "lm_head.weight"));
        }
        config.tied = true;
        let graph = graph(&config, names, Target::Portable, 16);
        assert!(!graph.parameters.iter().any(|p| p.name == "lm_head.weight"));
    }
}

/// ONNX Runtime's attention takes heads of some widths only.
#[test]
fn heads_are_filled_up_for_an_attention_that_takes_eights() {
    let names = Names { body: "model", head: "lm_head" };
    let small = json!({
        "model_type": "llama", "hidden_size": 48, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "vocab_size": 40,
    });
    let config = read(small).unwrap();
    for (target, width) in [(Target::Cpu, 12), (Target::Cuda, 16), (Target::Portable, 12)] {
        assert_eq!(config.cached_width(target), width);
        let graph = graph(&config, names, target, 16);
        let past = graph.inputs.iter().find(|input| input.name() == "past_key_values.0.key").unwrap();
        assert_eq!(past.dims(), dims!["batch", 2, "past", width], "{target}");
    }
}

/// A file of Qwen3.5's decoder, small.
fn recurrent(more: Value) -> Result<Config, ConfigError> {
    let mut file = json!({
        "model_type": "qwen3_5_text", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 40,
        "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 8,
        "linear_value_head_dim": 4, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0]},
    });
    file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Config::from_json(&file, Neutral(&[]), &[Kind::Qwen3_5])
}

#[test]
fn layers_without_attention_are_listed_or_counted() {
    let layers = |more| recurrent(more).unwrap().delta_net.map(|net| net.layers);
    assert_eq!(layers(json!({})), Some(vec![0, 1, 2]));
    assert_eq!(layers(json!({"full_attention_interval": 2})), Some(vec![0, 2]));
    assert_eq!(layers(json!({"full_attention_interval": 1})), None);
    let [linear, full] = ["linear_attention", "full_attention"];
    let listed = json!({"layer_types": [full, linear, linear, full], "full_attention_interval": 2});
    assert_eq!(layers(listed), Some(vec![1, 2]));
    assert_eq!(recurrent(json!({})).unwrap().rope.width, 4, "a quarter of the head");
    let unnamed = Config::from_json(&json!({}), Neutral(&[]), &[Kind::Qwen3_5]).unwrap();
    assert_eq!((unnamed.rope.width, unnamed.rope.axes), (64, Axes::Interleaved([11, 11, 10])));
    assert_eq!(unnamed.delta_net.map(|net| net.channels()), Some(2 * 16 * 128 + 32 * 128));
}

#[test]
fn recurrent_layers_that_cannot_be_are_refused_by_name() {
    for (more, part) in [
        (json!({"layer_types": ["linear_attention"]}), "layer_types: expected num_hidden_layers (4) entries"),
        (json!({"layer_types": vec!["mamba"; 4]}), "layer_types: expected full_attention or linear"),
        (json!({"full_attention_interval": 0}), "full_attention_interval: expected 1 or more"),
        (json!({"linear_num_value_heads": 5}), "linear_num_value_heads: expected a multiple of"),
        (json!({"linear_num_key_heads": 0}), "linear_num_key_heads"),
        (json!({"linear_conv_kernel_dim": 1}), "linear_conv_kernel_dim: expected 2 to 64"),
        (json!({"linear_conv_kernel_dim": 1_000_000_000}), "linear_conv_kernel_dim"),
        (json!({"partial_rotary_factor": 0.2}), "partial_rotary_factor"),
        (json!({"partial_rotary_factor": 2.0}), "partial_rotary_factor"),
        (json!({"partial_rotary_factor": 0.5}), "mrope_section"),
    ] {
        let error = recurrent(more.clone()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(part), "{more}: {error}");
    }
    // Another class does not read these keys: they may mean something to it.
    let error = read(json!({"model_type": "qwen3", "linear_num_key_heads": 2})).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("linear_num_key_heads"), "{error}");
}

#[test]
fn recurrent_layers_remember_a_window_and_a_matrix() {
    let names = Names { body: "model.language_model", head: "lm_head" };
    let config = recurrent(
        json!({"layer_types": ["linear_attention", "full_attention", "full_attention", "full_attention"]}),
    )
    .unwrap();
    for target in Target::ALL {
        let graph = graph(&config, names, target, 16);
        let dims = |name: &str| {
            let all = graph.inputs.iter().chain(&graph.outputs);
            all.filter(|value| value.name() == name).map(|value| value.dims().to_vec()).next()
        };
        for state in ["past_states.0", "present_states.0"] {
            assert_eq!(dims(&format!("{state}.window")), Some(dims!["batch", 3, 56]));
            assert_eq!(dims(&format!("{state}.matrix")), Some(dims!["batch", 6, 8, 4]));
        }
        assert_eq!(dims("past_key_values.0.key"), None);
        assert_eq!(dims("past_key_values.1.key"), Some(dims!["batch", 2, "past", 16]));
        assert_eq!(dims("present.3.value"), Some(dims!["batch", 2, "total", 16]));
        let queries = graph.parameters.iter().find(|p| p.name.ends_with("layers.1.self_attn.q_proj.weight"));
        assert_eq!(queries.unwrap().shape, [2 * 4 * 16, 32], "queries and gates");
    }
}
