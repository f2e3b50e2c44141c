use serde_json::{Value, json};

use super::*;
use crate::families::{self, Files};

/// A preset's two files, changed.
fn read(name: &str, change: impl Fn(&mut Value, &mut Value)) -> Result<Box<dyn Composition>, ConfigError> {
    let preset = families::preset(name).unwrap();
    let (mut config, mut images) = ((preset.config)("float32"), (preset.image_processor)());
    change(&mut config, &mut images);
    families::read(&Files::of_preset(&config, &images))
}

fn refused(name: &str, change: impl Fn(&mut Value, &mut Value)) -> String {
    read(name, change).unwrap_err().to_string()
}

#[test]
fn a_decoder_at_the_top_level_is_the_same_as_one_in_a_section() {
    let flat = read("qwen2.5-vl-tiny", |_, _| ()).unwrap();
    let nested = read("qwen2.5-vl-tiny", |config, _| {
        let mut text = config.clone();
        let all = text.as_object_mut().unwrap();
        all.retain(|key, _| !TOP_LEVEL.contains(&key.as_str()));
        all.insert("model_type".to_owned(), "qwen2_5_vl_text".into());
        config.as_object_mut().unwrap().retain(|key, _| TOP_LEVEL.contains(&key.as_str()));
        config["text_config"] = text;
    });
    assert_eq!(format!("{flat:?}"), format!("{:?}", nested.unwrap()));
}

#[test]
fn released_names_of_tensors_become_those_of_transformers() {
    let config = read("qwen3-vl-tiny", |_, _| ()).unwrap();
    let renamed = |stored: &str| {
        let mut renames = config.renames().iter();
        renames.find_map(|(old, new)| Some(format!("{new}{}", stored.strip_prefix(old)?)))
    };
    for (stored, expected) in [
        ("visual.merger.norm.weight", "model.visual.merger.norm.weight"),
        ("model.visual.merger.norm.weight", "model.visual.merger.norm.weight"),
        ("model.norm.weight", "model.language_model.norm.weight"),
        ("model.language_model.norm.weight", "model.language_model.norm.weight"),
    ] {
        assert_eq!(renamed(stored).as_deref(), Some(expected));
    }
    assert_eq!(renamed("lm_head.weight"), None);
}

#[test]
fn the_tower_has_a_level_for_the_decoder_behind_every_tap() {
    let config = read("qwen3-vl-tiny", |_, _| ()).unwrap();
    assert_eq!(config.decoder().deep_levels, 2);
    let without = read("qwen3-vl-tiny", |config, _| {
        config["vision_config"]["deepstack_visual_indexes"] = json!([]);
    });
    let without = without.unwrap();
    assert_eq!(without.decoder().deep_levels, 0);
    let graphs = without.graphs(GraphOptions { target: arrcoc_bundle::Target::Cpu, context_length: 8 });
    assert_eq!(graphs[0].outputs.len(), 1);
}

#[test]
fn hostile_configurations_are_refused_by_key() {
    let vision = |key: &'static str, value: Value| {
        refused("qwen3-vl-tiny", move |config, _| config["vision_config"][key] = value.clone())
    };
    for (key, value) in [
        ("deepstack_visual_indexes", json!([0, 3])),
        ("deepstack_visual_indexes", json!([2, 0])),
        ("deepstack_visual_indexes", json!([1, 1])),
        ("num_position_embeddings", json!(65)),
        ("num_heads", json!(5)),
        ("num_heads", json!(8)),
        ("depth", json!(1_000_000)),
        ("patch_size", json!(0)),
        ("patch_size", json!(100_000)),
        ("spatial_merge_size", json!(0)),
        ("in_channels", json!(4)),
        ("out_hidden_size", json!(63)),
        ("hidden_act", json!("sin")),
        ("rope_parameters", json!({"rope_theta": 0.5})),
        ("rope_parameters", json!({"rope_type": "yarn"})),
    ] {
        let error = vision(key, value.clone());
        assert!(error.contains(key) && error.contains("vision_config"), "{key} {value}: {error}");
    }
    for sections in [json!([1, 1, 1]), json!([4, 4]), json!("4"), json!([u64::MAX, 9, 0]), json!([-1, 5, 4])]
    {
        let error = refused("qwen3-vl-tiny", |config, _| {
            config["text_config"]["rope_scaling"]["mrope_section"] = sections.clone();
        });
        assert!(error.contains("mrope_section") && error.contains("sum 8"), "{error}");
    }
    for window in [0, 8, 100_000] {
        let error =
            refused("qwen2.5-vl-tiny", |config, _| config["vision_config"]["window_size"] = window.into());
        assert!(error.contains("window_size"), "{error}");
    }
    let error = refused("qwen2.5-vl-tiny", |config, _| {
        config["vision_config"]["fullatt_block_indexes"] = json!([3]);
    });
    assert!(error.contains("fullatt_block_indexes"), "{error}");
}

#[test]
fn pictures_are_as_the_image_processor_says_or_refused() {
    let pixels = |change: &dyn Fn(&mut Value)| {
        read("qwen3-vl-tiny", |_, images| change(images)).map(|config| {
            let section: processors::QwenVl = serde_yaml::from_value(config.processor()).unwrap();
            [section.min_pixels, section.max_pixels]
        })
    };
    assert_eq!(pixels(&|_| ()).unwrap(), [1024, 65_536]);
    // The older keys win, as in transformers; what neither says is the class's.
    assert_eq!(pixels(&|images| images["max_pixels"] = 4096.into()).unwrap(), [1024, 4096]);
    let none = |images: &mut Value| images["size"] = Value::Null;
    assert_eq!(pixels(&none).unwrap(), [3136, 1_003_520]);
    type Change<'a> = &'a dyn Fn(&mut Value);
    let refusals: [(&str, Change<'_>); 8] = [
        ("size", &|images| images["size"] = json!({"shortest_edge": 1024})),
        ("size", &|images| images["size"] = json!({"height": 64, "width": 64})),
        ("size", &|images| images["size"]["shortest_edge"] = 1_000_000.into()),
        ("max_pixels", &|images| images["max_pixels"] = 10.into()),
        ("size", &|images| images["size"] = json!({"shortest_edge": 1u64 << 30, "longest_edge": 1u64 << 30})),
        ("patch_size", &|images| images["patch_size"] = 16.into()),
        ("merge_size", &|images| images["merge_size"] = 1.into()),
        ("do_resize", &|images| images["do_resize"] = false.into()),
    ];
    for (key, change) in refusals {
        let error = pixels(change).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("preprocessor_config.json"), "{key}: {error}");
    }
}
