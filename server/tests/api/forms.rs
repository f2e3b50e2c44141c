//! The form of the answer: what clients of OpenAI and of vLLM say reaches the engine, and slips are refused
//! by name.

use arrcoc_runtime::generate::{Form, JsonStyle, WhiteSpace};
use serde_json::{Value, json};

use crate::fake::{Fake, Service, hello, service};

fn schema() -> Value {
    json!({"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}, "required": ["a"]})
}

fn json_form(style: JsonStyle) -> Form {
    Form::Json { schema: schema(), style }
}

/// What the engine was asked for, by a chat and by a text.
async fn forms(service: &Service, fields: Value) -> [Option<Form>; 2] {
    let reply = service.chat(fields.clone()).await;
    assert_eq!(reply.status, 200, "{fields}: {}", reply.text);
    let chat = service.engine.last_request().form;
    let mut text = fields;
    text["prompt"] = "once".into();
    let reply = service.post("/v1/completions", &text).await;
    assert_eq!(reply.status, 200, "{text}: {}", reply.text);
    [chat, service.engine.last_request().form]
}

#[tokio::test]
async fn forms_reach_the_engine() {
    let service = service(Fake::new(hello), &[]);
    let plain = json_form(JsonStyle::default());
    let style = |white_space, closed| json_form(JsonStyle { white_space, closed });
    let named = json!({"name": "x", "description": "d", "strict": true, "schema": schema()});
    for (fields, expected) in [
        (json!({}), None),
        (json!({"response_format": null}), None),
        (json!({"response_format": {"type": "text"}}), None),
        (json!({"response_format": {"type": "json_object"}}), Some(Form::json_object())),
        (json!({"response_format": {"type": "json_object", "schema": schema()}}), Some(plain.clone())),
        (json!({"response_format": {"type": "json_schema", "json_schema": named}}), Some(plain.clone())),
        (json!({"response_format": {"type": "text"}, "guided_json": schema()}), Some(plain.clone())),
        (json!({"guided_json": schema().to_string()}), Some(plain.clone())),
        (
            json!({"guided_json": schema(), "guided_whitespace_pattern": " ?"}),
            Some(style(WhiteSpace::Pattern(" ?".into()), false)),
        ),
        (json!({"guided_regex": "[0-9]+"}), Some(Form::Regex("[0-9]+".into()))),
        (json!({"guided_choice": ["yes", "no"]}), Some(Form::Choice(vec!["yes".into(), "no".into()]))),
        (json!({"guided_grammar": "root ::= \"a\""}), Some(Form::Grammar("root ::= \"a\"".into()))),
        (json!({"structured_outputs": {"json": schema()}}), Some(plain)),
        (
            json!({"structured_outputs": {"json": schema(), "disable_any_whitespace": true, "disable_additional_properties": true}}),
            Some(style(WhiteSpace::None, true)),
        ),
        (
            json!({"structured_outputs": {"regex": "a", "choice": null, "disable_fallback": true}}),
            Some(Form::Regex("a".into())),
        ),
        (json!({"structured_outputs": {"choice": ["a"]}}), Some(Form::Choice(vec!["a".into()]))),
        (
            json!({"structured_outputs": {"grammar": "start: \"a\""}}),
            Some(Form::Grammar("start: \"a\"".into())),
        ),
        (json!({"structured_outputs": {"json_object": true}}), Some(Form::json_object())),
    ] {
        assert_eq!(forms(&service, fields.clone()).await, [expected.clone(), expected], "{fields}");
    }
    // The order of names is the order of the answer.
    let fields = json!({"guided_json": schema()});
    let [Some(Form::Json { schema, .. }), _] = forms(&service, fields).await else { panic!("no schema") };
    assert_eq!(schema["properties"].as_object().unwrap().keys().collect::<Vec<_>>(), ["b", "a"]);
}

#[tokio::test]
async fn slips_are_refused_by_name() {
    let service = service(Fake::new(hello), &[]);
    let long = "x".repeat(300 << 10);
    for (fields, param) in [
        (json!({"response_format": "json_object"}), "response_format"),
        (json!({"response_format": {}}), "response_format"),
        (json!({"response_format": {"type": "xml"}}), "response_format"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}}),
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": "yes"}}}),
            "response_format.json_schema.strict",
        ),
        (json!({"guided_json": 7}), "guided_json"),
        (json!({"guided_json": "{"}), "guided_json"),
        (json!({"guided_json": {"title": long}}), "guided_json"),
        (json!({"guided_regex": ["a"]}), "guided_regex"),
        (json!({"guided_choice": "a"}), "guided_choice"),
        (json!({"guided_choice": ["a", 1]}), "guided_choice[1]"),
        (json!({"guided_regex": "a", "guided_grammar": "b"}), "guided_grammar"),
        (json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}), "guided_regex"),
        (json!({"structured_outputs": {"json": {}, "regex": "a"}}), "structured_outputs.regex"),
        (json!({"structured_outputs": {"regexp": "a"}}), "structured_outputs"),
        (json!({"structured_outputs": {"structural_tag": "{}"}}), "structured_outputs.structural_tag"),
    ] {
        let reply = service.chat(fields.clone()).await;
        assert_eq!(reply.error(400).0.as_deref(), Some(param), "{fields} {}", reply.text);
        assert!(reply.text.len() < 1000, "{}", reply.text);
    }
    assert!(service.engine.requests.lock().unwrap().is_empty());
}
