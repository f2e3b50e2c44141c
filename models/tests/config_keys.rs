//! Keys of `config.json`: what transformers saves by itself is taken, and what would change the result is
//! refused by name.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use arrcoc_models::config::ConfigError;
use arrcoc_models::families::{self, Composition, Files};
use arrcoc_models::networks::decoder::{self, Scaling};
use serde_json::{Value, json};

fn saved(version: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../tests/fixtures/configs/transformers-{version}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A model of transformers' default networks.
fn config() -> Value {
    let saved = saved("5.23.0");
    json!({
        "model_type": "arr_coc_ovis",
        "image_token_id": 1,
        "token_budgets": [64, 100],
        "image_sizes": [1024],
        "vision_config": saved["vision_config"],
        "clip_config": saved["clip_config"],
        "text_config": saved["text_config"],
        "allocator_config": {"hidden_size": 64, "num_attention_heads": 2},
        "compressor_config": {"hidden_size": 64, "gist_grid": 2},
        "adapter_config": {"hidden_size": 64, "target_std": 0.1},
    })
}

/// The same with the image processor that transformers saves.
fn read(config: &Value) -> Result<Box<dyn Composition>, ConfigError> {
    families::read(&Files::of_preset(config, &saved("5.23.0")["preprocessor"]))
}

/// The decoder, or why the configuration is refused, with some keys of a section set; `null` removes one.
fn decoder(section: &str, edit: Value) -> Result<decoder::Config, ConfigError> {
    let mut config = config();
    let target = if section.is_empty() { &mut config } else { &mut config[section] };
    for (key, value) in edit.as_object().unwrap() {
        match value {
            Value::Null => drop(target.as_object_mut().unwrap().remove(key)),
            value => target[key] = value.clone(),
        }
    }
    read(&config).map(|composition| composition.decoder().clone())
}

/// The same, of the rope's base.
fn edited(section: &str, edit: Value) -> Result<f64, ConfigError> {
    decoder(section, edit).map(|decoder| decoder.rope.theta)
}

#[test]
fn what_transformers_saves_is_taken() {
    for version in ["5.23.0", "4.57.1"] {
        let saved = saved(version);
        let mut config = config();
        for section in ["vision_config", "clip_config", "text_config"] {
            config[section] = saved[section].clone();
        }
        config["dtype"] = json!("bfloat16");
        config["transformers_version"] = json!(version);
        config["architectures"] = json!(["ArrCocOvisForConditionalGeneration"]);
        read(&config).unwrap_or_else(|error| panic!("{version}: {error}"));
    }
}

#[test]
fn the_rope_is_the_one_that_transformers_takes() {
    let rope = |value: Value| edited("text_config", value).map_err(|error| error.to_string());
    let with = |parameters: Value, scaling: Value, theta: Value| {
        rope(json!({"rope_parameters": parameters, "rope_scaling": scaling, "rope_theta": theta}))
    };
    let default = json!({"rope_theta": 1e6, "rope_type": "default"});
    assert_eq!(with(default.clone(), Value::Null, Value::Null), Ok(1e6));
    assert_eq!(with(default.clone(), json!({}), json!(5e5)), Ok(1e6));
    assert_eq!(with(Value::Null, json!({"rope_type": "default"}), json!(5e5)), Ok(5e5));
    assert_eq!(with(Value::Null, Value::Null, json!(3e4)), Ok(3e4));
    assert_eq!(with(Value::Null, Value::Null, Value::Null), Ok(1e4));
    // `rope_scaling` wins as a whole, with a base of its own or none.
    assert_eq!(with(default.clone(), json!({"type": "default"}), Value::Null), Ok(1e4));
    assert_eq!(
        with(json!({"type": "yarn", "rope_type": "default", "rope_theta": 7e4}), Value::Null, Value::Null),
        Ok(7e4)
    );
    let dynamic = json!({"rope_type": "dynamic", "factor": 4.0});
    for (parameters, scaling, key) in [
        (
            default.clone(),
            dynamic.clone(),
            "text_config.rope_scaling: expected rope_type default, linear, llama3 or yarn, found \"dynamic\"",
        ),
        (default, json!({"type": "longrope"}), "yarn, found \"longrope\""),
        (dynamic, Value::Null, "text_config.rope_parameters: expected rope_type default, linear"),
        (
            json!({"rope_type": "linear"}),
            Value::Null,
            "rope_parameters: expected factor above 0 for rope_type linear, found none",
        ),
        (
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}),
            Value::Null,
            "expected low_freq_factor below high_freq_factor, found [4.0, 1.0]",
        ),
        (json!({"rope_type": "yarn", "factor": "four"}), Value::Null, "found \"four\""),
        (json!({"rope_type": "yarn", "factor": 4, "truncate": 1}), Value::Null, "truncate true or false"),
        (
            json!({"rope_type": "linear", "factor": 4, "beta_fast": 1}),
            Value::Null,
            "rope_parameters.beta_fast",
        ),
        (
            json!({"rope_type": "default", "mrope_section": [8, 8]}),
            Value::Null,
            "text_config.rope_parameters.mrope_section",
        ),
        (json!({"partial_rotary_factor": 0.5}), Value::Null, "text_config.partial_rotary_factor: expected 1"),
    ] {
        let error = with(parameters, scaling, Value::Null).unwrap_err();
        assert!(error.contains(key), "expected {key} in: {error}");
    }
}

#[test]
fn what_would_change_the_result_is_refused_by_name() {
    for (section, edit, name) in [
        ("", json!({"quantization_config": {"bits": 4}}), "top level.quantization_config"),
        ("", json!({"connector_config": {}}), "top level.connector_config"),
        ("text_config", json!({"quantization_config": {"bits": 4}}), "text_config.quantization_config"),
        ("text_config", json!({"mlp_bias": true}), "text_config.mlp_bias"),
        ("text_config", json!({"layer_types": ["sliding_attention"]}), "text_config.layer_types"),
        ("text_config", json!({"partial_rotary_factor": 0.25}), "text_config.partial_rotary_factor"),
        ("text_config", json!({"hidden_act": "relu"}), "text_config.hidden_act"),
        ("text_config", json!({"final_logit_softcapping": 30.0}), "text_config.final_logit_softcapping"),
        ("text_config", json!({"logits_scaling": 2.0}), "text_config.logits_scaling"),
        ("text_config", json!({"num_experts": 8}), "text_config.num_experts"),
        ("text_config", json!({"model_type": "qwen3_moe"}), "text_config.model_type"),
        ("text_config", json!({"is_encoder_decoder": true}), "text_config.is_encoder_decoder"),
        ("text_config", json!({"pruned_heads": {"0": [1]}}), "text_config.pruned_heads"),
        ("vision_config", json!({"use_rel_pos": false}), "vision_config.use_rel_pos"),
        ("vision_config", json!({"hidden_act": "relu"}), "vision_config.hidden_act"),
        ("vision_config", json!({"num_channels": 4}), "vision_config.num_channels"),
        ("vision_config", json!({"model_type": "sam2_vision_model"}), "vision_config.model_type"),
        ("vision_config", json!({"pooling": "mean"}), "vision_config.pooling"),
        ("clip_config", json!({"num_channels": 1}), "clip_config.num_channels"),
        ("clip_config", json!({"hidden_act": "relu"}), "clip_config.hidden_act"),
        ("clip_config", json!({"model_type": "siglip_vision_model"}), "clip_config.model_type"),
        ("clip_config", json!({"vision_use_head": true}), "clip_config.vision_use_head"),
        ("allocator_config", json!({"temperature_of_scores": 2.0}), "allocator_config.temperature_of_scores"),
        ("adapter_config", json!({"target_kurtosis": 2.0}), "adapter_config.target_kurtosis"),
    ] {
        let error = edited(section, edit).unwrap_err().to_string();
        assert!(error.contains(&format!("config.json, {name}: ")), "expected {name} in: {error}");
    }
}

#[test]
fn keys_of_training_and_of_bookkeeping_change_nothing() {
    for section in ["text_config", "vision_config", "clip_config"] {
        let edit = json!({
            "attention_dropout": 0.1,
            "initializer_range": 1.0,
            "dtype": "float16",
            "torch_dtype": "float16",
            "_name_or_path": "somewhere",
            "use_cache": false,
            "quantization_config": {},
            "is_encoder_decoder": false,
        });
        edited(section, edit).unwrap();
    }
    edited("text_config", json!({"sliding_window": 4096, "max_window_layers": 36})).unwrap();
}

#[test]
fn ropes_of_longer_contexts_are_read_with_their_defaults() {
    let scaling = |rope: Value| {
        let edit = json!({"rope_scaling": rope, "max_position_embeddings": 8192});
        decoder("text_config", edit).unwrap().rope.scaling
    };
    assert_eq!(scaling(json!({"type": "linear", "factor": 2})), Scaling::Linear { factor: 2.0 });
    let llama =
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    assert_eq!(scaling(llama), Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 });
    let yarn = |edit: Value| {
        let mut yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048});
        yarn.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        match scaling(yarn) {
            Scaling::Yarn { factor, fast, slow, truncate, magnitude, .. } => {
                (factor, fast, slow, truncate, magnitude)
            }
            other => panic!("{other:?}"),
        }
    };
    let usual = 0.1 * 4f64.ln() + 1.0;
    assert_eq!(yarn(json!({})), (4.0, 32.0, 1.0, true, usual));
    assert_eq!(yarn(json!({"factor": null})), (4.0, 32.0, 1.0, true, usual));
    assert_eq!(
        yarn(json!({"beta_fast": 16, "beta_slow": 2, "truncate": false, "attention_factor": 1.5})),
        (4.0, 16.0, 2.0, false, 1.5)
    );
    assert_eq!(yarn(json!({"mscale": 1.0, "mscale_all_dim": 1.0})).4, 1.0);
}

#[test]
fn a_window_that_would_bite_is_refused_for_the_context() {
    let windowed = |edit: Value| {
        let mut keys = json!({"layer_types": null, "sliding_window": 512, "use_sliding_window": true});
        keys.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        decoder("text_config", keys).unwrap()
    };
    let error = windowed(json!({})).check_context(513).unwrap_err().to_string();
    assert!(error.contains("text_config.sliding_window") && error.contains("513 tokens"), "{error}");
    windowed(json!({})).check_context(512).unwrap();
    let layers = |kind: &str| json!({"layer_types": vec![kind; 32]});
    windowed(layers("sliding_attention")).check_context(513).unwrap_err();
    for without in
        [layers("full_attention"), json!({"max_window_layers": 32}), json!({"use_sliding_window": false})]
    {
        windowed(without).check_context(1 << 20).unwrap();
    }
}
