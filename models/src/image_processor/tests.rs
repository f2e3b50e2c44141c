//! Against what transformers saves and computes (`tests/fixtures/make_config_keys.py`).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn fixture(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/configs").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The configuration of the fixtures, for pictures of 16 pixels, with some keys set.
fn read_edited(edit: &Value) -> Result<[[f32; 3]; 2], ConfigError> {
    let mut config = fixture("transformers-5.23.0.json")["preprocessor"].take();
    config["size"] = json!({"longest_edge": 16});
    config["pad_size"] = json!({"height": 16, "width": 16});
    for (key, value) in edit.as_object().unwrap() {
        config[key] = value.clone();
    }
    ImageProcessor { config: &config, file: "preprocessor_config.json" }.square(16)
}

#[test]
fn what_transformers_computes_is_followed() {
    const BYTES: [f32; 4] = [0.0, 1.0, 128.0, 255.0];
    let mut followed = 0;
    for row in fixture("pixels.json").as_array().unwrap() {
        let edit = &row["edit"];
        let found = read_edited(edit);
        let Ok(expected) = serde_json::from_value::<[[f32; 4]; 3]>(row["values"].clone()) else {
            assert!(found.is_err(), "transformers refuses {edit}, we take it");
            continue;
        };
        let [mean, deviation] = found.unwrap_or_else(|error| panic!("{edit}: {error}"));
        let largest = expected.iter().flatten().fold(0.0_f32, |most, x| most.max(x.abs()));
        for (channel, expected) in expected.iter().enumerate() {
            for (byte, expected) in BYTES.iter().zip(expected) {
                let found = (byte / 255.0 - mean[channel]) / deviation[channel];
                let off = (found - expected).abs() / largest;
                assert!(off < 1e-6, "{edit}, byte {byte}: expected {expected}, found {found}");
            }
        }
        followed += 1;
    }
    assert!(followed >= 12, "{followed}");
}

#[test]
fn what_transformers_saves_is_taken() {
    for name in ["transformers-5.23.0.json", "transformers-4.57.1.json"] {
        let config = fixture(name)["preprocessor"].take();
        let processor = ImageProcessor { config: &config, file: "preprocessor_config.json" };
        let found = processor.square(1024).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found, [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]);
    }
}

#[test]
fn what_would_change_pixels_is_refused_by_name() {
    let cases = [
        (json!({"do_resize": false}), "do_resize: expected true"),
        (json!({"do_pad": false}), "do_pad: expected true"),
        (json!({"do_pad": null}), "do_pad: expected true"),
        (json!({"do_convert_rgb": false}), "do_convert_rgb: expected true"),
        (json!({"do_center_crop": true, "crop_size": 16}), "do_center_crop: expected false"),
        (json!({"do_normalize": "false"}), "do_normalize: expected true or false, found \"false\""),
        (json!({"resample": "bicubic"}), "resample: expected 2 (bilinear), found \"bicubic\""),
        (json!({"resample": 3}), "resample: expected 2 (bilinear), found 3"),
        (json!({"resample": null}), "resample: expected 2 (bilinear), found null"),
        (json!({"rescale_factor": "1/255"}), "rescale_factor: expected a number above zero"),
        (json!({"rescale_factor": 0}), "rescale_factor: expected a number above zero"),
        (json!({"size": {"height": 16, "width": 16}}), "size: expected {\"longest_edge\": 16}"),
        (json!({"size": {"shortest_edge": 16}}), "size: expected {\"longest_edge\": 16}"),
        (json!({"size": {"longest_edge": 16, "shortest_edge": 8}}), "size: expected"),
        (json!({"size": {"longest_edge": 32}}), "size: expected"),
        (json!({"size": 16}), "size: expected"),
        (json!({"pad_size": {"height": 32, "width": 32}}), "pad_size: expected height and width 16"),
        (
            json!({"image_processor_type": "CLIPImageProcessor"}),
            "image_processor_type: expected SamImageProcessor",
        ),
        (json!({"auto_map": {"AutoImageProcessor": "code.Processor"}}), "auto_map = {\"AutoImageProcessor\""),
        (json!({"do_thumbnail": true}), "do_thumbnail = true: arrcoc does not follow this key"),
        (json!({"image_std": [1, 0, 1]}), "image_std: expected three numbers above zero"),
        (json!({"image_std": 0}), "image_std: expected three numbers above zero"),
    ];
    for (edit, expected) in cases {
        let error = read_edited(&edit).unwrap_err().to_string();
        assert!(error.contains("preprocessor_config.json.") && error.contains(expected), "{edit}: {error}");
    }
}
