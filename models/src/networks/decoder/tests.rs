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
