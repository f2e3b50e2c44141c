//! Images in requests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake::{Fake, Service, hello, service};
use crate::port::eventually;

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
    let place = image_server(|stream| answer(stream, "200 OK", "cat"));
    let service = fetching(&[&place]);
    let reply = service.chat(ask(&[&format!("http://{place}/cat.png")])).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let images = format!("{:?}", service.engine.last_request());
    assert!(images.contains("b\"cat\""), "{images}");
}

/// Answers one request in its own way; returns host and port.
fn image_server(answer: impl FnOnce(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        answer(&mut stream);
    });
    place
}

fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all((head + body).as_bytes());
}

/// A service that fetches from these places.
fn fetching(places: &[&str]) -> Service {
    let places = places.join(",");
    // Longer than any test waits: nothing ends because of it.
    let settings = [
        ("images.allow_private_hosts", places.as_str()),
        ("images.allow_http", "true"),
        ("images.timeout", "60s"),
    ];
    service(Fake::new(hello), &settings)
}

fn url(place: &String) -> String {
    format!("http://{place}/cat.png")
}

/// Neither server answers before both were asked.
#[tokio::test]
async fn remote_images_are_fetched_side_by_side_and_keep_their_order() {
    let both = Arc::new(Barrier::new(2));
    let places = ["one", "two"].map(|body| {
        let both = Arc::clone(&both);
        image_server(move |stream| {
            both.wait();
            answer(stream, "200 OK", body);
        })
    });
    let service = fetching(&places.each_ref().map(String::as_str));
    let reply = service.chat(ask(&places.each_ref().map(url).each_ref().map(String::as_str))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let images = format!("{:?}", service.engine.last_request());
    let at = |body: &str| images.find(&format!("b\"{body}\"")).unwrap();
    assert!(at("one") < at("two"), "{images}");
}

/// The second image has failed before the first one does, and a third one would never come.
#[tokio::test]
async fn of_several_images_that_cannot_be_had_the_first_is_named() {
    let second = Arc::new(Barrier::new(2));
    let asked = Arc::clone(&second);
    let places = [
        image_server(move |stream| {
            asked.wait();
            std::thread::sleep(Duration::from_millis(100));
            answer(stream, "404 Not Found", "");
        }),
        image_server(move |stream| {
            answer(stream, "410 Gone", "");
            second.wait();
        }),
    ];
    let service = fetching(&places.each_ref().map(String::as_str));
    let reply = service.chat(ask(&places.each_ref().map(url).each_ref().map(String::as_str))).await;
    assert_eq!(reply.error(400).0.as_deref(), Some("messages[0].content[0].image_url.url"));
    assert!(reply.text.contains("404"), "{}", reply.text);
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_all_fetches() {
    let ended = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let asked = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let places = [0, 1].map(|index| {
        let (ended, asked) = (Arc::clone(&ended[index]), Arc::clone(&asked[index]));
        image_server(move |stream| {
            asked.store(true, Ordering::SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
            // Until nobody reads any more.
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
            ended.store(true, Ordering::SeqCst);
        })
    });
    let service = fetching(&places.each_ref().map(String::as_str));
    let urls = places.each_ref().map(url);
    let body = ask(&urls.each_ref().map(String::as_str));
    let all = |flags: &[Arc<AtomicBool>; 2]| flags.iter().all(|flag| flag.load(Ordering::SeqCst));
    tokio::select! {
        reply = service.chat(body) => panic!("answered: {}", reply.text),
        () = eventually("both are asked", || all(&asked)) => {}
    }
    eventually("both have ended", || all(&ended)).await;
}
