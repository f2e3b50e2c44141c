//! What a request gets that says nothing about sampling; and what the log says of refusals.

use std::cell::RefCell;
use std::io::Write;

use arrcoc_bundle::GenerationSpec;
use arrcoc_runtime::generate::{MaxTokens, Sampling};
use serde_json::json;

use crate::fake::{Fake, Service, hello, service};

fn with(generation: GenerationSpec) -> Service {
    service(Fake::with(|info| info.generation = generation, hello), &[])
}

#[tokio::test]
async fn the_checkpoints_defaults_hold_where_a_request_says_nothing() {
    let service = with(GenerationSpec {
        temperature: 0.75,
        top_p: 0.5,
        top_k: 20,
        min_p: 0.25,
        repetition_penalty: 1.5,
        max_new_tokens: Some(300),
        ..GenerationSpec::default()
    });
    let expected = Sampling {
        temperature: 0.75,
        top_p: 0.5,
        top_k: 20,
        min_p: 0.25,
        repetition_penalty: 1.5,
        ..Sampling::default()
    };
    for fields in [json!({}), json!({"temperature": null, "top_k": null})] {
        assert_eq!(service.chat(fields).await.status, 200);
        assert_eq!(service.engine.last_request().sampling, expected);
    }
    assert_eq!(service.engine.last_request().max_tokens, MaxTokens::AtMost(300));
    assert_eq!(service.post("/v1/completions", &json!({"prompt": "a"})).await.status, 200);
    assert_eq!(service.engine.last_request().sampling, expected);
    assert_eq!(service.engine.last_request().max_tokens, MaxTokens::AtMost(16));

    let explicit = json!({"temperature": 1, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "max_tokens": 900});
    assert_eq!(service.chat(explicit).await.status, 200);
    assert_eq!(service.engine.last_request().sampling, Sampling::default());
    assert_eq!(service.engine.last_request().max_tokens, MaxTokens::Exactly(900));

    let defaults = &service.get("/v1/models").await.json()["data"][0]["arrcoc"]["defaults"];
    assert_eq!(
        *defaults,
        json!({"budget": "auto", "temperature": 0.75, "top_p": 0.5, "top_k": 20, "min_p": 0.25, "repetition_penalty": 1.5, "max_tokens": 300})
    );
}

#[tokio::test]
async fn a_greedy_checkpoint_is_greedy_until_a_request_names_a_temperature() {
    let service = with(GenerationSpec { do_sample: false, ..GenerationSpec::default() });
    assert_eq!(service.chat(json!({})).await.status, 200);
    assert_eq!(service.engine.last_request().sampling.temperature, 0.0);
    assert_eq!(service.chat(json!({"temperature": 0.5})).await.status, 200);
    assert_eq!(service.engine.last_request().sampling.temperature, 0.5);
    let models = service.get("/v1/models").await.json();
    assert_eq!(models["data"][0]["arrcoc"]["defaults"]["temperature"], 0.0);
}

thread_local! {
    /// What this thread's requests have logged. A test has a thread of its own, and its service runs there.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_refusal_is_one_line_of_the_log_whatever_the_request_held() {
    // For the whole process: a subscriber of one thread may be missed by lines that other threads reach
    // first.
    tracing::subscriber::set_global_default(
        tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log).finish(),
    )
    .unwrap();
    let service = service(Fake::new(hello), &[]);
    let hostile = "a\n2026-01-01 ERROR forged\r\u{1b}[31m\u{9b}31m\u{2028}\u{85}\u{202e}";
    let refusals = [
        (service.chat(json!({"temperature": hostile})).await, "temperature", "invalid_value"),
        (service.chat(json!({"model": hostile})).await, "model", "model_not_found"),
        (service.chat(json!({"arrcoc": {hostile: 1}})).await, "arrcoc", "invalid_value"),
        (service.chat(json!({"tools": [hostile]})).await, "tools[0]", "invalid_value"),
        (service.chat(json!({"echo": hostile})).await, "echo", "unsupported_parameter"),
        (service.chat(json!({"messages": [{"role": hostile}]})).await, "messages[0].role", "invalid_value"),
    ];
    let text = String::from_utf8(LOGGED.take()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), refusals.len(), "{text}");
    for ((reply, param, code), line) in refusals.iter().zip(lines) {
        assert_eq!(reply.error(reply.status.as_u16()).1, *code);
        for part in
            [format!("code=\"{code}\""), format!("param=\"{param}\""), "reason=".into(), "status=4".into()]
        {
            assert!(line.contains(&part), "{part} is missing in: {line}");
        }
        assert!(
            !line.chars().any(|char| char.is_control() || matches!(char, '\u{2028}' | '\u{202e}')),
            "{line:?}"
        );
    }
}
