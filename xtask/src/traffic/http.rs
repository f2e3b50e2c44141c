//! HTTP/1.1 by hand, for `soak` and `abuse`: no library sends half a request, or returns an answer's bytes as
//! they came.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest answer that is read, bytes: ours are far shorter, and one that repeats its request is not worth
/// more.
const MOST: u64 = 64 << 20;

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header, by its name in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection whose reads and writes fail after `patience`.
pub(crate) fn connect(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// The bytes of a request's head, up to and with the empty line.
pub(crate) fn head(method: &str, path: &str, host: SocketAddr, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The bytes of a request with a JSON body; `key` is sent as a bearer token.
pub(crate) fn post(path: &str, host: SocketAddr, key: Option<&str>, body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let bearer = key.map(|key| format!("Bearer {key}"));
    let mut headers = vec![("Content-Type", "application/json"), ("Content-Length", length.as_str())];
    headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
    [head("POST", path, host, &headers), body.to_vec()].concat()
}

/// Sends on a connection of its own and reads the answer. A server may answer before it has read everything.
pub(crate) fn exchange(address: SocketAddr, request: &[u8], patience: Duration) -> io::Result<Answer> {
    let mut stream = connect(address, patience)?;
    let written = stream.write_all(request);
    match (read(&mut BufReader::new(stream)), written) {
        (Ok(answer), _) => Ok(answer),
        (Err(error), Ok(())) | (Err(_), Err(error)) => Err(error),
    }
}

/// Reads one answer. Interim answers (100 Continue) before it are passed over.
pub(crate) fn read(stream: &mut impl BufRead) -> io::Result<Answer> {
    loop {
        let answer = read_one(stream)?;
        if answer.status >= 200 {
            return Ok(answer);
        }
    }
}

fn read_one(stream: &mut impl BufRead) -> io::Result<Answer> {
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| broken(format!("no status line: {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| broken(format!("no header: {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if status < 200 || status == 204 || status == 304 {
        return Ok(answer);
    }
    if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        while let Some(chunk) = read_chunk(stream)? {
            answer.body.extend(chunk);
        }
    } else if let Some(length) = answer.header("content-length") {
        let length: u64 = length.parse().map_err(|_| broken(format!("Content-Length: {length}")))?;
        stream.take(length.min(MOST)).read_to_end(&mut answer.body)?;
        if answer.body.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    } else {
        stream.take(MOST).read_to_end(&mut answer.body)?;
    }
    Ok(answer)
}

/// The next chunk of a body, none at its end.
fn read_chunk(stream: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let size = line(stream)?;
    let length = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
    let length = length.map_err(|_| broken(format!("no chunk: {size:?}")))?;
    let mut chunk = Vec::new();
    stream.take(length.min(MOST)).read_to_end(&mut chunk)?;
    if chunk.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line(stream)?;
    Ok((length > 0).then_some(chunk))
}

/// A line without its end.
fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    stream.take(64 << 10).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.pop_if(|last| *last == b'\r');
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_in_both_framings() {
        let whole =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabcHTTP";
        let answer = read(&mut &whole[..]).unwrap();
        assert_eq!((answer.status, &answer.body[..], answer.header("x-a")), (200, &b"abc"[..], Some("b")));
        let chunks =
            b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        assert_eq!(read(&mut &chunks[..]).unwrap().body, b"abc");
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        for bytes in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "nonsense\r\n\r\n"]
        {
            assert!(read(&mut bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }
}
