//! Who gets a connection when there are too many: probes always, new requests before those who do nothing.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use arrcoc_server::listen::Listeners;

use crate::fake::{Fake, Step, chat_body, hello, service, started, token};
use crate::port::{PATIENCE, Server, read_to_end, read_until, start};

const PROBES: [&str; 3] = ["/health", "/ready", "/metrics"];
const GET: &str = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
const STUCK: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                     content-length: 1000\r\n\r\n{";

async fn opened(server: &Server, sent: &str, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = server.connect().await;
        // The server may have closed it already.
        let _ = stream.write_all(sent.as_bytes()).await;
        streams.push(stream);
    }
    streams
}

async fn probes_answer(server: &Server, when: &str) {
    for path in PROBES {
        let reply = timeout(PATIENCE, server.get(path)).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{when}: {path}: {reply}");
    }
}

/// Asks until the answer is not that there is no connection left.
async fn asked(server: &Server) -> String {
    loop {
        let mut stream = server.post(&chat_body(json!({}))).await;
        let reply = read_to_end(&mut stream).await;
        if !reply.contains("too_many_connections") {
            return reply;
        }
    }
}

#[tokio::test]
async fn those_who_do_nothing_keep_nobody_out() {
    for sent in ["", "GET /health HT", GET, STUCK] {
        // Longer than the test's patience: none of them is freed by its own time-out.
        let settings = [("limits.connections", "8"), ("timeouts.headers", "5m"), ("timeouts.body", "5m")];
        let server = start(service(Fake::new(hello), &settings)).await;
        let idle = opened(&server, sent, 32).await;
        probes_answer(&server, sent).await;
        let reply = timeout(3 * PATIENCE, asked(&server)).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{sent}: {reply}");
        drop(idle);
    }
}

#[tokio::test]
async fn the_one_that_has_been_idle_longest_goes() {
    let settings = [("limits.connections", "2"), ("timeouts.headers", "5m")];
    let server = start(service(Fake::new(hello), &settings)).await;
    let mut first = server.connect().await;
    first.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut first, "ok").await;
    let mut second = server.connect().await;
    second.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut second, "ok").await;
    // The first one has been idle for less time now.
    first.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut first, "ok").await;
    assert!(asked(&server).await.starts_with("HTTP/1.1 200"));
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, second.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || rest.is_empty(), "the second one was closed");
    first.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut first, "ok").await;
}

#[tokio::test]
async fn those_at_work_keep_their_connections() {
    let server = start(service(
        Fake::new(|_| vec![started(), token(0, "a"), Step::Hang]),
        &[("limits.connections", "2")],
    ))
    .await;
    let mut working = Vec::new();
    for _ in 0..2 {
        let mut stream = server.post(&chat_body(json!({"stream": true}))).await;
        read_until(&mut stream, "\"a\"").await;
        working.push(stream);
    }
    probes_answer(&server, "all at work").await;
    *server.service.engine.retry_after.lock().unwrap() = Duration::from_secs(7);
    let mut refused = server.post(&chat_body(json!({}))).await;
    let refused = read_to_end(&mut refused).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("too_many_connections"), "{refused}");
    assert!(refused.contains("retry-after: 7"), "{refused}");
    probes_answer(&server, "after a refusal").await;
    assert_eq!(server.service.app.in_flight(), 2);
}

#[tokio::test]
async fn probes_have_a_listener_of_their_own() {
    let listen = || TcpListener::bind("127.0.0.1:0");
    let (main, probes) = (listen().await.unwrap(), listen().await.unwrap());
    let address = probes.local_addr().unwrap();
    let service = service(Fake::new(hello), &[("limits.connections", "1")]);
    let listeners = Listeners { main, admin: None, probes: Some(probes) };
    let serving = arrcoc_server::listen::serve(listeners, service.app.clone(), std::future::pending());
    let asking = async {
        let mut replies = Vec::new();
        for path in PROBES.into_iter().chain(["/v1/models", "/"]) {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            replies.push(read_to_end(&mut stream).await);
        }
        replies
    };
    let replies = tokio::select! {
        _ = serving => panic!("nobody told it to stop"),
        replies = asking => replies,
    };
    let statuses: Vec<&str> = replies.iter().filter_map(|reply| reply.split(' ').nth(1)).collect();
    assert_eq!(statuses, ["200", "200", "200", "404", "404"]);
}
