//! Requests, settings and pictures that ask for memory.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::group::Group;
use super::ring::{Ring, Row};
use crate::traffic::http;
use crate::traffic::pictures::{data_uri, grey_png, profile_bomb};
use crate::traffic::server::Log;

/// The largest body that defaults allow, bytes.
const BODY: usize = 32 << 20;

/// A body of the largest size: as many `item`s as fit between `start` and `end`.
fn filled(start: &str, item: &str, end: &str) -> Vec<u8> {
    let count = (BODY - start.len() - end.len() + 1) / (item.len() + 1);
    let mut body = String::with_capacity(BODY);
    body.push_str(start);
    for index in 0..count {
        if index > 0 {
            body.push(',');
        }
        body.push_str(item);
    }
    body.push_str(end);
    body.into_bytes()
}

/// Fields of which trees are built before anybody has decided whether the request is wanted.
pub(super) fn trees(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let start = |rest: &str| format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}],{rest}");
    let requests = [
        ("tools of objects", filled(&start("\"tools\":["), "{\"\":0}", "]}")),
        ("tools of numbers", filled(&start("\"tools\":["), "0", "]}")),
        ("budget of lists", filled(&start("\"arrcoc\":{\"budget\":["), "[]", "]}}")),
        ("response format", filled(&start("\"response_format\":{\"a\":["), "[]", "]}}")),
        ("logit bias", logit_bias(&start("\"logit_bias\":{"))),
    ];
    ring.requests("request trees", &requests, 32)
}

fn logit_bias(start: &str) -> Vec<u8> {
    let mut body = start.to_owned();
    let mut number = 0;
    while body.len() < BODY - 32 {
        body.push_str(&format!("\"{number}\":0,"));
        number += 1;
    }
    body.push_str("\"x\":0}}");
    body.into_bytes()
}

pub(super) fn many_messages(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let part = "{\"type\":\"text\",\"text\":\"\"}";
    let requests = [
        ("1.1 million messages", filled("{\"messages\":[", "{\"role\":\"user\",\"content\":\"\"}", "]}")),
        ("1.2 million parts", filled("{\"messages\":[{\"role\":\"user\",\"content\":[", part, "]}]}")),
    ];
    ring.requests("many messages", &requests, 6)
}

/// Forms of answers that are written to take time, stack or memory without end.
pub(super) fn hostile_forms(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let asked = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":64,";
    let bound = |name: &str, form: serde_json::Value| format!("{asked}\"{name}\":{form}}}").into_bytes();
    let constants: Vec<_> = (0..9_000).map(|number| json!({"const": number})).collect();
    let chain =
        (0..3_000).map(|number| (number.to_string(), json!({"$ref": format!("#/$defs/{}", number + 1)})));
    let chain: serde_json::Map<_, _> = chain.chain([("3000".to_owned(), json!({"type": "null"}))]).collect();
    let either = |number| json!({"anyOf": [{"required": [format!("a{number}")]}, {"required": [format!("b{number}")]}]});
    let requests = [
        ("100,000 nodes", bound("guided_json", json!({"enum": vec![0; 100_000]}))),
        ("9,000 constants", bound("guided_json", json!({"anyOf": constants}))),
        ("a chain of references", bound("guided_json", json!({"$ref": "#/$defs/0", "$defs": chain}))),
        ("products", bound("guided_json", json!({"allOf": (0..200).map(either).collect::<Vec<_>>()}))),
        ("endless", bound("guided_json", json!({"type": "array", "items": {"$ref": "#"}, "minItems": 1}))),
        ("counts", bound("guided_regex", json!("(.*a.{1000}|.*b.{999}|.*c.{998})+"))),
        ("brackets", bound("guided_regex", json!(format!("{}a", "(".repeat(60_000))))),
        ("ambiguity", bound("guided_grammar", json!("start: x x x x x x\nx: \"a\"* | x x | \"\"\n"))),
    ];
    ring.requests("hostile forms", &requests, 6)
}

/// Bodies that are sent but for their last mebibyte.
pub(super) fn held_bodies(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let body = filled("{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"user\":[", "1", "]}");
    let mut rows = Vec::new();
    for (connections, key) in [(32, "32"), (100, "100")] {
        let mut row = Row::new(&format!("held bodies: {key} connections with 31 of 32 MiB each"));
        let mut server = ring.server(&row.name)?;
        let idle = server.process().resident().unwrap_or(0);
        let request = http::post("/v1/chat/completions", server.address, None, &body);
        let sent = &request[..request.len() - (1 << 20)];
        row.many = Some(ring.watch(&mut server, &mut row, idle, |server, row| {
            let held: Vec<_> = thread::scope(|scope| {
                let send = || {
                    let mut stream = http::connect(server.address, Duration::from_secs(3))?;
                    let sent = stream.write_all(sent);
                    // Refused meanwhile, or waiting for the rest.
                    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
                    let answer = http::read(&mut std::io::BufReader::new(&mut stream));
                    match answer {
                        Ok(answer) => Ok((stream, Some(answer))),
                        Err(_) => sent.map(|()| (stream, None)),
                    }
                };
                let threads: Vec<_> = (0..connections).map(|_| scope.spawn(send)).collect();
                threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
            });
            for one in &held {
                match one {
                    Ok((_, Some(answer))) => row.count(&Ok(answer.clone())),
                    Ok((_, None)) => *row.answers.entry("held".to_owned()).or_default() += 1,
                    Err(error) => row.count(&Err(error.kind().into())),
                }
            }
        }));
        ring.aftermath(&mut server, &mut row);
        rows.push(row);
    }
    Ok(rows)
}

/// Pictures of one column: few bytes, much work. Somebody else's picture must not wait for all of it.
pub(super) fn tall_pictures(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let picture = json!({"type": "image_url", "image_url": {"url": data_uri(&grey_png(1, 50_000_000))}});
    let body =
        json!({"messages": [{"role": "user", "content": vec![picture; 8]}], "max_tokens": 4}).to_string();
    let mut row =
        Row::new("tall pictures: 8 of 1 x 50,000,000 in a request (and 2 clients, beside one with a page)");
    let mut server = ring.server(&row.name)?;
    let idle = server.process().resident().unwrap_or(0);
    let send = |address| {
        let request = http::post("/v1/chat/completions", address, None, body.as_bytes());
        http::exchange(address, &request, super::ring::PATIENCE)
    };
    let start = Instant::now();
    row.single =
        Some(ring.watch(&mut server, &mut row, idle, |server, row| row.count(&send(server.address))));
    let alone = start.elapsed().as_secs_f64();
    let mut waited = f64::INFINITY;
    row.many = Some(ring.watch(&mut server, &mut row, idle, |server, row| {
        let answers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| send(server.address))).collect();
            thread::sleep(Duration::from_millis(200));
            let start = Instant::now();
            if ring.ask(server).is_ok() {
                waited = start.elapsed().as_secs_f64();
            }
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        answers.iter().for_each(|answer| row.count(answer));
    }));
    row.note = format!("{alone:.1} s alone, another's picture waited {waited:.1} s");
    row.expect(waited < 5.0, "another's picture waited 5 s or longer");
    ring.aftermath(&mut server, &mut row);
    Ok(vec![row])
}

/// A colour profile that unpacks to a gigabyte.
pub(super) fn metadata(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let content = json!([
        {"type": "image_url", "image_url": {"url": data_uri(&profile_bomb(1 << 30))}},
        {"type": "text", "text": "What?"},
    ]);
    let body = json!({"messages": [{"role": "user", "content": content}], "max_tokens": 4}).to_string();
    ring.requests("metadata", &[("a colour profile of 1 GiB", body.into_bytes())], 32)
}

/// Settings that ask for more than there is, and processes that may have little.
pub(super) fn at_start(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let slots =
        |count: usize| [ring.bundle_flags(), vec!["--engine-slots".to_owned(), count.to_string()]].concat();
    let mut row = Row::new("memory at start: a million slots");
    let launch = ring.launch(&row.name, slots(1_000_000));
    match launch.ready() {
        Ok(_) => row.wrong.push("ready, with a cache that no machine holds".to_owned()),
        Err(error) => {
            let said = format!("{error:#}");
            row.note = said.lines().last().unwrap_or_default().chars().take(200).collect();
            row.expect(said.contains("slots"), "expected words that name the slots");
            row.expect(!said.contains("signal"), "the server was killed");
        }
    }
    rows.push(row);
    for gibibytes in [1, 2, 4] {
        let mut row = Row::new(&format!("memory at start: ulimit -v {gibibytes} GiB"));
        let mut launch = ring.launch(&row.name, ring.bundle_flags());
        launch.address_space = Some(gibibytes << 30);
        if let Log::File(path) = &launch.log {
            std::fs::write(path, "")?;
        }
        match launch.ready() {
            Ok(mut server) => {
                row.note = match ring.ask(&server) {
                    Ok(()) => "ready, and answers".to_owned(),
                    Err(error) => format!("ready, and a question: {error:#}"),
                };
                row.expect(
                    server.wait(Duration::from_millis(300)).is_none(),
                    "the server ended at a question",
                );
                row.expect(!row.note.contains("500"), "ready, but a question is answered 500");
            }
            Err(error) => {
                let said = format!("{error:#}");
                row.note = said.lines().last().unwrap_or_default().chars().take(200).collect();
                row.expect(!said.contains("signal"), "the server was killed or aborted");
                row.expect(!said.contains("panicked"), "the server panicked");
            }
        }
        rows.push(row);
    }
    rows.push(in_a_group(ring)?);
    Ok(rows)
}

/// The same in a control group, where this machine lets us make one.
fn in_a_group(ring: &Ring<'_>) -> Result<Row> {
    let mut row = Row::new("memory at start: a control group of 256 MiB, 20,000 slots");
    let Some(group) = Group::new(256 << 20) else {
        row.note = "skipped: no control group can be made here".to_owned();
        return Ok(row);
    };
    let flags = [ring.bundle_flags(), vec!["--engine-slots".to_owned(), "20000".to_owned()]].concat();
    let launch = ring.launch(&row.name, flags);
    let started = group.start(&launch)?;
    row.note = started;
    row.expect(!row.note.contains("ready"), "ready, with a cache that the group cannot hold");
    row.expect(!row.note.contains("signal"), "the server was killed");
    Ok(row)
}
