//! Everything that a request can get wrong.

use arrcoc_runtime::generate::GenerateError;
use axum::body::{Body, Bytes};
use axum::http::Method;
use futures::stream;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

use crate::fake::{Fake, hello, request, service};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn every_wrong_field_is_named() {
    let service = service(Fake::new(hello), &[("limits.text", "100")]);
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let cases = [
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -5}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"max_tokens": "many"}), "max_tokens"),
        (json!({"max_tokens": 99_999}), "max_tokens"),
        (json!({"max_tokens": 1_u64 << 63}), "max_tokens"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"n": 0}), "n"),
        (json!({"n": 9}), "n"),
        (json!({"temperature": -0.1}), "temperature"),
        (json!({"temperature": 2.1}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
        (json!({"frequency_penalty": -3}), "frequency_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"seed": "x"}), "seed"),
        (json!({"stop": 3}), "stop"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": ["a", 3]}), "stop[1]"),
        (json!({"stop": vec!["a"; 17]}), "stop"),
        (json!({"logprobs": 3}), "logprobs"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": -1}), "top_logprobs"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"arrcoc": {"budget": "lots"}}), "arrcoc.budget"),
        (json!({"arrcoc": {"budget": 0}}), "arrcoc.budget"),
        (json!({"arrcoc": {"budget": 64.5}}), "arrcoc.budget"),
        (json!({"arrcoc": {"explain": 1}}), "arrcoc.explain"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "Hi"}), "messages"),
        (json!({"messages": ["Hi"]}), "messages[0]"),
        (json!({"messages": [{"role": "king", "content": "Hi"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "tools", "content": "Hi"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": user(json!(null))}), "messages[0].content"),
        (json!({"messages": user(json!(3))}), "messages[0].content"),
        (json!({"messages": user(json!("a".repeat(101)))}), "messages"),
        (json!({"messages": user(json!([{"text": "a"}]))}), "messages[0].content[0].type"),
        (json!({"messages": user(json!([{"type": "text"}]))}), "messages[0].content[0].text"),
        (json!({"messages": user(json!([{"type": "text", "text": 3}]))}), "messages[0].content[0].text"),
        (json!({"messages": user(json!([{"type": "image_url"}]))}), "messages[0].content[0].image_url"),
        (json!({"messages": user(json!([{"type": "smell"}]))}), "messages[0].content[0].type"),
        (json!({"messages": user(json!([{"type": "input_audio"}]))}), "messages[0].content[0]"),
    ];
    for (fields, param) in cases {
        let reply = service.chat(fields.clone()).await;
        assert_eq!(reply.error(400).0.as_deref(), Some(param), "{fields} {}", reply.text);
    }
    let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}}]);
    let reply = service.chat(json!({"messages": [{"role": "system", "content": image}]})).await;
    assert_eq!(reply.error(400).0.as_deref(), Some("messages[0].content"));
    assert!(service.engine.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unsupported_fields_are_refused_by_name() {
    let service = service(Fake::new(hello), &[]);
    for (name, value) in [
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({"voice": "x"})),
        ("web_search_options", json!({"x": 1})),
    ] {
        let mut fields = json!({});
        fields[name] = value;
        let (param, code) = service.chat(fields).await.error(400);
        assert_eq!((param.as_deref(), code.as_str()), (Some(name), "unsupported_parameter"));
    }
}

#[tokio::test]
async fn bodies_that_are_no_requests() {
    let service = service(Fake::new(hello), &[]);
    for (body, code) in [
        ("", "empty_body"),
        (" \n", "empty_body"),
        ("{", "invalid_json"),
        ("{\"messages\": [}", "invalid_json"),
        ("[]", "invalid_json"),
        ("null", "invalid_json"),
        ("{\"messages\": []} x", "invalid_json"),
        ("\u{0}", "invalid_json"),
        ("[\"tiny\", [{\"role\": \"user\", \"content\": \"Hi\"}]]", "invalid_json"),
    ] {
        assert_eq!(service.post_text(CHAT, body).await.error(400).1, code, "{body}");
    }
    let deep = format!("{{\"x\": {}", "[".repeat(100_000));
    assert_eq!(service.post_text(CHAT, deep).await.error(400).1, "invalid_json");
    let reply = service.post_text(CHAT, vec![0xff, 0xfe]).await;
    assert_eq!(reply.error(400).1, "invalid_json");
}

#[tokio::test]
async fn media_type_method_and_route() {
    let service = service(Fake::new(hello), &[]);
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]}).to_string();
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = request(Method::POST, CHAT);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let reply = service.send(request.body(Body::from(body.clone())).unwrap()).await;
        assert_eq!(reply.error(415).1, "unsupported_media_type");
    }
    let charset = request(Method::POST, CHAT).header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(service.send(charset.body(Body::from(body)).unwrap()).await.status, 200);

    let reply = service.get(CHAT).await;
    assert_eq!(reply.error(405).1, "method_not_allowed");
    assert_eq!(reply.headers["allow"], "POST");
    assert_eq!(service.get("/v1/nothing").await.error(404).1, "unknown_route");
    assert_eq!(
        service.chat(json!({"model": "gpt-4o"})).await.error(404),
        (Some("model".into()), "model_not_found".into())
    );
}

#[tokio::test]
async fn large_bodies_are_413_whether_announced_or_not() {
    let service = service(Fake::new(hello), &[("limits.body", "1KiB")]);
    assert_eq!(service.post_text(CHAT, vec![b' '; 1025]).await.error(413).1, "body_too_large");
    let chunks = (0..100).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1000])));
    assert_eq!(
        service.post_text(CHAT, Body::from_stream(stream::iter(chunks))).await.error(413).1,
        "body_too_large"
    );
    assert_eq!(service.post_text(CHAT, vec![b' '; 1024]).await.error(400).1, "empty_body");
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn compressed_bodies_are_decoded_within_the_limit() {
    let service = service(Fake::new(hello), &[("limits.body", "1MiB")]);
    let body = crate::fake::chat_body(json!({}));
    let padded = format!("{}{body}", " ".repeat(700_000));
    let zlib = {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(padded.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let whole = gzip(padded.as_bytes());
    let two = [gzip(&padded.as_bytes()[..1000]), gzip(&padded.as_bytes()[1000..])].concat();
    let cut = whole[..whole.len() - 5].to_vec();
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    let cases = [
        ("gzip", whole.clone(), 200, None),
        ("X-GZIP", two, 200, None),
        ("deflate", zlib, 200, None),
        ("identity", padded.clone().into_bytes(), 200, None),
        ("gzip", bomb, 413, Some("body_too_large")),
        ("gzip", cut, 400, Some("body_undecodable")),
        ("gzip", padded.clone().into_bytes(), 400, Some("body_undecodable")),
        ("br", whole.clone(), 415, Some("unsupported_content_encoding")),
        ("gzip, gzip", whole, 415, Some("unsupported_content_encoding")),
    ];
    for (coding, body, status, code) in cases {
        for piece in [body.len().max(1), 1000] {
            let pieces: Vec<_> = body
                .chunks(piece)
                .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
                .collect();
            let request = request(Method::POST, CHAT).header("content-type", "application/json");
            let request = request.header("content-encoding", coding);
            let reply = service.send(request.body(Body::from_stream(stream::iter(pieces))).unwrap()).await;
            assert_eq!(reply.status, status, "{coding}: {}", reply.text);
            if let Some(code) = code {
                assert_eq!(reply.error(status).1, code);
            }
            if status == 415 {
                assert!(reply.text.contains("Content-Encoding"), "{}", reply.text);
                assert_eq!(reply.headers["accept-encoding"], "gzip, deflate");
            }
        }
    }
}

#[tokio::test]
async fn a_full_queue_says_what_the_engine_measured() {
    let service = service(Fake::new(hello), &[("limits.queue", "4")]);
    service.engine.waiting.store(4, std::sync::atomic::Ordering::SeqCst);
    *service.engine.retry_after.lock().unwrap() = Duration::from_millis(23_400);
    let reply = service.chat(json!({})).await;
    assert_eq!(reply.error(429).1, "queue_full");
    assert_eq!(reply.headers["retry-after"], "24");
}

#[tokio::test]
async fn bodies_that_stop_half_way() {
    let service = service(Fake::new(hello), &[("timeouts.body", "50ms")]);
    let stuck = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    assert_eq!(service.post_text(CHAT, stuck).await.error(408).1, "body_timeout");
    let broken = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("gone"))]);
    assert_eq!(service.post_text(CHAT, Body::from_stream(broken)).await.error(400).1, "body_unreadable");
}

#[tokio::test]
async fn the_engines_refusals_have_their_status() {
    let service = service(Fake::new(hello), &[]);
    let cases = [
        (GenerateError::Invalid { field: "arrcoc.budget", message: "no such tier".into() }, 400, None),
        (GenerateError::QueueFull { waiting: 64, retry_after: Duration::from_secs(3) }, 429, Some("3")),
        (GenerateError::Draining, 503, Some("5")),
        (GenerateError::Internal("x".into()), 500, None),
    ];
    for (error, status, retry_after) in cases {
        *service.engine.refuse.lock().unwrap() = Some(error);
        let reply = service.chat(json!({})).await;
        reply.error(status);
        assert_eq!(reply.headers.get("retry-after").map(|value| value.to_str().unwrap()), retry_after);
    }
    *service.engine.refuse.lock().unwrap() = None;
    assert_eq!(service.chat(json!({})).await.status, 200);
    assert_eq!(service.app.in_flight(), 0);
}
