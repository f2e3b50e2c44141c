//! How connections end: a client that has said all it has to say, one that is gone, and a server that has
//! heard enough.

use std::sync::atomic::Ordering;
use std::time::Duration;

use arrcoc_runtime::generate::FinishReason;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::fake::{Fake, Step, chat_body, done, finished, hello, service, started, token};
use crate::port::{Server, eventually, read_to_end, read_until, start};

const HEAD: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";

fn chat(server: &Server, stream: bool, connection: &str) -> impl Future<Output = tokio::net::TcpStream> {
    let body = chat_body(json!({"stream": stream})).to_string();
    let request = format!("{HEAD}{connection}content-length: {}\r\n\r\n{body}", body.len());
    let connecting = tokio::net::TcpStream::connect(server.address);
    async move {
        let mut stream = connecting.await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

#[tokio::test]
async fn who_ends_its_side_after_its_request_gets_the_whole_answer() {
    // Long enough that the server wants to know whether someone still waits.
    let slow = || {
        let pause = || Step::Sleep(Duration::from_millis(1300));
        let answer = [started(), pause(), token(0, "first"), pause(), token(0, "last")];
        answer.into_iter().chain([finished(0, "", FinishReason::Stop), done(2)]).collect()
    };
    for connection in ["", "connection: close\r\n"] {
        for stream_field in [false, true] {
            let server = start(service(Fake::new(move |_| slow()), &[])).await;
            let mut stream = chat(&server, stream_field, connection).await;
            stream.shutdown().await.unwrap();
            let reply = read_to_end(&mut stream).await;
            assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{connection}{stream_field}: {reply}");
            assert_eq!(reply.matches("HTTP/1.1").count(), 1, "{reply}");
            let whole = if stream_field { "data: [DONE]" } else { "\"firstlast\"" };
            assert!(reply.contains(whole), "{connection}{stream_field}: {reply}");
            assert!(!server.service.engine.cancelled.load(Ordering::SeqCst));
        }
    }
}

#[tokio::test]
async fn who_is_gone_frees_its_slot_whatever_it_announced() {
    for connection in ["", "connection: close\r\n"] {
        for stream_field in [false, true] {
            let server = start(service(Fake::new(|_| vec![started(), token(0, "a"), Step::Hang]), &[])).await;
            let mut stream = chat(&server, stream_field, connection).await;
            if stream_field {
                read_until(&mut stream, "\"a\"").await;
            }
            eventually("the request runs", || server.service.app.in_flight() == 1).await;
            drop(stream);
            eventually("nothing is in flight", || server.service.app.in_flight() == 0).await;
            assert!(server.service.engine.requests.lock().unwrap().len() == 1);
        }
    }
}

#[tokio::test]
async fn half_a_request_and_then_the_end_is_no_request() {
    let server = start(service(Fake::new(hello), &[])).await;
    for (sent, answer) in
        [("GET /health HTTP/1.1\r\nhost", ""), (&format!("{HEAD}content-length: 99\r\n\r\n{{")[..], "")]
    {
        let mut stream = server.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let reply = read_to_end(&mut stream).await;
        assert!(reply.starts_with(answer) && !reply.starts_with("HTTP/1.1 200"), "{sent:?}: {reply}");
    }
    assert_eq!(server.service.app.in_flight(), 0);
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_comes() {
    let server = start(service(Fake::new(hello), &[("limits.body", "1KiB")])).await;
    for length in ["1025", "100000000000", "18446744073709551615"] {
        for expect in ["", "expect: 100-continue\r\n"] {
            let mut stream = server.connect().await;
            let head = format!("{HEAD}{expect}content-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let reply = read_to_end(&mut stream).await;
            // hyper itself refuses lengths that it keeps for other purposes.
            let refused = reply.starts_with("HTTP/1.1 413") || length.len() == 20;
            assert!(refused && reply.to_lowercase().contains("connection: close"), "{length}: {reply}");
        }
    }
    // Who waits to be asked is asked.
    let mut stream = server.connect().await;
    let body = chat_body(json!({})).to_string();
    let head =
        format!("{HEAD}expect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    stream.write_all(body.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_wrong_key_is_refused_before_the_body_comes() {
    let server = start(service(Fake::new(hello), &[("auth.api_keys", "user-key-1")])).await;
    let mut stream = server.connect().await;
    stream.write_all(format!("{HEAD}content-length: 1000\r\n\r\n").as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 401"));
}

/// What a body holds while it is read comes out of one budget.
#[tokio::test]
async fn large_bodies_wait_for_each_other_and_small_ones_for_nobody() {
    let settings = [("limits.body", "1MiB"), ("limits.body_memory", "2MiB")];
    let server = start(service(Fake::new(hello), &settings)).await;
    let body = format!("{}{}", " ".repeat(1_000_000), chat_body(json!({})));
    let head = format!("{HEAD}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    let (begun, rest) = body.split_at(900_000);
    let mut first = server.connect().await;
    first.write_all(format!("{head}{begun}").as_bytes()).await.unwrap();
    let mut second = server.connect().await;
    second.write_all(format!("{head}{begun}").as_bytes()).await.unwrap();

    let mut small = server.post(&chat_body(json!({}))).await;
    assert!(read_to_end(&mut small).await.starts_with("HTTP/1.1 200"));
    // Which of them got there first, both know in the end: one is told to come again, and the other one is
    // answered.
    let (refused, accepted) = tokio::select! {
        refused = read_to_end(&mut first) => (refused, &mut second),
        refused = read_to_end(&mut second) => (refused, &mut first),
    };
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("no_body_memory"), "{refused}");
    assert!(refused.contains("retry-after: "), "{refused}");
    accepted.write_all(rest.as_bytes()).await.unwrap();
    assert!(read_to_end(accepted).await.starts_with("HTTP/1.1 200"));
}

/// A length that is announced is counted before a byte of the body is read: no two bodies hold a part each
/// and wait for the other's.
#[tokio::test]
async fn two_bodies_that_do_not_fit_together_are_read_one_after_the_other() {
    let settings = [("limits.body", "1MiB"), ("limits.body_memory", "3MiB")];
    let server = start(service(Fake::new(hello), &settings)).await;
    // Each counts twice its million bytes.
    let body = format!("{}{}", " ".repeat(1_000_000), chat_body(json!({})));
    let head = format!("{HEAD}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    let (begun, rest) = body.split_at(500_000);
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    first.write_all(format!("{head}{begun}").as_bytes()).await.unwrap();
    second.write_all(format!("{head}{begun}").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let finish = async |stream: &mut tokio::net::TcpStream| {
        stream.write_all(rest.as_bytes()).await.unwrap();
        read_to_end(stream).await
    };
    let (first, second) = tokio::join!(finish(&mut first), finish(&mut second));
    for reply in [first, second] {
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
}

/// A body of which nobody knows the length grows as it comes. Where another one has the rest of the memory,
/// it is told to come again at once.
#[tokio::test]
async fn a_body_without_a_length_does_not_wait_with_what_it_holds() {
    let settings = [("limits.body", "1MiB"), ("limits.body_memory", "2MiB")];
    let server = start(service(Fake::new(hello), &settings)).await;
    let half = " ".repeat(500_000);
    let announced = format!("{HEAD}connection: close\r\ncontent-length: {}\r\n\r\n{half}", 600_000);
    let mut first = server.connect().await;
    first.write_all(announced.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut second = server.connect().await;
    let chunk = format!("{:x}\r\n{half}\r\n", half.len());
    let chunked = format!("{HEAD}connection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
    let begun = std::time::Instant::now();
    second.write_all(chunked.as_bytes()).await.unwrap();
    let reply = read_to_end(&mut second).await;
    assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("no_body_memory"), "{reply}");
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
}
