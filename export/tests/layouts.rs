//! Checkpoints as they lie on disk: other files for the same thing, and other places for the same files.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use arrcoc_bundle::Target;
use arrcoc_bundle::manifest::RawManifest;
use arrcoc_export::build;
use arrcoc_export::progress::Progress;
use common::{Workshop, chain, contents, has_onnx_runtime, program, run, verified};
use serde_json::{Value, json};

/// The files of a bundle and what its manifest says, the checkpoint's digest aside.
fn built(workshop: &Workshop, checkpoint: &Path) -> (Vec<(String, Vec<u8>)>, RawManifest) {
    let options =
        build::Options { name: Some("tiny".to_owned()), force: true, ..workshop.options(Target::Portable) };
    let bundle = build::build(checkpoint, &options, Progress::Silent).unwrap().bundle;
    let mut files = contents(&bundle);
    let at = files.iter().position(|(name, _)| name == "manifest.yaml").unwrap();
    let manifest = serde_yaml::from_slice(&files.remove(at).1).unwrap();
    (files, manifest)
}

/// As transformers 5 saves them.
#[test]
fn the_image_processor_may_stand_in_the_processors_file() {
    let workshop = Workshop::new();
    let before = built(&workshop, &workshop.checkpoint());
    let path = |name| workshop.checkpoint().join(name);
    let inner: Value = serde_json::from_slice(&fs::read(path("preprocessor_config.json")).unwrap()).unwrap();
    let outer = json!({"image_processor": inner, "processor_class": "OvisProcessor"});
    fs::write(path("processor_config.json"), outer.to_string()).unwrap();
    // What stands in the old place counts no more.
    workshop.edit_json("preprocessor_config.json", |config| config["image_mean"] = json!([0.1, 0.2, 0.3]));
    assert!(built(&workshop, &workshop.checkpoint()) == before);
    fs::remove_file(path("preprocessor_config.json")).unwrap();
    assert!(built(&workshop, &workshop.checkpoint()) == before);

    workshop.edit_json("processor_config.json", |config| config["image_processor"]["resample"] = json!(3));
    let error = chain(&workshop.build(Target::Portable).unwrap_err());
    assert!(error.contains("processor_config.json.resample: expected 2 (bilinear), found 3"), "{error}");
    fs::remove_file(path("processor_config.json")).unwrap();
    let error = chain(&workshop.build(Target::Portable).unwrap_err());
    assert!(error.contains("preprocessor_config.json") && error.contains("save_pretrained"), "{error}");
}

/// As `huggingface_hub` lays its cache out.
#[test]
fn links_are_followed() {
    let workshop = Workshop::new();
    let before = built(&workshop, &workshop.checkpoint());
    let (blobs, snapshot) = (workshop.path("cache/blobs"), workshop.path("cache/snapshots/0123abc"));
    for dir in [&blobs, &snapshot] {
        fs::create_dir_all(dir).unwrap();
    }
    for (index, (name, bytes)) in contents(&workshop.checkpoint()).iter().enumerate() {
        fs::write(blobs.join(index.to_string()), bytes).unwrap();
        symlink(format!("../../blobs/{index}"), snapshot.join(name)).unwrap();
    }
    assert!(built(&workshop, &snapshot) == before);
}

#[test]
fn a_family_that_is_not_known_is_named_before_weights_that_are_not_there() {
    let workshop = Workshop::new();
    fs::remove_file(workshop.checkpoint().join("model.safetensors")).unwrap();
    let build = || {
        let mut build = program();
        build.arg("build").arg(workshop.checkpoint()).arg("--out").arg(workshop.path("engines"));
        run(&mut build)
    };
    let (status, _, stderr) = build();
    assert!(status == 1 && stderr.contains("has no weights"), "{stderr}");
    workshop.edit_json("config.json", |config| config["model_type"] = json!("qwen9_vl"));
    let (status, _, stderr) = build();
    assert!(status == 1 && stderr.contains("`qwen9_vl` is not supported"), "{stderr}");
    assert!(stderr.contains("arr_coc_ovis") && !stderr.contains("has no weights"), "{stderr}");
}

/// The embedding table has no row for the placeholder: its tokens are an image's.
#[test]
fn the_placeholder_may_lie_beyond_the_vocabulary() {
    const VOCABULARY: u64 = 320;
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.edit_json("config.json", |config| config["image_token_id"] = json!(VOCABULARY));
    let error = chain(&workshop.build(Target::Portable).unwrap_err());
    assert!(error.contains("image_token_id 320"), "{error}");
    workshop.edit_json("tokenizer.json", |tokenizer| {
        let tokens = tokenizer["added_tokens"].as_array_mut().unwrap();
        for id in tokens.len() as u64 + 256..=VOCABULARY {
            let mut token = tokens[0].clone();
            token["id"] = json!(id);
            token["content"] =
                json!(if id == VOCABULARY { "<picture>".to_owned() } else { format!("<unused{id}>") });
            tokens.push(token);
        }
    });
    let template = workshop.checkpoint().join("chat_template.jinja");
    let text = fs::read_to_string(&template).unwrap().replace("<|image_pad|>", "<picture>");
    fs::write(template, text).unwrap();
    let bundle = workshop.build(Target::Portable).unwrap().bundle;
    let report = verified(&bundle);
    assert!(report.passed, "{report}");

    // Any other token needs a row.
    workshop.edit_json("config.json", |config| config["image_token_id"] = json!(261));
    let error = chain(&workshop.build(Target::Portable).unwrap_err());
    assert!(error.contains("token ids below") && error.contains("id 320"), "{error}");
}
