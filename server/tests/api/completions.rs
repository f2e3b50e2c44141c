//! Text completions.

use arrcoc_runtime::generate::{MaxTokens, Prompt};
use serde_json::{Value, json};

use crate::fake::{Fake, hello, service};

#[tokio::test]
async fn answers_in_openais_older_shape() {
    let service = service(Fake::new(hello), &[]);
    let body = json!({"model": "tiny", "prompt": ["Once"], "logprobs": 1, "echo": false, "suffix": null, "best_of": 1});
    let reply = service.post("/v1/completions", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let answer = reply.json();
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["usage"]["total_tokens"], 112);
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("Hello world"), &json!("stop")));
    assert_eq!(choice["logprobs"]["tokens"], json!(["Hello", " wor"]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 5]));
    assert_eq!(choice["logprobs"]["top_logprobs"][0], json!({"Hello": -0.5, "bytes:\\xe2\\x82": -9999.0}));
    let request = service.engine.last_request();
    assert!(matches!(request.prompt, Prompt::Text(text) if text == "Once"));
    assert_eq!((request.max_tokens, request.top_logprobs), (MaxTokens::AtMost(16), Some(1)));
}

#[tokio::test]
async fn streams() {
    let service = service(Fake::new(hello), &[]);
    let body =
        json!({"prompt": "Once", "stream": true, "logprobs": 0, "stream_options": {"include_usage": true}});
    let chunks = service.post("/v1/completions", &body).await.chunks();
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "Hello world");
    let offsets: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["logprobs"]["text_offset"][0])
        .filter(|v| !v.is_null())
        .collect();
    assert_eq!(offsets, [&json!(0), &json!(5)]);
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(112)));
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn refuses_what_it_would_get_wrong() {
    let service = service(Fake::new(hello), &[]);
    let cases = [
        (json!({"prompt": "a", "echo": 1}), "echo"),
        (json!({"prompt": "a", "suffix": "z"}), "suffix"),
        (json!({"prompt": "a", "n": 2, "best_of": 1}), "best_of"),
        (json!({"prompt": "a", "best_of": 3, "stream": true}), "best_of"),
        (json!({"prompt": ["a", 1]}), "prompt[1]"),
        (json!({"prompt": [1, "a"]}), "prompt[0]"),
        (json!({"prompt": [[1, -2]]}), "prompt[0]"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": 3}), "prompt"),
        (json!({"prompt": "a", "logprobs": 21}), "logprobs"),
        (json!({"prompt": "a", "logprobs": true}), "logprobs"),
        (json!({"prompt": "a", "max_tokens": -1}), "max_tokens"),
    ];
    for (body, param) in cases {
        let reply = service.post("/v1/completions", &body).await;
        assert_eq!(reply.error(400).0.as_deref(), Some(param), "{body}");
    }
    assert_eq!(
        service.post("/v1/completions", &json!({"prompt": "a", "model": "x"})).await.error(404).1,
        "model_not_found"
    );
}
