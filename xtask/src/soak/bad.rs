//! Requests that are broken, hostile, or given up half-way.

use std::io::{self, BufRead, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::shell;
use crate::traffic::PAGE;
use crate::traffic::http::{self, Answer};
use crate::traffic::pictures::{data_uri, grey_png, gzip_bomb, profile_bomb, stretched_jpeg};
use crate::traffic::random::Random;

const CHAT: &str = "/v1/chat/completions";
/// How long a bad client waits. What takes longer is the server's to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a bad request ended.
pub(super) enum Outcome {
    /// The client left without waiting for an answer.
    Left,
    Answered(Answer),
}

/// What bad clients have at hand.
pub(super) struct Bad {
    address: SocketAddr,
    key: &'static str,
    page: String,
    pictures: Vec<String>,
    bombs: Vec<Vec<u8>>,
}

type Act = fn(&Bad, &mut Random) -> io::Result<Outcome>;

const ACTS: &[(&str, Act)] = &[
    ("hang-up in the body", Bad::leave_in_body),
    ("hang-up in the stream", Bad::leave_in_stream),
    ("hang-up before the answer", Bad::leave_before_answer),
    ("half-close, then a read", Bad::half_close),
    ("slow body", Bad::slow_body),
    ("half headers", Bad::half_headers),
    ("idle connection", Bad::idle),
    ("oversized body announced", Bad::oversized),
    ("broken JSON", Bad::broken_json),
    ("invalid UTF-8", Bad::invalid_utf8),
    ("deep nesting", Bad::nested),
    ("wrong field", Bad::wrong_field),
    ("long wrong value", Bad::long_value),
    ("wrong key", Bad::wrong_key),
    ("unknown route", Bad::unknown_route),
    ("wrong media type", Bad::wrong_media_type),
    ("thousands of messages", Bad::many_messages),
    ("thousands of parts", Bad::many_parts),
    ("large tree in a field", Bad::tree),
    ("hostile picture", Bad::hostile_picture),
    ("hostile URL", Bad::hostile_url),
    ("gzip bomb", Bad::gzip),
    ("pipelining", Bad::pipeline),
    ("broken chunks", Bad::broken_chunks),
    ("two framings", Bad::two_framings),
    ("flood of headers", Bad::header_flood),
];

impl Bad {
    pub(super) fn new(address: SocketAddr, key: &'static str) -> Result<Self> {
        let root = shell::root();
        let page = std::fs::read(root.join(PAGE))?;
        let jpeg = std::fs::read(root.join("tests/fixtures/images/rocket.jpg"))?;
        let huge = std::fs::read(root.join("tests/fixtures/images/huge.png"))?;
        let pictures: [&[u8]; 13] = [
            &page[..page.len() / 2],
            &page[..60],
            &jpeg[..jpeg.len() / 2],
            &jpeg[..200],
            &huge,
            &grey_png(1, 2_000_000),
            &grey_png(2_000_000, 1),
            &profile_bomb(64 << 20),
            &stretched_jpeg(&jpeg[..2000], 7000),
            b"GIF89a\xff\xff\xff\xff\0\0\0",
            b"BM",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"",
        ];
        let pictures = pictures.iter().map(|picture| data_uri(picture)).collect();
        let bombs = [32, 128].map(|mebibytes| gzip_bomb(mebibytes << 20)).into();
        Ok(Self { address, key, page: data_uri(&page), pictures, bombs })
    }

    /// Does something bad, and says what.
    pub(super) fn act(&self, random: &mut Random) -> (&'static str, io::Result<Outcome>) {
        let (name, act) = random.pick(ACTS);
        (name, act(self, random))
    }

    fn connect(&self) -> io::Result<TcpStream> {
        http::connect(self.address, PATIENCE)
    }

    fn post(&self, body: &[u8]) -> Vec<u8> {
        http::post(CHAT, self.address, Some(self.key), body)
    }

    fn answered(&self, request: &[u8]) -> io::Result<Outcome> {
        http::exchange(self.address, request, PATIENCE).map(Outcome::Answered)
    }

    fn refused(&self, body: &Value) -> io::Result<Outcome> {
        self.answered(&self.post(body.to_string().as_bytes()))
    }

    /// A good question about the page, with a long answer.
    fn question(&self, more: Value) -> Vec<u8> {
        let content = json!([
            {"type": "image_url", "image_url": {"url": self.page}},
            {"type": "text", "text": "Which number belongs to DZ?"},
        ]);
        self.post(with(&json!([{"role": "user", "content": content}]), more).to_string().as_bytes())
    }

    fn leave_in_body(&self, random: &mut Random) -> io::Result<Outcome> {
        let request = self.question(json!({}));
        self.connect()?.write_all(&request[..1 + random.below(request.len() - 1)])?;
        Ok(Outcome::Left)
    }

    fn leave_in_stream(&self, random: &mut Random) -> io::Result<Outcome> {
        let mut stream = BufReader::new(self.connect()?);
        stream.get_mut().write_all(&self.question(json!({"stream": true, "max_tokens": 200})))?;
        let mut line = Vec::new();
        for _ in 0..4 + random.below(12) {
            stream.read_until(b'\n', &mut line)?;
        }
        Ok(Outcome::Left)
    }

    fn leave_before_answer(&self, random: &mut Random) -> io::Result<Outcome> {
        let mut stream = self.connect()?;
        stream.write_all(&self.question(json!({"n": 4, "temperature": 1, "max_tokens": 200})))?;
        thread::sleep(Duration::from_millis(random.below(30) as u64));
        Ok(Outcome::Left)
    }

    fn half_close(&self, _: &mut Random) -> io::Result<Outcome> {
        let mut stream = self.connect()?;
        stream.write_all(&self.question(json!({})))?;
        stream.shutdown(Shutdown::Write)?;
        http::read(&mut BufReader::new(stream)).map(Outcome::Answered)
    }

    fn slow_body(&self, _: &mut Random) -> io::Result<Outcome> {
        let mut stream = self.connect()?;
        let request = self
            .post(with(&json!([{"role": "user", "content": "Hi"}]), json!({"n": 0})).to_string().as_bytes());
        for piece in request.chunks(request.len().div_ceil(10)) {
            stream.write_all(piece)?;
            thread::sleep(Duration::from_millis(20));
        }
        http::read(&mut BufReader::new(stream)).map(Outcome::Answered)
    }

    fn half_headers(&self, random: &mut Random) -> io::Result<Outcome> {
        let mut stream = self.connect()?;
        let head = http::head("POST", CHAT, self.address, &[("X-Half", "x")]);
        stream.write_all(&head[..1 + random.below(head.len() - 3)])?;
        thread::sleep(Duration::from_millis(100));
        Ok(Outcome::Left)
    }

    fn idle(&self, random: &mut Random) -> io::Result<Outcome> {
        let _stream = self.connect()?;
        thread::sleep(Duration::from_millis(random.below(300) as u64));
        Ok(Outcome::Left)
    }

    /// Says what it would send, and does not: the answer is to come all the same, or the client leaves.
    fn oversized(&self, _: &mut Random) -> io::Result<Outcome> {
        let mut stream = self.connect()?;
        let bearer = format!("Bearer {}", self.key);
        let headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", "1000000000"),
            ("Authorization", bearer.as_str()),
        ];
        stream.write_all(&http::head("POST", CHAT, self.address, &headers))?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        match http::read(&mut BufReader::new(stream)) {
            Ok(answer) => Ok(Outcome::Answered(answer)),
            Err(_) => Ok(Outcome::Left),
        }
    }

    fn broken_json(&self, random: &mut Random) -> io::Result<Outcome> {
        let whole = with(&json!([{"role": "user", "content": "Hi"}]), json!({"n": 1})).to_string();
        let mut body = whole.into_bytes();
        match random.below(3) {
            0 => body.truncate(random.below(body.len())),
            1 => body.extend(b"{}"),
            _ => body.insert(1 + random.below(5), b'}'),
        }
        self.answered(&self.post(&body))
    }

    fn invalid_utf8(&self, _: &mut Random) -> io::Result<Outcome> {
        self.answered(&self.post(b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\xc0\"}]}"))
    }

    fn nested(&self, random: &mut Random) -> io::Result<Outcome> {
        let field = random.pick(&["messages", "tools", "response_format", "arrcoc", "no_such_field"]);
        let body = format!("{{\"{field}\":{}", "[{\"a\":".repeat(20_000));
        self.answered(&self.post(body.as_bytes()))
    }

    fn wrong_field(&self, random: &mut Random) -> io::Result<Outcome> {
        let wrong = [
            json!({"temperature": "hot"}),
            json!({"n": 1000}),
            json!({"max_tokens": -1}),
            json!({"max_tokens": 1e300}),
            json!({"messages": {}}),
            json!({"messages": [{"role": "nobody", "content": "x"}]}),
            json!({"messages": [{"role": "user", "content": 7}]}),
            json!({"stop": ["x".repeat(5000)]}),
            json!({"tools": [{"type": "function"}]}),
            json!({"arrcoc": {"budget": -5}}),
            json!({"top_logprobs": 3}),
            json!({"model": "no-such-model"}),
        ];
        self.refused(&with(&json!([{"role": "user", "content": "Hi"}]), random.pick(&wrong).clone()))
    }

    fn long_value(&self, random: &mut Random) -> io::Result<Outcome> {
        let long = "\u{1b}]0;x\n".repeat(20_000);
        let wrong = [
            json!({"messages": [{"role": long, "content": "x"}]}),
            json!({"messages": [{"role": "user", "content": [{"type": long}]}]}),
            json!({"model": long}),
            json!({"n": long}),
            json!({"arrcoc": {"budget": long}}),
        ];
        self.refused(&with(&json!([{"role": "user", "content": "Hi"}]), random.pick(&wrong).clone()))
    }

    fn wrong_key(&self, _: &mut Random) -> io::Result<Outcome> {
        let body = with(&json!([{"role": "user", "content": "Hi"}]), json!({})).to_string();
        self.answered(&http::post(CHAT, self.address, Some("guessed"), body.as_bytes()))
    }

    fn unknown_route(&self, random: &mut Random) -> io::Result<Outcome> {
        let path = random.pick(&[
            "/v1/engines",
            "/../../etc/passwd",
            "/v1/chat/completions/",
            "/%00",
            "//",
            "/admin",
        ]);
        let method = random.pick(&["GET", "DELETE", "PATCH", "BREW"]);
        self.answered(&http::head(method, path, self.address, &[("Connection", "close")]))
    }

    fn wrong_media_type(&self, _: &mut Random) -> io::Result<Outcome> {
        let bearer = format!("Bearer {}", self.key);
        let headers =
            [("Content-Type", "text/plain"), ("Content-Length", "2"), ("Authorization", bearer.as_str())];
        self.answered(&[http::head("POST", CHAT, self.address, &headers), b"{}".to_vec()].concat())
    }

    fn many_messages(&self, _: &mut Random) -> io::Result<Outcome> {
        let message = json!({"role": "user", "content": ""});
        self.refused(&with(&vec![message; 20_000].into(), json!({})))
    }

    fn many_parts(&self, _: &mut Random) -> io::Result<Outcome> {
        let part = json!({"type": "text", "text": "x"});
        self.refused(&with(&json!([{"role": "user", "content": vec![part; 20_000]}]), json!({})))
    }

    fn tree(&self, random: &mut Random) -> io::Result<Outcome> {
        let tree = Value::from(vec![json!({"": 0}); 20_000]);
        let field = random.pick(&["tools", "response_format", "logit_bias", "functions", "metadata"]);
        self.refused(&with(&json!([{"role": "user", "content": "Hi"}]), json!({*field: tree, "n": 0})))
    }

    fn hostile_picture(&self, random: &mut Random) -> io::Result<Outcome> {
        let picture: &String = random.pick(&self.pictures);
        self.hostile(picture)
    }

    fn hostile_url(&self, random: &mut Random) -> io::Result<Outcome> {
        let urls = [
            "http://169.254.169.254/latest/meta-data/",
            "http://127.0.0.1:1/x.png",
            "file:///etc/passwd",
            "data:image/png;base64,@@@@",
            "data:image/png;base64",
            "data:",
            "\0",
        ];
        let url: &&str = random.pick(&urls);
        self.hostile(url)
    }

    fn hostile(&self, url: &str) -> io::Result<Outcome> {
        let content =
            json!([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]);
        self.refused(&with(&json!([{"role": "user", "content": content}]), json!({})))
    }

    fn gzip(&self, random: &mut Random) -> io::Result<Outcome> {
        let body = random.pick(&self.bombs);
        let (length, bearer) = (body.len().to_string(), format!("Bearer {}", self.key));
        let headers = [
            ("Content-Type", "application/json"),
            ("Content-Encoding", "gzip"),
            ("Content-Length", length.as_str()),
            ("Authorization", bearer.as_str()),
        ];
        self.answered(&[http::head("POST", CHAT, self.address, &headers), body.clone()].concat())
    }

    /// Three requests at once; the last answer is told.
    fn pipeline(&self, _: &mut Random) -> io::Result<Outcome> {
        let get = http::head("GET", "/health", self.address, &[]);
        let bad = self.post(b"{}");
        let mut stream = BufReader::new(self.connect()?);
        stream.get_mut().write_all(&[&get[..], &get, &bad].concat())?;
        let first = [http::read(&mut stream)?, http::read(&mut stream)?];
        if let Some(wrong) = first.into_iter().find(|answer| answer.status != 200) {
            return Ok(Outcome::Answered(wrong));
        }
        http::read(&mut stream).map(Outcome::Answered)
    }

    fn broken_chunks(&self, random: &mut Random) -> io::Result<Outcome> {
        let bearer = format!("Bearer {}", self.key);
        let headers = [
            ("Content-Type", "application/json"),
            ("Transfer-Encoding", "chunked"),
            ("Authorization", bearer.as_str()),
        ];
        let chunks: &[u8] = random.pick::<&[u8]>(&[
            &b"zz\r\n{}\r\n0\r\n\r\n"[..],
            b"ffffffffffffffffff\r\n{}",
            b"2\r\n{}X\r\n0\r\n\r\n",
        ]);
        self.answered(&[&http::head("POST", CHAT, self.address, &headers), chunks].concat())
    }

    fn two_framings(&self, _: &mut Random) -> io::Result<Outcome> {
        let headers =
            [("Content-Type", "application/json"), ("Content-Length", "2"), ("Transfer-Encoding", "chunked")];
        let head = http::head("POST", CHAT, self.address, &headers);
        self.answered(&[&head[..], b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"].concat())
    }

    fn header_flood(&self, random: &mut Random) -> io::Result<Outcome> {
        let (many, long) = *random.pick(&[(2000, 8), (1, 900_000)]);
        let value = "x".repeat(long);
        let headers = vec![("X-Flood", value.as_str()); many];
        self.answered(&http::head("GET", "/health", self.address, &headers))
    }
}

fn with(messages: &Value, more: Value) -> Value {
    let mut body = json!({"messages": messages, "max_tokens": 4});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}
