//! What is accepted can be served: tokenizer and chat template are tried when a bundle is built.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use arrcoc_bundle::Bundle;
use arrcoc_bundle::Target;
use arrcoc_export::inspect;
use arrcoc_runtime::prompt::Prompter;
use common::{Workshop, chain};
use serde_json::{Value, json};

const TEMPLATE: &str = "chat_template.jinja";

/// Builds a checkpoint whose template was changed.
fn with_template(change: impl FnOnce(String) -> String) -> Result<(), String> {
    let workshop = Workshop::new();
    let path = workshop.checkpoint().join(TEMPLATE);
    let template = change(fs::read_to_string(&path).unwrap());
    fs::write(&path, template).unwrap();
    outcome(&workshop)
}

/// Builds; what is built must load as the server loads it, and what is not, `inspect` must have known.
fn outcome(workshop: &Workshop) -> Result<(), String> {
    let inspect::Report::Checkpoint(report) = inspect::inspect(&workshop.checkpoint(), false).unwrap() else {
        panic!("expected a checkpoint");
    };
    let built = workshop.build(Target::Portable).map_err(|error| chain(&error));
    assert_eq!(report.problem.is_some(), built.is_err(), "{:?} and {:?}", report.problem, built);
    let bundle = Bundle::open(&built?.bundle).unwrap();
    Prompter::load(&bundle).map(|_| ()).map_err(|error| panic!("built, and does not load: {error}"))
}

#[test]
fn templates_that_work_in_transformers_are_built() {
    with_template(|template| format!("{{{{- strftime_now('%Y') }}}}{template}")).unwrap();
    with_template(|template| template.replace("message.role }}", "message.role.capitalize() }}")).unwrap();
    with_template(|template| template.replace('\n', "\r\n")).unwrap();
    with_template(|template| format!("{{% generation %}}{{{{ 'x' }}}}{{% endgeneration %}}{template}"))
        .unwrap();
}

#[test]
fn templates_that_can_never_work_are_refused_with_their_file() {
    for (refused, reason) in [
        (with_template(|_| String::new()), "not in the prompt"),
        (
            with_template(|template| template.replace("<|image_pad|>", "<image>")),
            "0 image places for 1 images",
        ),
        (with_template(|template| format!("{template}{{{{ 'x'.casefold() }}}}")), "`casefold`"),
        (with_template(|template| template + "{% if x %}"), "endif"),
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.contains(TEMPLATE) && refused.contains(reason), "{refused}");
    }
}

#[test]
fn templates_in_older_places_are_found() {
    for (file, key) in [("chat_template.json", "chat_template"), ("processor_config.json", "chat_template")] {
        let workshop = Workshop::new();
        let path = workshop.checkpoint().join(TEMPLATE);
        let template = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(workshop.checkpoint().join(file), json!({key: template}).to_string()).unwrap();
        outcome(&workshop).unwrap();
    }
}

#[test]
fn tokens_of_the_special_tokens_map_are_taken() {
    let workshop = Workshop::new();
    workshop.edit_json("tokenizer_config.json", |config| {
        config.as_object_mut().unwrap().retain(|key, _| !key.ends_with("_token"));
    });
    let map = json!({"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>", "lstrip": false}});
    fs::write(workshop.checkpoint().join("special_tokens_map.json"), map.to_string()).unwrap();
    outcome(&workshop).unwrap();
    let config = fs::read(workshop.path("engines/tiny/fp32-portable/tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["bos_token"], "<|endoftext|>");
    assert_eq!(config["eos_token"]["content"], "<|im_end|>");
}

#[test]
fn tokenizers_are_read_or_refused() {
    let workshop = Workshop::new();
    workshop.edit_json("tokenizer.json", |tokenizer| tokenizer["added_tokens"][0]["lstrip"] = json!(true));
    outcome(&workshop).unwrap();
    workshop.edit_json("tokenizer.json", |tokenizer| {
        tokenizer["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    });
    let refused = outcome(&workshop).unwrap_err();
    assert!(refused.contains("tokenizer.json") && refused.contains("WordPiece"), "{refused}");
}
