//! Requests that could be understood in two ways, and requests under a name that is not the server's.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::fake::{Fake, chat_body, hello, service};
use crate::port::{Server, read_to_end, start};

async fn sent(server: &Server, request: &str) -> String {
    let mut stream = server.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let server = start(service(Fake::new(hello), &[])).await;
    let body = chat_body(json!({})).to_string();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let length = format!("content-length: {}\r\n", chunked.len());
    let post = |headers: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             {headers}connection: close\r\n\r\n{chunked}"
        )
    };
    assert!(sent(&server, &post("transfer-encoding: Chunked\r\n")).await.starts_with("HTTP/1.1 200"));
    for request in [
        "GET /health HTTP/1.1\r\nconnection: close\r\n\r\n".into(),
        "GET /health HTTP/1.1\r\nhost: x\r\nhost: x\r\nconnection: close\r\n\r\n".into(),
        "GET /health HTTP/1.1\r\nhost: x y\r\nconnection: close\r\n\r\n".into(),
        "GET /health HTTP/1.1\nhost: x\nconnection: close\n\n".into(),
        "GET /health HTTP/1.1\r\nhost: x\nconnection: close\r\n\r\n".into(),
        post("transfer-encoding: gzip, chunked\r\n"),
        post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
        post("transfer-encoding: chunked, chunked\r\n"),
        post(&format!("{length}transfer-encoding: chunked\r\n")),
        post(&format!("transfer-encoding: chunked\r\n{length}")),
        post("content-length: 1\r\ncontent-length: 2\r\n"),
    ] {
        let reply = sent(&server, &request).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{request:?}: {reply}");
    }
    assert!(server.service.engine.requests.lock().unwrap().len() == 1);
}

#[tokio::test]
async fn old_and_absolute_requests_are_understood() {
    let server = start(service(Fake::new(hello), &[])).await;
    let old = sent(&server, "GET /health HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200"), "{old}");
    let absolute =
        |host: &str| format!("GET http://{host}/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(sent(&server, &absolute("localhost:8080")).await.starts_with("HTTP/1.1 200"));
    assert!(sent(&server, &absolute("evil.example")).await.starts_with("HTTP/1.1 421"));
}

#[tokio::test]
async fn a_page_that_leads_its_own_name_here_reads_nothing() {
    let get =
        |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let server = start(service(Fake::new(hello), &[])).await;
    for path in ["/v1/models", "/", "/metrics", "/openapi.json", "/v1/nothing"] {
        let reply = sent(&server, &get(path, "evil.example:8080")).await;
        assert!(reply.starts_with("HTTP/1.1 421") && reply.contains("server.hosts"), "{path}: {reply}");
        assert!(reply.contains("x-request-id: "), "{reply}");
    }
    for host in ["localhost:8080", "127.0.0.1", "[::1]:8080", "arrcoc.localhost"] {
        assert!(sent(&server, &get("/v1/models", host)).await.starts_with("HTTP/1.1 200"), "{host}");
    }
    // Probes come under addresses, too.
    assert!(sent(&server, &get("/health", "10.1.2.3:8080")).await.starts_with("HTTP/1.1 200"));
    let named = start(service(Fake::new(hello), &[("server.hosts", "api.example.org,*.example.net")])).await;
    for host in ["api.example.org", "a.example.net:443"] {
        assert!(sent(&named, &get("/v1/models", host)).await.starts_with("HTTP/1.1 200"), "{host}");
    }
    assert!(sent(&named, &get("/v1/models", "example.net")).await.starts_with("HTTP/1.1 421"));
}
