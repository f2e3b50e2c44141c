//! Bodies that cost more than they say: nothing is built of them, and nothing of them is repeated.

use serde_json::{Value, json};

use crate::fake::{Fake, hello, service};

const CHAT: &str = "/v1/chat/completions";

/// A chat with this in place of a field, as text: a million values are no tree here either.
fn chat_with(field: &str, value: &str) -> String {
    format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}],\"{field}\":{value}}}")
}

fn list_of(item: &str, count: usize) -> String {
    format!("[{}{item}]", format!("{item},").repeat(count - 1))
}

#[tokio::test]
async fn more_json_than_allowed_is_refused_whatever_it_is_made_of() {
    let service = service(Fake::new(hello), &[("limits.json", "64KiB")]);
    for value in [
        list_of("{\"\":0}", 20_000),
        list_of("0", 40_000),
        list_of("\"\"", 30_000),
        list_of("[]", 30_000),
        format!("{{{}\"z\":0}}", "\"k\":0,".repeat(20_000)),
        format!("{{\"{}\":0}}", "k".repeat(100_000)),
        list_of(&format!("\"{}\"", "x".repeat(1000)), 100),
        " ".repeat(70_000) + "0",
    ] {
        for field in ["tools", "logit_bias", "something_new", "messages", "prompt"] {
            let reply = service.post_text(CHAT, format!("{{\"{field}\":{value}}}")).await;
            assert_eq!(reply.error(413).1, "json_too_large", "{field}");
            assert!(reply.text.contains("limits.json"), "{}", reply.text);
        }
    }
    // Long strings count as what they are: text or images.
    let image = "A".repeat(400_000);
    let part = format!("[{{\"type\":\"image_url\",\"image_url\":\"data:image/png;base64,{image}\"}}]");
    let body = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":{part}}}]}}");
    assert_eq!(service.post_text(CHAT, body).await.status, 200);
}

#[tokio::test]
async fn messages_parts_fields_and_items_are_bounded() {
    let settings = [("limits.messages", "3"), ("limits.parts", "4"), ("limits.json", "32MiB")];
    let service = service(Fake::new(hello), &settings);
    let with = |messages: String| service.post_text(CHAT, format!("{{\"messages\":{messages}}}"));
    let message = "{\"role\":\"user\",\"content\":\"a\"}";
    assert_eq!(with(list_of(message, 3)).await.status, 200);
    let empty_parts = format!("[{{\"role\":\"user\",\"content\":{}}}]", list_of("{}", 1_000_000));
    let parts = |count| {
        let parts = list_of("{\"type\":\"text\",\"text\":\"a\"}", count);
        format!("{{\"role\":\"user\",\"content\":{parts}}}")
    };
    assert_eq!(with(format!("[{}]", parts(4))).await.status, 200);
    for (messages, param, limit) in [
        (list_of(message, 4), "messages", "limits.messages"),
        (list_of("{}", 1_000_000), "messages", "limits.messages"),
        (empty_parts, "messages[0].content", "limits.parts"),
        (format!("[{},{}]", parts(2), parts(3)), "messages", "limits.parts"),
    ] {
        let reply = with(messages).await;
        assert_eq!(reply.error(400).0.as_deref(), Some(param));
        assert!(reply.text.contains(limit), "{}", reply.text);
    }
    let many = |name: &str| {
        format!("{{{}\"z\":0}}", (0..300).map(|n| format!("\"{n}\":0,")).collect::<String>() + name)
    };
    assert_eq!(service.post_text(CHAT, many("")).await.error(400).1, "invalid_json");
    let reply = service.post_text(CHAT, chat_with("arrcoc", &many(""))).await;
    assert_eq!(reply.error(400).0.as_deref(), Some("arrcoc"));
    for (field, item) in [("stop", "\"a\""), ("stop_token_ids", "1")] {
        let reply = service.post_text(CHAT, chat_with(field, &list_of(item, 100_000))).await;
        assert_eq!(reply.error(400).0.as_deref(), Some(field));
    }
}

#[tokio::test]
async fn nesting_is_bounded_where_values_are_skipped_too() {
    let service = service(Fake::new(hello), &[]);
    for field in ["tools", "something_new", "messages"] {
        for (open, close) in [("[", "]"), ("{\"\":", "}")] {
            let deep = format!("{}0{}", open.repeat(200), close.repeat(200));
            assert_eq!(service.post_text(CHAT, chat_with(field, &deep)).await.error(400).1, "invalid_json");
        }
    }
    let deep = format!("{}0{}", "[".repeat(100), "]".repeat(100));
    assert_eq!(service.post_text(CHAT, chat_with("something_new", &deep)).await.status, 200);
}

#[tokio::test]
async fn a_field_that_is_there_twice_is_refused() {
    let service = service(Fake::new(hello), &[]);
    let twice = "{\"messages\":[],\"temperature\":0,\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}";
    let reply = service.post_text(CHAT, twice).await;
    assert_eq!(reply.error(400).1, "invalid_json");
    assert!(reply.text.contains("messages"), "{}", reply.text);
    let inside = chat_with("arrcoc", "{\"budget\":64,\"budget\":400}");
    assert_eq!(service.post_text(CHAT, inside).await.error(400).0.as_deref(), Some("arrcoc"));
}

/// Image files are counted until the engine has dropped them, so that many large requests at once are refused
/// rather than held.
#[tokio::test]
async fn files_that_wait_for_the_engine_are_counted() {
    const BUDGET: usize = 8 << 20;
    let engine = Fake::new(hello);
    let service = service(engine.clone(), &[("limits.body", "1MiB")]);
    let image = format!("data:image/png;base64,{}", "A".repeat(1_000_000));
    let content = json!([{"type": "image_url", "image_url": {"url": image}}]);
    let fields = json!({"messages": [{"role": "user", "content": content}]});
    let replies = futures::future::join_all((0..32).map(|_| service.chat(fields.clone()))).await;
    let held = engine.requests.lock().unwrap().len();
    assert!((4..=BUDGET / 750_000).contains(&held), "{held} requests are held");
    for reply in &replies {
        if reply.status != 200 {
            assert_eq!(reply.error(503).1, "no_body_memory");
            assert!(reply.headers.contains_key("retry-after"));
        }
    }
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), held);
    assert_eq!(service.chat(json!({})).await.status, 200, "small questions go on");
    engine.requests.lock().unwrap().clear();
    assert_eq!(service.chat(fields).await.status, 200);
}

/// Words of serde and of Rust, which are no help to who speaks HTTP.
const TYPES: [&str; 13] = [
    "struct", "enum ", "variant", "i64", "u64", "f64", "Option", "sequence", "borrowed", "unit", "newtype",
    "Raw", "serde",
];

#[tokio::test]
async fn errors_repeat_little_and_name_no_types() {
    let service = service(Fake::new(hello), &[]);
    let long = "x".repeat(1 << 20);
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let url = |url: Value| user(json!([{"type": "image_url", "image_url": url}]));
    let wrong = |found: Value| {
        let mut all = Vec::new();
        for field in [
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "min_tokens",
            "ignore_eos",
            "stop_token_ids",
            "n",
            "seed",
            "max_tokens",
            "max_completion_tokens",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "logprobs",
            "top_logprobs",
            "stream",
            "arrcoc",
            "tools",
            "tool_choice",
            "response_format",
            "modalities",
            "messages",
            "guided_json",
            "suffix",
        ] {
            all.push(json!({field: found}));
        }
        all.push(json!({"arrcoc": {"budget": found}}));
        all.push(json!({"arrcoc": {"explain": found}}));
        all.push(json!({"stop": [found]}));
        // Unknown fields of an object are ignored here.
        if !found.is_object() {
            all.push(json!({"stream": true, "stream_options": found}));
        }
        all.push(json!({"messages": [found]}));
        all.push(json!({"messages": [{"role": found, "content": "a"}]}));
        all.push(json!({"messages": user(json!([found]))}));
        all.push(json!({"messages": user(json!([{"type": found}]))}));
        all.push(json!({"messages": url(json!({"url": found}))}));
        all.push(json!({"messages": url(json!({"url": "data:image/png;base64,AAEC", "detail": found}))}));
        all
    };
    let mut bodies = wrong(json!(long));
    bodies.extend(wrong(json!({"a": [long]})));
    bodies.extend(wrong(json!([[long], 1, {"x": 2}])));
    bodies.push(json!({"messages": url(json!(format!("data:{long},AAAA")))}));
    bodies.push(json!({"messages": url(json!(format!("data:image/png;{long},AAAA")))}));
    bodies.push(json!({"messages": url(json!(long))}));
    bodies.push(json!({"stop": long}));
    bodies.push(json!({"model": long}));
    bodies.push(json!({"arrcoc": {long.clone(): 1}}));
    bodies.push(json!({"n": -1e300, "stream": null}));
    for fields in bodies {
        let name = fields.to_string().chars().take(80).collect::<String>();
        let reply = service.chat(fields).await;
        assert!((400..414).contains(&reply.status.as_u16()), "{name}: {}", reply.status);
        assert!(reply.text.len() < 1000, "{name}: {} bytes", reply.text.len());
        let longest = reply.text.split(|char| char != 'x').map(str::len).max().unwrap();
        assert!(longest <= 200, "{name}: {longest} of {}", reply.text);
        for word in TYPES {
            assert!(!reply.text.contains(word), "{name} names {word}: {}", reply.text);
        }
    }
}

#[tokio::test]
async fn what_a_client_says_in_its_head_is_cut_too() {
    let service = service(Fake::new(hello), &[]);
    let long = "x".repeat(4000);
    let path = service.get(&format!("/{long}")).await;
    path.error(404);
    let model = service.get(&format!("/v1/models/{long}%0a%1b%5b31m")).await;
    model.error(404);
    let request = |name: &str, value: &str, path: &str| {
        crate::fake::request(axum::http::Method::POST, path)
            .header(name, value)
            .body(axum::body::Body::empty())
            .unwrap()
    };
    let kind = service.send(request("content-type", &long, CHAT)).await;
    kind.error(415);
    let method = axum::http::Method::from_bytes(&long.as_bytes()[..100]).unwrap();
    let method =
        service.send(crate::fake::request(method, CHAT).body(axum::body::Body::empty()).unwrap()).await;
    method.error(405);
    for reply in [path, model, kind, method] {
        assert!(reply.text.len() < 600 && !reply.text.contains('\u{1b}'), "{}", reply.text);
    }
}
