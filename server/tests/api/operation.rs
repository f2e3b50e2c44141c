//! Probes, models, keys, the OpenAPI document, draining.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fake::{Fake, Reply, Service, hello, loading, request, service};

#[tokio::test]
async fn alive_while_loading_ready_afterwards() {
    let service = loading(Fake::new(hello), &[("auth.admin_keys", "admin-key-1")]);
    assert_eq!(service.get("/health").await.status, 200);
    let reply = service.get("/ready").await;
    assert_eq!(reply.error(503).1, "loading");
    assert_eq!(reply.headers["retry-after"], "5");
    assert_eq!(service.chat(json!({})).await.error(503).1, "loading");
    assert_eq!(service.get("/v1/models").await.json()["data"], json!([]));
    assert_eq!(service.get("/v1/models/tiny").await.error(503).1, "loading");
    assert_eq!(service.get("/metrics").await.status, 200);
    let engines = with_key(&service, "/admin/engines", "admin-key-1").await.json();
    assert_eq!(engines["data"][0]["state"], "loading");

    service.install();
    assert_eq!(service.get("/ready").await.json(), json!({"status": "ready"}));
    assert_eq!(service.chat(json!({})).await.status, 200);
}

#[tokio::test]
async fn draining_refuses_new_requests_and_stays_alive() {
    let service = service(Fake::new(hello), &[]);
    service.app.drain();
    assert_eq!(service.get("/health").await.status, 200);
    for reply in [service.get("/ready").await, service.chat(json!({})).await] {
        assert_eq!(reply.error(503).1, "draining");
        assert!(reply.headers.contains_key("retry-after"));
    }
    assert!(service.engine.draining.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn an_engine_that_arrives_while_draining_is_drained() {
    let service = loading(Fake::new(hello), &[]);
    service.app.drain();
    service.install();
    assert!(service.engine.draining.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn a_dead_engine_fails_both_probes() {
    let service = service(Fake::new(hello), &[]);
    service.engine.sick.store(true, std::sync::atomic::Ordering::SeqCst);
    service.get("/health").await.error(500);
    service.get("/ready").await.error(500);
}

#[tokio::test]
async fn models_are_listed_under_the_name_that_the_operator_chose() {
    let service = service(Fake::new(hello), &[("model_name", "org/name")]);
    let list = service.get("/v1/models").await.json();
    assert_eq!(list["data"][0]["id"], "org/name");
    assert_eq!(list["data"][0]["max_model_len"], 2048);
    let one = service.get("/v1/models/org/name").await.json();
    assert_eq!(one, list["data"][0]);
    assert_eq!(service.get("/v1/models/tiny").await.error(404).1, "model_not_found");
    assert_eq!(service.chat(json!({"model": "org/name"})).await.json()["model"], "org/name");
}

#[tokio::test]
async fn admin_engines() {
    let service = service(Fake::new(hello), &[("auth.admin_keys", "admin-key-1")]);
    let engine = &with_key(&service, "/admin/engines", "admin-key-1").await.json()["data"][0];
    assert_eq!((&engine["model"], &engine["state"]), (&json!("tiny"), &json!("ready")));
    assert_eq!(engine["memory"], json!({"weight_bytes": 1000, "kv_bytes": 2000}));
    assert_eq!(engine["load"], json!({"running": 1, "waiting": 0, "kv_usage": 0.25}));
}

async fn with_key(service: &Service, path: &str, key: &str) -> Reply {
    let request = request(Method::GET, path).header("authorization", format!("Bearer {key}"));
    service.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn keys_open_what_they_should_and_nothing_else() {
    let settings = [("auth.api_keys", "user-key-1,user-key-2"), ("auth.admin_keys", "admin-key-1")];
    let service = service(Fake::new(hello), &settings);
    for path in ["/v1/models", "/v1/models/tiny", "/admin/engines"] {
        let reply = service.get(path).await;
        assert_eq!(reply.error(401).1, "invalid_api_key", "{path}");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        with_key(&service, path, "user-key-3").await.error(401);
        with_key(&service, path, "").await.error(401);
    }
    for path in ["/v1/chat/completions", "/v1/completions"] {
        // Without a key nothing of the request is looked at.
        service.post_text(path, "nonsense").await.error(401);
    }
    assert_eq!(with_key(&service, "/v1/models", "user-key-2").await.status, 200);
    assert_eq!(with_key(&service, "/admin/engines", "admin-key-1").await.status, 200);
    with_key(&service, "/v1/models", "admin-key-1").await.error(401);
    with_key(&service, "/admin/engines", "user-key-1").await.error(401);
    let basic = request(Method::GET, "/v1/models").header("authorization", "Basic user-key-1");
    service.send(basic.body(Body::empty()).unwrap()).await.error(401);
    for path in ["/health", "/ready", "/metrics", "/openapi.json"] {
        assert_eq!(service.get(path).await.status, 200, "{path}");
    }
}

/// What the document says of an endpoint's key is what the endpoint asks for.
#[tokio::test]
async fn every_endpoint_is_as_closed_as_the_document_says() {
    let settings = [("auth.api_keys", "user-key-1"), ("auth.admin_keys", "admin-key-1")];
    let service = service(Fake::new(hello), &settings);
    let document = service.get("/openapi.json").await.json();
    let mut closed = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let sent = request(method, &path.replace("{id}", "tiny")).body(Body::empty()).unwrap();
            let refused = service.send(sent).await.status == 401;
            let asks = operation["security"].as_array().is_some_and(|keys| !keys.is_empty());
            assert_eq!(refused, asks, "{path}");
            closed += usize::from(asks);
        }
    }
    assert!(closed >= 6, "{closed} endpoints ask for a key");
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let service = service(Fake::new(hello), &[]);
    let reply = service.get("/").await;
    assert_eq!(reply.headers["content-type"], "text/html; charset=utf-8");
    assert!(reply.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    assert!(reply.text.contains("v1/chat/completions"));
    assert!(
        !reply.text.contains("http://") && !reply.text.contains("https://") && !reply.text.contains("src=")
    );
}

/// Budgets are chosen before a key is typed.
#[tokio::test]
async fn the_page_knows_the_model_without_a_key() {
    let said = |reply: &Reply| {
        let text = reply.text.split("type=\"application/json\">").nth(1).unwrap().split('<').next().unwrap();
        serde_json::from_str::<Value>(text).unwrap()
    };
    let service = loading(Fake::new(hello), &[("auth.api_keys", "user-key-1")]);
    assert_eq!(said(&service.get("/").await), json!({"key": true}));
    service.install();
    let known = said(&service.get("/").await);
    assert_eq!(
        (&known["key"], &known["model"], &known["precision"]),
        (&json!(true), &json!("tiny"), &json!("fp32"))
    );
    assert_eq!(known["token_budgets"], json!([64, 100, 160, 256, 400]));
    assert_eq!(said(&loading(Fake::new(hello), &[]).get("/").await), json!({"key": false}));
}

#[tokio::test]
async fn the_public_address_says_that_admin_has_another() {
    let service = service(Fake::new(hello), &[("auth.admin_keys", "admin-key-1")]);
    let public = arrcoc_server::public_app(service.app.clone());
    for (method, path) in [(Method::POST, "/admin/engines/swap"), (Method::GET, "/admin/engines")] {
        let request = request(method, path).body(Body::empty()).unwrap();
        let response = public.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 404);
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("admin_listen"), "{path}");
    }
}

#[tokio::test]
async fn admin_is_closed_without_a_key_of_its_own() {
    let service = service(Fake::new(hello), &[("auth.api_keys", "user-key-1")]);
    assert_eq!(with_key(&service, "/admin/engines", "user-key-1").await.error(403).1, "admin_disabled");
}

#[tokio::test]
async fn cors_only_for_configured_origins() {
    let preflight = || {
        request(Method::OPTIONS, "/v1/chat/completions")
            .header("origin", "https://app.example.org")
            .header("access-control-request-method", "POST")
            .body(Body::empty())
            .unwrap()
    };
    let open = service(Fake::new(hello), &[("cors.origins", "https://app.example.org")]);
    let reply = open.send(preflight()).await;
    assert_eq!(reply.headers["access-control-allow-origin"], "https://app.example.org");
    let closed = service(Fake::new(hello), &[]);
    let reply = closed.send(preflight()).await;
    assert_eq!(reply.error(405).1, "method_not_allowed");
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn the_headers_of_openais_client_for_browsers_pass() {
    let asked = "authorization,content-type,x-stainless-os,x-stainless-retry-count,x-of-tomorrow";
    let preflight = |path: &str| {
        request(Method::OPTIONS, path)
            .header("origin", "https://app.example.org")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", asked)
            .header("access-control-request-private-network", "true")
            .body(Body::empty())
            .unwrap()
    };
    let settings = [("cors.origins", "https://app.example.org"), ("auth.admin_keys", "admin-key-1")];
    let open = service(Fake::new(hello), &settings);
    let reply = open.send(preflight("/v1/chat/completions")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["access-control-allow-headers"], asked);
    assert_eq!(reply.headers["access-control-allow-private-network"], "true");
    let call = request(Method::GET, "/v1/models").header("origin", "https://app.example.org");
    let reply = open.send(call.body(Body::empty()).unwrap()).await;
    let exposed = reply.headers["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert!(exposed.contains("x-request-id") && exposed.contains("retry-after"), "{exposed}");
    // Swapping engines is no business of a web page.
    let reply = open.send(preflight("/admin/engines/swap")).await;
    assert_eq!(reply.error(405).1, "method_not_allowed");
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
    let everyone = service(Fake::new(hello), &[("cors.origins", "*")]);
    let reply = everyone.send(preflight("/v1/chat/completions")).await;
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    assert!(!reply.headers.contains_key("access-control-allow-private-network"));
}

/// What the document says against what the router does, and every reference resolved.
#[tokio::test]
async fn the_openapi_document_matches_the_router() {
    let service = service(Fake::new(hello), &[("auth.admin_keys", "admin-key-1")]);
    let document = service.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), arrcoc_server::routes::endpoints().len());
    for expected in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{id}",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
        "/admin/engines",
        "/",
    ] {
        assert!(paths.contains_key(expected), "{expected}");
    }
    let mut ids = std::collections::HashSet::new();
    for (path, item) in paths {
        for method in [Method::GET, Method::POST] {
            let documented = item.get(method.as_str().to_lowercase());
            let request = request(method.clone(), &path.replace("{id}", "tiny"))
                .header("authorization", "Bearer admin-key-1");
            let reply = service.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(documented.is_some(), reply.status != 405, "{method} {path}");
            let Some(operation) = documented else { continue };
            assert!(
                ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
                "{path}: operationId repeats"
            );
            let status = reply.status.as_u16().to_string();
            assert!(
                operation["responses"].get(&status).is_some(),
                "{method} {path} answers {status}, undocumented"
            );
        }
    }
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(reference) if name == "$ref" => found.push(reference.clone()),
                    value => collect_references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

/// A field that a schema documents must be read, and an answer may hold only documented fields.
#[tokio::test]
async fn the_schemas_match_requests_and_answers() {
    let service = service(Fake::new(hello), &[("auth.admin_keys", "admin-key-1")]);
    let document = service.get("/openapi.json").await.json();
    for (path, name) in [("/v1/chat/completions", "ChatRequest"), ("/v1/completions", "CompletionRequest")] {
        let properties = document["components"]["schemas"][name]["properties"].as_object().unwrap();
        for field in properties.keys() {
            // No field takes this; one that is not read would be ignored instead.
            let mut body = match name {
                "ChatRequest" => json!({"messages": [{"role": "user", "content": "Hi"}]}),
                _ => json!({"prompt": "Hi"}),
            };
            body[field] = json!({"no": {"such": "value"}});
            if matches!(field.as_str(), "stream_options" | "arrcoc" | "chat_template_kwargs" | "guided_json")
            {
                body[field] = json!("no such value");
            }
            let reply = service.post(path, &body).await;
            assert_eq!(reply.status, 400, "{name}.{field}: {}", reply.text);
            assert_eq!(reply.error(400).0.as_deref(), Some(field.as_str()), "{name}.{field}");
        }
    }
    let documented = |name: &str, answer: &Value| {
        let properties = document["components"]["schemas"][name]["properties"].as_object().unwrap();
        for field in answer.as_object().unwrap().keys() {
            assert!(properties.contains_key(field), "{name} does not document `{field}`");
        }
    };
    let everything =
        json!({"arrcoc": {"explain": true}, "stream": true, "stream_options": {"include_usage": true}});
    for chunk in service.chat(everything).await.chunks() {
        documented("ChatCompletionChunk", &chunk);
    }
    documented("ChatCompletion", &service.chat(json!({"arrcoc": {"explain": true}})).await.json());
    documented("Completion", &service.post("/v1/completions", &json!({"prompt": "a"})).await.json());
    documented("Model", &service.get("/v1/models/tiny").await.json());
    let engines = with_key(&service, "/admin/engines", "admin-key-1").await.json();
    documented("LoadedEngine", &engines["data"][0]);
    documented("Error", &service.get("/x").await.json());
}

#[tokio::test]
async fn a_request_keeps_the_id_that_its_client_gave_it() {
    let service = service(Fake::new(hello), &[]);
    let id = async |sent: &[u8]| {
        let request = request(Method::GET, "/v1/models").header("x-request-id", sent);
        let reply = service.send(request.body(Body::empty()).unwrap()).await;
        reply.headers["x-request-id"].as_bytes().to_vec()
    };
    for kept in ["a", "trace-1234/5", &"x".repeat(128)] {
        assert_eq!(id(kept.as_bytes()).await, kept.as_bytes());
    }
    for replaced in ["", "two words", "a\tb", "caf\u{e9}", &"x".repeat(129)] {
        let id = id(replaced.as_bytes()).await;
        assert!(id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit), "{replaced}");
    }
}
