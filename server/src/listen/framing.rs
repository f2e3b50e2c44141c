//! Where requests begin and end among the bytes of a connection, beside hyper, which does not tell: it takes
//! a line that ends in a bare line feed, drops `Content-Length` beside `Transfer-Encoding`, and keeps to
//! itself whether a request has arrived in whole.

/// What of a line is kept: enough for the fields that are looked at. One of these that is longer is a fault.
const LINE_BYTES: usize = 256;

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Framing {
    state: State,
    line: Vec<u8>,
    /// The current line is longer than what is kept of it.
    cut: bool,
    /// The byte before the current one was a carriage return.
    carriage_return: bool,
    head: Head,
    fault: Option<&'static str>,
    requests: u64,
}

/// What comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A request, or the end.
    #[default]
    Start,
    /// The rest of a request line.
    RequestLine,
    /// Header lines.
    Headers,
    /// So many bytes of body.
    Body(u64),
    /// The line with a chunk's size.
    ChunkSize,
    /// So many bytes of a chunk, its line end among them.
    Chunk(u64),
    /// Lines after the last chunk.
    Trailers,
    /// What hyper refuses, or ought to: nothing is known any more.
    Lost,
}

#[derive(Debug, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    /// Follows these bytes.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            match self.state {
                State::Lost => return,
                State::Body(left) | State::Chunk(left) => {
                    let taken = left.min(bytes.len() as u64);
                    bytes = bytes.get(taken as usize..).unwrap_or_default();
                    self.state = match (self.state, left - taken) {
                        (State::Body(_), 0) => State::Start,
                        (State::Body(_), left) => State::Body(left),
                        (_, 0) => State::ChunkSize,
                        (_, left) => State::Chunk(left),
                    };
                }
                _ => {
                    self.byte(first);
                    bytes = rest;
                }
            }
        }
    }

    /// Whether every request that began has arrived in whole.
    pub(super) fn between_requests(&self) -> bool {
        self.state == State::Start
    }

    /// Requests that began to arrive so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether a request's head has arrived and its body has not.
    pub(super) fn in_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::ChunkSize | State::Chunk(_) | State::Trailers)
    }

    /// What a request did that two readers of it could understand in two ways.
    pub(super) fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    fn byte(&mut self, byte: u8) {
        if self.state == State::Start && !matches!(byte, b'\r' | b'\n') {
            self.state = State::RequestLine;
            self.requests += 1;
        }
        if byte != b'\n' {
            self.carriage_return = byte == b'\r';
            if self.line.len() < LINE_BYTES {
                self.line.push(byte);
            } else {
                self.cut = true;
            }
            return;
        }
        if !self.carriage_return {
            self.fault.get_or_insert("a line that ends in a bare line feed");
        }
        self.carriage_return = false;
        let mut line = std::mem::take(&mut self.line);
        self.line_ended(line.trim_ascii());
        self.cut = false;
        line.clear();
        self.line = line;
    }

    fn line_ended(&mut self, line: &[u8]) {
        self.state = match (self.state, line.is_empty()) {
            (State::RequestLine, _) => State::Headers,
            (State::Headers, false) => {
                self.header(line);
                return;
            }
            (State::Headers, true) => self.head_ended(),
            (State::ChunkSize, _) => chunk_size(line).map_or(State::Lost, |size| match size {
                0 => State::Trailers,
                size => size.checked_add(2).map_or(State::Lost, State::Chunk),
            }),
            (State::Trailers, true) => State::Start,
            (state, _) => state,
        };
    }

    fn header(&mut self, line: &[u8]) {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (length, coding) = (b"content-length", b"transfer-encoding");
        if self.cut && (name.eq_ignore_ascii_case(length) || name.eq_ignore_ascii_case(coding)) {
            self.fault.get_or_insert("a Content-Length or Transfer-Encoding that is too long");
            self.state = State::Lost;
        } else if name.eq_ignore_ascii_case(length) {
            match std::str::from_utf8(value.trim_ascii()).ok().and_then(|text| text.parse().ok()) {
                Some(length) => self.head.length = Some(length),
                // hyper refuses it.
                None => self.state = State::Lost,
            }
        } else if name.eq_ignore_ascii_case(coding) {
            self.head.chunked = true;
        }
    }

    fn head_ended(&mut self) -> State {
        let Head { length, chunked } = std::mem::take(&mut self.head);
        if chunked && length.is_some() {
            self.fault.get_or_insert("Content-Length beside Transfer-Encoding");
        }
        match length {
            _ if chunked => State::ChunkSize,
            Some(length) if length > 0 => State::Body(length),
            _ => State::Start,
        }
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    const LENGTH: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab\n\nc";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                           3;x=y\r\na\nb\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n";

    /// The places, in bytes, at which no request is under way.
    fn boundaries(text: &str) -> (Vec<usize>, Option<&'static str>) {
        let mut framing = Framing::default();
        let mut places = Vec::new();
        for (place, byte) in text.bytes().enumerate() {
            framing.read(&[byte]);
            if framing.between_requests() {
                places.push(place + 1);
            }
        }
        (places, framing.fault())
    }

    #[test]
    fn requests_end_where_they_do_however_they_are_cut() {
        let (get, length, chunked) = (GET.len(), LENGTH.len(), CHUNKED.len());
        let text = format!("{GET}{LENGTH}{CHUNKED}{GET}");
        let ends = vec![get, get + length, get + length + chunked, get + length + chunked + get];
        assert_eq!(boundaries(&text), (ends, None));
        for pieces in [1, 2, 3, 7, 64, text.len()] {
            let mut framing = Framing::default();
            text.as_bytes().chunks(pieces).for_each(|piece| framing.read(piece));
            assert!(framing.between_requests() && framing.fault().is_none(), "{pieces}");
        }
    }

    #[test]
    fn what_two_readers_could_understand_in_two_ways_is_a_fault() {
        for text in [
            "GET / HTTP/1.1\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\n\r\n",
            &format!("POST / HTTP/1.1\r\nContent-Length: {}5\r\n\r\n", "0".repeat(300)),
            &format!("POST / HTTP/1.1\r\nTransfer-Encoding: {}chunked\r\n\r\n", " ".repeat(300)),
        ] {
            assert!(boundaries(text).1.is_some(), "{text:?}");
        }
    }

    #[test]
    fn half_a_request_is_not_a_whole_one() {
        for text in [GET, LENGTH, CHUNKED] {
            for end in 1..text.len() {
                let mut framing = Framing::default();
                framing.read(&text.as_bytes()[..end]);
                assert!(!framing.between_requests(), "{:?}", &text[..end]);
                let head = text.find("\r\n\r\n").map_or(0, |place| place + 4);
                assert_eq!(framing.in_body(), end >= head, "{:?}", &text[..end]);
            }
        }
    }
}
