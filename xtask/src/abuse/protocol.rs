//! HTTP that is not quite HTTP, errors that repeat their request, and pictures without pixels.

use std::io::{BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::ring::{Ring, Row, told};
use crate::shell;
use crate::traffic::http;
use crate::traffic::pictures::{data_uri, empty_rle_bmp, stretched_jpeg};
use crate::traffic::server::Server;

const CHAT: &str = "/v1/chat/completions";
const QUICK: Duration = Duration::from_secs(3);
/// Longest error, bytes.
const LONGEST: usize = 2048;

/// What is sent, and the statuses that are right.
struct Exchange {
    what: &'static str,
    bytes: Vec<u8>,
    right: &'static [u16],
}

pub(super) fn protocol(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let mut server = ring.server("protocol")?;
    let idle = server.process().resident().unwrap_or(0);
    let mut rows = Vec::new();
    for Exchange { what, bytes, right } in
        framing(server.address).into_iter().chain(refusals(server.address)?)
    {
        let mut row = Row::new(&format!("protocol: {what}"));
        let answer = http::exchange(server.address, &bytes, QUICK);
        row.count(&answer);
        let status = answer.as_ref().map(|answer| answer.status);
        // A connection that is closed at once is a refusal too.
        let refused = status.as_ref().map_or(told(&answer) == "cut off", |status| right.contains(status));
        row.expect(refused, &format!("expected {right:?}"));
        if let Ok(answer) = &answer {
            row.expect(answer.body.len() <= LONGEST, &format!("an answer of {} bytes", answer.body.len()));
        }
        rows.push(row);
    }
    rows.push(expectation(&server));
    let mut row = Row::new("protocol: all of these");
    row.single = Some(ring.watch(&mut server, &mut row, idle, |_, _| {}));
    ring.aftermath(&mut server, &mut row);
    rows.push(row);
    Ok(rows)
}

fn framing(address: SocketAddr) -> Vec<Exchange> {
    let json = "Content-Type: application/json\r\n";
    // A sound request: what refuses it is the framing.
    let body = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":1}";
    let chunk = format!("{:x}\r\n{body}", body.len());
    let text = |what, text: String, right| Exchange { what, bytes: text.into_bytes(), right };
    vec![
        text(
            "a body of a gigabyte announced",
            format!("POST {CHAT} HTTP/1.1\r\nHost: {address}\r\n{json}Content-Length: 1000000000\r\n\r\n"),
            &[413],
        ),
        text("no Host", "GET /v1/models HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        text(
            "two Hosts",
            format!("GET /v1/models HTTP/1.1\r\nHost: {address}\r\nHost: {address}\r\n\r\n"),
            &[400],
        ),
        text(
            "somebody else's Host",
            "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
            &[400, 403, 421],
        ),
        text("bare line feeds", format!("GET /v1/models HTTP/1.1\nHost: {address}\n\n"), &[400]),
        text(
            "gzip, chunked",
            format!(
                "POST {CHAT} HTTP/1.1\r\nHost: {address}\r\n{json}Transfer-Encoding: gzip, chunked\r\n\r\n{chunk}\r\n0\r\n\r\n"
            ),
            &[400, 501],
        ),
        text(
            "chunked twice",
            format!(
                "POST {CHAT} HTTP/1.1\r\nHost: {address}\r\n{json}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}\r\n0\r\n\r\n"
            ),
            &[400, 501],
        ),
    ]
}

fn refusals(address: SocketAddr) -> Result<Vec<Exchange>> {
    let long = "\u{1b}[31m\n".repeat(150_000);
    let jpeg = std::fs::read(shell::root().join("tests/fixtures/images/rocket.jpg"))?;
    let post = |what, body: &Value, right| Exchange {
        what,
        bytes: http::post(CHAT, address, None, body.to_string().as_bytes()),
        right,
    };
    let picture = |bytes: &[u8]| {
        let content = json!([{"type": "image_url", "image_url": {"url": data_uri(bytes)}}, {"type": "text", "text": "What?"}]);
        json!({"messages": [{"role": "user", "content": content}], "max_tokens": 2})
    };
    Ok(vec![
        post("a role of a megabyte", &json!({"messages": [{"role": long, "content": "x"}]}), &[400]),
        post(
            "a model of a megabyte",
            &json!({"model": long, "messages": [{"role": "user", "content": "x"}]}),
            &[400, 404],
        ),
        post(
            "a number of a megabyte",
            &json!({"messages": [{"role": "user", "content": "x"}], "n": long}),
            &[400],
        ),
        post(
            "a part of a megabyte",
            &json!({"messages": [{"role": "user", "content": [{"type": long}]}]}),
            &[400],
        ),
        post(
            "a key of a megabyte",
            &json!({"messages": [{"role": "user", "content": "x"}], "arrcoc": {long.as_str(): 1}}),
            &[400],
        ),
        post("a JPEG of 7000 x 7000 in 2 kB", &picture(&stretched_jpeg(&jpeg[..2000], 7000)), &[400]),
        post("a BMP in run lengths without pixels", &picture(&empty_rle_bmp(2000)), &[400]),
    ])
}

/// Who asks first whether to send a gigabyte is told no.
fn expectation(server: &Server) -> Row {
    let mut row = Row::new("protocol: Expect: 100-continue with a gigabyte");
    let headers =
        [("Content-Type", "application/json"), ("Content-Length", "1000000000"), ("Expect", "100-continue")];
    let first = http::connect(server.address, QUICK).and_then(|mut stream| {
        stream.write_all(&http::head("POST", CHAT, server.address, &headers))?;
        let mut first = [0; 12];
        BufReader::new(stream).read_exact(&mut first)?;
        Ok(String::from_utf8_lossy(&first).into_owned())
    });
    let status = first.as_ref().map_or("cut off", |first| first.get(9..12).unwrap_or_default());
    *row.answers.entry(status.to_owned()).or_default() += 1;
    row.expect(matches!(status, "413" | "417"), "expected 413 before the body");
    row
}
