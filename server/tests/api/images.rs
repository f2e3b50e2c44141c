//! Images in requests.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::fake::{Fake, hello, service};

fn ask(urls: &[&str]) -> Value {
    let parts: Vec<Value> =
        urls.iter().map(|url| json!({"type": "image_url", "image_url": {"url": url}})).collect();
    json!({"messages": [{"role": "user", "content": parts}]})
}

#[tokio::test]
async fn a_bad_image_url_names_its_place() {
    let service = service(Fake::new(hello), &[("limits.image_bytes", "3")]);
    let good = "data:image/png;base64,AAEC";
    for bad in [
        "",
        "nonsense",
        "data:image/png;base64,@@@@",
        "data:image/png;base64,AAE",
        "data:image/png;base64,",
        "data:image/png,AAEC",
        "data:text/plain;base64,AAEC",
        "data:image/png;base64,AAECAAEC",
        "https://example.org/cat.png",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
    ] {
        let (param, _) = service.chat(ask(&[good, bad])).await.error(400);
        assert_eq!(param.as_deref(), Some("messages[0].content[1].image_url.url"), "{bad}");
    }
    assert!(service.engine.requests.lock().unwrap().is_empty());
    assert_eq!(service.chat(ask(&[good])).await.status, 200);
}

#[tokio::test]
async fn more_images_than_allowed() {
    let service = service(Fake::new(hello), &[("limits.images", "2")]);
    let good = "data:image/png;base64,AAEC";
    assert_eq!(service.chat(ask(&[good, good])).await.status, 200);
    assert_eq!(service.chat(ask(&[good, good, good])).await.error(400).0.as_deref(), Some("messages"));
}

#[tokio::test]
async fn a_full_queue_is_429_before_any_image_is_looked_at() {
    let service = service(Fake::new(hello), &[("limits.queue", "3")]);
    service.engine.waiting.store(3, std::sync::atomic::Ordering::SeqCst);
    let reply = service.chat(ask(&["data:image/png;base64,@@@@"])).await;
    assert_eq!(reply.error(429).1, "queue_full");
    assert!(reply.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
}

#[tokio::test]
async fn allowed_hosts_are_still_refused_when_their_address_is_private() {
    let service =
        service(Fake::new(hello), &[("images.allow_hosts", "localhost:1"), ("images.allow_http", "true")]);
    let reply = service.chat(ask(&["http://localhost:1/cat.png"])).await;
    reply.error(400);
    assert!(reply.text.contains("no public address"), "{}", reply.text);
    let reply = service.chat(ask(&["http://example.org/cat.png"])).await;
    reply.error(400);
    assert!(reply.text.contains("allow_hosts"), "{}", reply.text);
    let reply = service.chat(ask(&["http://localhost:65537/cat.png"])).await;
    reply.error(400);
    assert!(reply.text.contains("port") && reply.text.contains("65537"), "{}", reply.text);
}

#[tokio::test]
async fn an_image_of_a_private_host_is_fetched_where_the_operator_named_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\ncat");
    });
    let settings = [("images.allow_private_hosts", place.as_str()), ("images.allow_http", "true")];
    let service = service(Fake::new(hello), &settings);
    let reply = service.chat(ask(&[&format!("http://{place}/cat.png")])).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let images = format!("{:?}", service.engine.last_request());
    assert!(images.contains("b\"cat\""), "{images}");
}
