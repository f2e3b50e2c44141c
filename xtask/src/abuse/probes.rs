//! Connections that take the places of others and say nothing.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::ring::{Ring, Row};
use crate::traffic::http;
use crate::traffic::server::Server;

/// As many as defaults allow at the same time.
const CONNECTIONS: usize = 256;

/// What a connection says before it says no more.
enum Kind {
    Nothing,
    HalfHeaders,
    /// A request and its answer, and then it stays open.
    KeptOpen,
    /// Headers that announce a body.
    StuckBody,
}

pub(super) fn starved(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, kind) in [
        ("idle", Kind::Nothing),
        ("half headers", Kind::HalfHeaders),
        ("kept open after an answer", Kind::KeptOpen),
        ("a body that does not come", Kind::StuckBody),
    ] {
        let mut row = Row::new(&format!("starved probes: {CONNECTIONS} connections, {what}"));
        let mut server = ring.server(&row.name)?;
        let idle = server.process().resident().unwrap_or(0);
        row.many = Some(ring.watch(&mut server, &mut row, idle, |server, row| {
            let held: Vec<_> = (0..CONNECTIONS).map(|_| hold(server, &kind)).collect();
            let failed = held.iter().filter(|held| held.is_err()).count();
            row.note = format!("{} held", CONNECTIONS - failed);
            thread::sleep(Duration::from_secs(3));
        }));
        ring.aftermath(&mut server, &mut row);
        rows.push(row);
    }
    Ok(rows)
}

fn hold(server: &Server, kind: &Kind) -> std::io::Result<TcpStream> {
    let mut stream = http::connect(server.address, Duration::from_secs(1))?;
    let headers = [("Content-Type", "application/json"), ("Content-Length", "1000")];
    match kind {
        Kind::Nothing => {}
        Kind::HalfHeaders => stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")?,
        Kind::KeptOpen => {
            stream.write_all(&http::head("GET", "/health", server.address, &[]))?;
            // The last ones may find no place.
            let _ = http::read(&mut BufReader::new(&mut stream));
        }
        Kind::StuckBody => {
            stream.write_all(&http::head("POST", "/v1/chat/completions", server.address, &headers))?
        }
    }
    Ok(stream)
}
