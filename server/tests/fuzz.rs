//! Request bodies and data URIs, mutated, through the whole service with an engine that plays a script: each
//! is answered or refused in words that can be shown, and never as if the server were at fault.

#![allow(clippy::unwrap_used, missing_docs, dead_code, unreachable_pub)]

#[path = "api/fake.rs"]
mod fake;

use arrcoc_server::media::data_uri;
use arrcoc_tests::allocated::{Counting, most_of};
use arrcoc_tests::fuzz::{Mutator, assert_presentable, cases};
use fake::{Fake, hello, service};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory that a request of a few kilobytes may take on the thread that reads it.
const MEMORY: usize = 8 << 20;

fn chats() -> Vec<Value> {
    let picture = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}});
    vec![
        json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}),
        json!({
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [picture, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": null},
                {"role": "user", "content": ""},
            ],
            "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 5,
        }),
        json!({
            "messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "y"}]}],
            "n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": 7, "stop": ["a", "b"],
            "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "logprobs": true, "top_logprobs": 3,
            "max_completion_tokens": 9, "arrcoc": {"budget": 64, "explain": true}, "user": "me", "metadata": {"a": "b"},
        }),
        json!({
            "messages": [{"role": "user", "content": "x", "name": "n"}], "tools": [], "tool_choice": "none",
            "response_format": {"type": "text"}, "logit_bias": {}, "modalities": ["text"], "stop": "z", "seed": -1,
            "ignore_eos": false, "min_tokens": 0, "stop_token_ids": [1], "arrcoc": {"budget": "auto"},
        }),
    ]
}

fn completions() -> Vec<Value> {
    vec![
        json!({"prompt": "Once", "max_tokens": 4, "temperature": 0}),
        json!({"prompt": ["Once"], "n": 2, "best_of": 2, "logprobs": 2, "echo": false, "suffix": "", "stream": true}),
        json!({"model": "tiny", "prompt": [1, 2, 3], "stop": ["x"], "logit_bias": null, "seed": 3}),
    ]
}

/// A body, sometimes damaged behind its structure's back.
fn body(mutator: &mut Mutator, sound: &[Value]) -> Vec<u8> {
    let sound = mutator.pick(sound).clone();
    let body = mutator.json(&sound).to_string().into_bytes();
    let words: [&[u8]; 9] = [
        b"{",
        b"]",
        b"null",
        b"1e999",
        b"\xff\xfe",
        b"\\ud800",
        b"\\u0000",
        b"99999999999999999999",
        b"\"n\":1,",
    ];
    if mutator.once_in(4) { mutator.bytes(&body, &words) } else { body }
}

fn bodies(path: &str, sound: &[Value]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let service = service(Fake::new(hello), &[]);
    let (mut answered, mut refused) = (0, 0);
    cases(path, |mutator| {
        let body = body(mutator, sound);
        let (reply, memory) = most_of(|| runtime.block_on(service.post_text(path, body)));
        service.engine.requests.lock().unwrap().clear();
        assert!(memory <= MEMORY, "{memory} bytes");
        match reply.status.as_u16() {
            200 => answered += 1,
            400 | 404 | 413 | 415 | 422 => {
                refused += 1;
                assert!(reply.text.len() <= 4096, "{} bytes of error", reply.text.len());
                let error = reply.json()["error"].clone();
                assert_presentable(error["message"].as_str().unwrap());
                error["param"].as_str().into_iter().for_each(assert_presentable);
            }
            status => panic!("{status}: {}", reply.text),
        }
    });
    if std::env::var("ARRCOC_FUZZ_CASE").is_err() {
        assert!(
            answered > 0 && refused > 0,
            "{answered} answered, {refused} refused: one of them was not tested"
        );
    }
}

#[test]
fn chat_bodies() {
    bodies("/v1/chat/completions", &chats());
}

#[test]
fn completion_bodies() {
    bodies("/v1/completions", &completions());
}

#[test]
fn data_uris() {
    const LIMIT: usize = 64;
    let sound =
        "data:image/png;charset=x;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk";
    let words =
        ["data:", "image/", ";base64", ",", ";", "=", "==", "%3D", "\n", "é", "\u{1b}[31m", "DATA:", "AAAA"];
    cases("data URIs", |mutator| {
        let mut uri = mutator.text(sound, &words);
        if mutator.once_in(50) {
            uri = uri.replacen("png", &"\u{1b}é".repeat(mutator.below(5000)), 1);
        }
        if !data_uri::is_data_uri(&uri) {
            return;
        }
        let (result, memory) = most_of(|| data_uri::decode(&uri, LIMIT));
        assert!(memory <= 1024 + 4 * uri.len(), "{memory} bytes for {}", uri.len());
        match result {
            Ok(bytes) => assert!(bytes.len() <= LIMIT, "{} bytes", bytes.len()),
            Err(error) => assert_presentable(&error.to_string()),
        }
    });
}
