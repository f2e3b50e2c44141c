//! What needs a real connection: streaming as it happens, hanging up, large bodies, draining.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrcoc_runtime::generate::FinishReason;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fake::{Fake, Service, Step, chat_body, done, finished, hello, service, started, token};

pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Server {
    pub service: Service,
    pub address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<std::io::Result<usize>>,
}

pub async fn start(service: Service) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(arrcoc_server::listen::serve(listener, service.app.clone(), async {
        let _ = stopped.await;
    }));
    Server { service, address, stop: Some(stop), running }
}

impl Server {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub async fn post(&self, body: &serde_json::Value) -> TcpStream {
        let mut stream = self.connect().await;
        let body = body.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream
    }

    pub async fn get(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }
}

pub async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

pub async fn read_until(stream: &mut TcpStream, needle: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&text).contains(needle) {
        let count = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "the connection ended before {needle:?}: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn tokens_arrive_as_they_are_made_and_silence_is_filled() {
    let slow = || {
        let pause = Step::Sleep(Duration::from_millis(400));
        vec![
            started(),
            token(0, "first"),
            pause,
            token(0, "second"),
            finished(0, "", FinishReason::Stop),
            done(2),
        ]
    };
    let server = start(service(Fake::new(move |_| slow()), &[("timeouts.keep_alive", "50ms")])).await;
    let mut stream = server.post(&chat_body(json!({"stream": true}))).await;
    let early = read_until(&mut stream, "first").await;
    assert!(!early.contains("second"));
    let rest = read_to_end(&mut stream).await;
    // A line that starts with a colon is a comment, which clients skip.
    assert!(rest.contains("\n:") || rest.starts_with(':'), "{rest}");
    assert!(rest.contains("second") && rest.contains("[DONE]"));
}

#[tokio::test]
async fn hanging_up_cancels() {
    for stream_field in [true, false] {
        let server = start(service(Fake::new(|_| vec![started(), token(0, "a"), Step::Hang]), &[])).await;
        let mut stream = server.post(&chat_body(json!({"stream": stream_field}))).await;
        if stream_field {
            read_until(&mut stream, "\"a\"").await;
        } else {
            eventually("the request starts", || server.service.app.in_flight() == 1).await;
        }
        drop(stream);
        let service = &server.service;
        eventually("the request is cancelled", || service.engine.cancelled.load(Ordering::SeqCst)).await;
        eventually("nothing is in flight", || service.app.in_flight() == 0).await;
        let metrics = service.get("/metrics").await.text;
        assert!(metrics.contains("finished_reason=\"abort\",model_name=\"tiny\"} 1"), "{metrics}");
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off() {
    // More than any socket buffers, so that the server has to wait for the client.
    let endless = || {
        let text = "a".repeat(1 << 20);
        let tokens = (0..32).map(|_| token(0, &text));
        std::iter::once(started()).chain(tokens).chain([Step::Hang]).collect()
    };
    let settings = [("limits.connections", "1"), ("timeouts.write", "200ms")];
    let server = start(service(Fake::new(move |_| endless()), &settings)).await;
    let mut stuck = server.post(&chat_body(json!({"stream": true}))).await;
    read_until(&mut stuck, "aaa").await;
    let reply = tokio::time::timeout(PATIENCE, server.get("/health")).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let service = &server.service;
    eventually("the request is cancelled", || service.engine.cancelled.load(Ordering::SeqCst)).await;
    eventually("nothing is in flight", || service.app.in_flight() == 0).await;
    drop(stuck);
}

#[tokio::test]
async fn draining_finishes_what_runs_and_then_ends() {
    let slow = || {
        let pause = Step::Sleep(Duration::from_millis(300));
        vec![started(), token(0, "first"), pause, finished(0, "last", FinishReason::Stop), done(1)]
    };
    let mut server = start(service(Fake::new(move |_| slow()), &[])).await;
    let mut stream = server.post(&chat_body(json!({"stream": true}))).await;
    read_until(&mut stream, "first").await;
    server.stop.take().unwrap().send(()).unwrap();
    eventually("it drains", || server.service.app.draining()).await;
    assert!(server.get("/ready").await.starts_with("HTTP/1.1 503"));
    assert!(server.get("/health").await.starts_with("HTTP/1.1 200"));
    let mut refused = server.post(&chat_body(json!({}))).await;
    let refused = read_to_end(&mut refused).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after"), "{refused}");
    assert!(read_to_end(&mut stream).await.contains("last"));
    let cut_off = tokio::time::timeout(PATIENCE, server.running).await.unwrap().unwrap().unwrap();
    assert_eq!(cut_off, 0);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn draining_does_not_wait_for_ever() {
    let settings = [("timeouts.drain", "100ms")];
    let mut server =
        start(service(Fake::new(|_| vec![started(), token(0, "a"), Step::Hang]), &settings)).await;
    let mut stream = server.post(&chat_body(json!({"stream": true}))).await;
    read_until(&mut stream, "\"a\"").await;
    server.stop.take().unwrap().send(()).unwrap();
    let cut_off = tokio::time::timeout(PATIENCE, server.running).await.unwrap().unwrap().unwrap();
    assert_eq!(cut_off, 1);
}

#[tokio::test]
async fn a_body_of_100_megabytes_gets_an_answer_and_the_server_goes_on() {
    let server = start(service(Fake::new(hello), &[])).await;
    let mut stream = server.connect().await;
    let size = 100_000_000;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {size}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b' '; 1_000_000];
    for _ in 0..size / chunk.len() {
        stream.write_all(&chunk).await.unwrap();
    }
    let reply = read_to_end(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 413") && reply.contains("body_too_large"), "{reply}");
    let mut stream = server.post(&chat_body(json!({}))).await;
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let server = start(service(Fake::new(hello), &[("timeouts.headers", "100ms")])).await;
    for sent in ["", "GET /health HT", "GET /health HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = server.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let reply = read_to_end(&mut stream).await;
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 408"), "{sent:?}: {reply}");
    }
}
