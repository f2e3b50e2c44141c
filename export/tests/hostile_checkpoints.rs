//! Damaged checkpoints: each is refused with an error that names the place and says what was expected and
//! found, and leaves no bundle behind.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, OpenOptions};

use arrcoc_bundle::Target;
use arrcoc_export::init::WeightType;
use common::{Workshop, chain};
use serde_json::json;

const WEIGHTS: &str = "model.safetensors";
const NORM: &str = "sam_encoder.layers.0.layer_norm1.weight";

/// Damages a fresh checkpoint, and checks what `build` says of it.
#[track_caller]
fn refused(damage: impl FnOnce(&Workshop), expected: &[&str]) {
    refused_from(Workshop::new(), damage, expected);
}

#[track_caller]
fn refused_from(workshop: Workshop, damage: impl FnOnce(&Workshop), expected: &[&str]) {
    damage(&workshop);
    let error = chain(&workshop.build(Target::Cpu).unwrap_err());
    for part in expected {
        assert!(error.contains(part), "expected `{part}` in:\n{error}");
    }
    assert!(!workshop.path("engines/tiny").join("fp32-cpu").exists());
}

fn weights(workshop: &Workshop) -> std::path::PathBuf {
    workshop.checkpoint().join(WEIGHTS)
}

#[test]
fn truncated_file() {
    let damage = |w: &Workshop| {
        let length = fs::metadata(weights(w)).unwrap().len();
        OpenOptions::new().write(true).open(weights(w)).unwrap().set_len(length - 100).unwrap();
    };
    refused(damage, &[WEIGHTS, "but the file holds", "truncated", "download it again"]);
}

#[test]
fn pointers_of_git_lfs() {
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    for file in [WEIGHTS, "config.json", "tokenizer.json"] {
        let damage = |w: &Workshop| fs::write(w.checkpoint().join(file), POINTER).unwrap();
        refused(damage, &[file, "Git LFS's pointer", "git lfs pull"]);
    }
}

#[test]
fn empty_file() {
    refused(|w| fs::write(weights(w), []).unwrap(), &["expected at least 8 bytes, found 0"]);
}

#[test]
fn header_larger_than_the_file() {
    let damage = |w: &Workshop| fs::write(weights(w), [&[0xff; 7], &[0x7f, 1, 2, 3][..]].concat()).unwrap();
    refused(damage, &["header claims 9223372036854775807 bytes, but only 3 follow"]);
}

#[test]
fn header_beyond_the_limit() {
    let damage = |w: &Workshop| {
        fs::write(weights(w), 200_000_000u64.to_le_bytes()).unwrap();
        // Sparse: 300 MB that take no room.
        OpenOptions::new().write(true).open(weights(w)).unwrap().set_len(300_000_000).unwrap();
    };
    refused(damage, &["header claims 200000000 bytes; the limit is 100000000"]);
}

#[test]
fn header_that_is_no_json() {
    let damage = |w: &Workshop| fs::write(weights(w), [&5u64.to_le_bytes()[..], b"hello"].concat()).unwrap();
    refused(damage, &["not the JSON of a safetensors file", "line 1 column 1"]);
}

#[test]
fn unknown_dtype() {
    let damage = |w: &Workshop| w.edit_weights(WEIGHTS, |header, _| header[NORM]["dtype"] = json!("F4"));
    refused(damage, &[NORM, "`F4`", "BF16"]);
}

#[test]
fn integer_weights() {
    let damage = |w: &Workshop| w.edit_weights(WEIGHTS, |header, _| header[NORM]["dtype"] = json!("I16"));
    refused(damage, &[NORM, "wrong dtype", "expected F32, BF16 or F16, found I16"]);
}

#[test]
fn shape_that_contradicts_the_bytes() {
    let damage = |w: &Workshop| w.edit_weights(WEIGHTS, |header, _| header[NORM]["shape"] = json!([65]));
    refused(damage, &[NORM, "BF16 [65] needs 130 bytes, but its data_offsets are ["]);
}

#[test]
fn shape_whose_product_overflows() {
    let huge = json!([u64::MAX, u64::MAX]);
    let damage = |w: &Workshop| w.edit_weights(WEIGHTS, |header, _| header[NORM]["shape"] = huge);
    refused(damage, &[NORM, "more bytes than there are numbers for"]);
}

#[test]
fn overlapping_tensors() {
    let damage = |w: &Workshop| {
        w.edit_weights(WEIGHTS, |header, _| {
            let place = header["sam_encoder.layers.0.layer_norm2.weight"]["data_offsets"].clone();
            header[NORM]["data_offsets"] = place;
        });
    };
    refused(damage, &["belong to no tensor"]);
    let damage = |w: &Workshop| {
        w.edit_weights(WEIGHTS, |header, data| {
            // One more tensor over the end of the last one.
            let end = data.len();
            header["zzz"] = json!({ "dtype": "U8", "shape": [4], "data_offsets": [end - 4, end] });
        });
    };
    refused(damage, &["overlap at byte", "`zzz`"]);
}

#[test]
fn bytes_that_belong_to_no_tensor() {
    let damage = |w: &Workshop| w.edit_weights(WEIGHTS, |_, data| data.extend([0; 10]));
    refused(damage, &["belong to no tensor", "no holes"]);
}

#[test]
fn name_that_appears_twice() {
    let damage = |w: &Workshop| {
        let entry = r#""a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        let json = format!("{{{entry},{entry}}}");
        fs::write(weights(w), [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()).unwrap();
    };
    refused(damage, &["tensor `a` appears twice"]);
}

#[test]
fn missing_tensor_with_a_similar_one_at_hand() {
    let damage = |w: &Workshop| {
        w.edit_weights(WEIGHTS, |header, _| {
            let entry = header.as_object_mut().unwrap().remove(NORM).unwrap();
            header["sam_encoder.layers.0.layernorm1.weight"] = entry;
        });
    };
    let missing = format!("missing `{NORM}`: expected shape [64]");
    let hint = "did you mean `sam_encoder.layers.0.layernorm1.weight`?";
    refused(damage, &[&missing, hint, "extra `sam_encoder.layers.0.layernorm1.weight`"]);
}

#[test]
fn extra_tensor() {
    let damage = |w: &Workshop| {
        w.edit_weights(WEIGHTS, |header, data| {
            let end = data.len();
            header["lora.up"] = json!({ "dtype": "F32", "shape": [2], "data_offsets": [end, end + 8] });
            data.extend([0; 8]);
        });
    };
    refused(damage, &["extra `lora.up`: shape [2]"]);
}

#[test]
fn wrong_shape() {
    let damage = |w: &Workshop| w.edit_weights(WEIGHTS, |header, _| header[NORM]["shape"] = json!([8, 8]));
    refused(damage, &["wrong shape of", NORM, "expected [64], found [8, 8]"]);
}

#[test]
fn config_of_another_size() {
    let damage =
        |w: &Workshop| w.edit_json("config.json", |config| config["text_config"]["vocab_size"] = json!(321));
    refused(damage, &["ovis_llm.model.embed_tokens.weight", "expected [321, 96], found [320, 96]"]);
}

#[test]
fn unknown_model_type() {
    let damage = |w: &Workshop| w.edit_json("config.json", |config| config["model_type"] = json!("llama"));
    refused(damage, &["config.json", "`llama`", "arr_coc_ovis"]);
}

#[test]
fn no_config() {
    let damage = |w: &Workshop| fs::remove_file(w.checkpoint().join("config.json")).unwrap();
    refused(damage, &["expected a checkpoint with a config.json", "found none"]);
}

#[test]
fn pickled_weights() {
    let damage = |w: &Workshop| {
        fs::rename(weights(w), w.checkpoint().join("pytorch_model.bin")).unwrap();
    };
    refused(damage, &["pytorch_model.bin", "convert them", "safe_serialization=True"]);
}

#[test]
fn no_weights_at_all() {
    refused(|w| fs::remove_file(weights(w)).unwrap(), &["has no weights", WEIGHTS]);
}

mod shards {
    use super::*;

    const INDEX: &str = "model.safetensors.index.json";
    const FIRST: &str = "model-00001-of-00003.safetensors";
    const SECOND: &str = "model-00002-of-00003.safetensors";

    fn sharded() -> Workshop {
        let workshop = Workshop::with(WeightType::Bfloat16, 800_000);
        assert!(
            workshop.checkpoint().join(SECOND).exists(),
            "the tiny checkpoint has another size than it had"
        );
        workshop
    }

    #[test]
    fn missing_shard() {
        let damage = |w: &Workshop| fs::remove_file(w.checkpoint().join(SECOND)).unwrap();
        refused_from(sharded(), damage, &[SECOND, "is missing", INDEX]);
    }

    #[test]
    fn tensor_that_is_not_where_the_index_puts_it() {
        let damage = |w: &Workshop| w.edit_json(INDEX, |index| index["weight_map"][NORM] = json!(FIRST));
        refused_from(sharded(), damage, &[NORM, "is not in", FIRST]);
    }

    #[test]
    fn tensor_that_the_index_does_not_name() {
        let damage = |w: &Workshop| {
            w.edit_json(INDEX, |index| {
                index["weight_map"].as_object_mut().unwrap().remove(NORM).unwrap();
            });
        };
        refused_from(sharded(), damage, &[NORM, "is not in", INDEX]);
    }

    #[test]
    fn tensor_in_two_shards() {
        let damage = |w: &Workshop| {
            w.edit_weights(SECOND, |header, data| {
                let end = data.len();
                let first = common::split(&fs::read(w.checkpoint().join(FIRST)).unwrap()).0;
                let name = first.as_object().unwrap().keys().find(|name| *name != "__metadata__").unwrap();
                header[name] = json!({ "dtype": "U8", "shape": [0], "data_offsets": [end, end] });
            });
        };
        refused_from(sharded(), damage, &["is both in", FIRST, SECOND]);
    }

    #[test]
    fn index_that_leads_out_of_the_directory() {
        let damage =
            |w: &Workshop| w.edit_json(INDEX, |index| index["weight_map"][NORM] = json!("../secret"));
        refused_from(sharded(), damage, &[INDEX, "expected a plain file name", "../secret"]);
    }

    #[test]
    fn index_without_a_table() {
        let damage = |w: &Workshop| w.edit_json(INDEX, |index| *index = json!([]));
        refused_from(sharded(), damage, &[INDEX, "weight_map"]);
    }
}

mod text_files {
    use super::*;

    #[test]
    fn missing_tokenizer() {
        let damage = |w: &Workshop| fs::remove_file(w.checkpoint().join("tokenizer.json")).unwrap();
        refused(damage, &["tokenizer.json is missing", "save_pretrained"]);
    }

    #[test]
    fn tokenizer_without_the_image_token() {
        let damage =
            |w: &Workshop| w.edit_json("config.json", |config| config["image_token_id"] = json!(319));
        refused(damage, &["tokenizer.json", "image_token_id 319"]);
    }

    #[test]
    fn tokenizer_of_another_model() {
        let damage = |w: &Workshop| {
            w.edit_json("tokenizer.json", |tokenizer| tokenizer["model"]["vocab"]["zz"] = json!(400));
        };
        refused(damage, &["tokenizer.json", "vocab_size (320)", "found id 400"]);
    }

    #[test]
    fn preprocessor_that_the_runtime_does_not_do() {
        let damage =
            |w: &Workshop| w.edit_json("preprocessor_config.json", |config| config["resample"] = json!(3));
        refused(damage, &["preprocessor_config.json.resample: expected 2 (bilinear), found 3"]);
        let damage = |w: &Workshop| {
            w.edit_json("preprocessor_config.json", |config| config["image_std"][1] = json!(0))
        };
        refused(damage, &["image_std", "three numbers above zero"]);
    }

    #[test]
    fn end_of_text_beyond_the_vocabulary() {
        let damage = |w: &Workshop| {
            w.edit_json("generation_config.json", |config| config["eos_token_id"] = json!([258, 320]))
        };
        refused(damage, &["eos_token_id", "below 320", "[258,320]"]);
    }

    #[test]
    fn no_chat_template() {
        let damage = |w: &Workshop| fs::remove_file(w.checkpoint().join("chat_template.jinja")).unwrap();
        refused(damage, &["chat_template.jinja is missing"]);
    }
}

/// Values that parse, and that no network can have.
#[test]
fn impossible_values_are_refused_by_key() {
    let cases = [
        ("text_config", "rms_norm_eps", json!(-1.0), "rms_norm_eps: expected a number above 0"),
        ("vision_config", "layer_norm_eps", json!(1e18), "layer_norm_eps: expected a number above 0"),
        ("text_config", "num_hidden_layers", json!(1_000_000), "num_hidden_layers: expected 1 to 1,000"),
        ("text_config", "num_key_value_heads", json!("2"), "num_key_value_heads: invalid type: string"),
        ("text_config", "num_key_value_heads", json!("2"), "expected a whole number"),
        ("vision_config", "hidden_size", json!(1.5), "hidden_size: invalid"),
    ];
    for (section, key, value, expected) in cases {
        let damage = |w: &Workshop| w.edit_json("config.json", |config| config[section][key] = value);
        refused_from(Workshop::stock("smolvlm"), damage, &["config.json", section, expected]);
    }
    for section in ["text_config", "vision_config"] {
        let damage = |w: &Workshop| w.edit_json("config.json", |config| config[section] = json!([]));
        refused_from(Workshop::stock("smolvlm"), damage, &["config.json", section, "expected an object"]);
    }
}

/// What only the runtime would refuse is refused before the bundle is there.
#[test]
fn a_bundle_that_would_not_load_is_not_left_behind() {
    let damage = |w: &Workshop| {
        let edit = |processor: &mut serde_json::Value| {
            let inner = match processor.get("image_processor") {
                Some(_) => &mut processor["image_processor"],
                None => processor,
            };
            inner["image_mean"] = json!([3e38, 0.0, 0.0]);
        };
        let name = ["preprocessor_config.json", "processor_config.json"];
        let name = name.into_iter().find(|name| w.checkpoint().join(name).is_file()).unwrap();
        w.edit_json(name, edit);
    };
    refused_from(Workshop::stock("smolvlm"), damage, &["would refuse the bundle", "finite"]);
}

#[test]
fn directories_that_are_no_checkpoints_say_what_they_are() {
    let workshop = Workshop::stock("smolvlm");
    let inner = workshop.path("inner/checkpoint");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("config.json"), "{}").unwrap();
    workshop.build(Target::Cpu).unwrap();
    for (dir, expected) in [
        (workshop.path("inner"), "inner/checkpoint"),
        (workshop.bundle(), "a bundle"),
        (inner.parent().unwrap().join("checkpoint/../../engines"), "found none"),
    ] {
        let options = workshop.options(Target::Cpu);
        let error = arrcoc_export::build::build(&dir, &options, arrcoc_export::progress::Progress::Silent);
        let error = chain(&error.unwrap_err());
        assert!(error.contains("config.json") && error.contains(expected), "{error}");
    }
}

/// A pipe never ends, and opening one waits for its writer.
#[cfg(unix)]
#[test]
fn pipes_in_place_of_files_are_refused() {
    for name in ["config.json", "tokenizer.json", "preprocessor_config.json"] {
        let workshop = Workshop::stock("smolvlm");
        let path = workshop.checkpoint().join(name);
        let _ = fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = chain(&workshop.build(Target::Cpu).unwrap_err());
        assert!(error.contains(name) && error.contains("found a pipe"), "{error}");
    }
}
