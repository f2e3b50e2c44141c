//! A client's socket, watched: what came and went is told to [`Activity`], and the end of what a client sends
//! is understood.
//!
//! A client may end its side after its last request and still want the answer (RFC 9112, 9.6), and a client
//! that is gone looks the same to TCP: both send FIN. They differ in what they do with data, so the end is
//! kept from hyper while an answer is being made, and after a moment the server sends something that belongs
//! to the answer anyway: the first letter of its status line, or a comment in a stream. Who wants the answer
//! takes it; the system of one that is gone resets the connection, which ends the request and frees its slot.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_io_timeout::TimeoutStream;

use super::activity::Activity;

/// An answer that is not there by then is begun, to see whether someone takes it. A client that announced
/// that this request is its last may well end its side and wait; one that keeps its connection and ends its
/// side has most likely given up.
pub(super) const ANNOUNCED_PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_millis(250);

/// How often it is looked whether the connection was reset meanwhile.
const CHECK: Duration = Duration::from_millis(100);

/// What precedes an answer and is no part of it.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Every answer begins with this letter.
const FIRST_LETTER: &[u8] = b"H";

/// What a client still sends when its answer is out and the rest of its request is of no interest is read and
/// thrown away, so much and so long: many clients send everything before they look at the answer, and to
/// close at once would take it from them.
const DISCARD_BYTES: usize = 128 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(2);
const DISCARD_BUFFER: usize = 16 << 10;

/// The socket.
pub(super) struct Socket {
    /// A write that makes no progress for the limit fails: a peer that stops reading would hold its
    /// connection, and what it asked for, for ever.
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    activity: Arc<Activity>,
    /// Runs from the end of what the client sends on.
    ended: Option<Pin<Box<Sleep>>>,
    /// The answer's first letter is out, and hyper does not know.
    letter_sent: bool,
    discarding: Option<Discarding>,
}

struct Discarding {
    deadline: Pin<Box<Sleep>>,
    bytes: usize,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, write_limit: Duration, activity: Arc<Activity>) -> Self {
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(write_limit));
        Self { stream, activity, ended: None, letter_sent: false, discarding: None }
    }

    /// The client has ended its side: ready when hyper is to know.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.activity.holds_end(cx.waker()) {
                return Poll::Ready(Ok(()));
            }
            let patience = if self.activity.last_request() { ANNOUNCED_PATIENCE } else { PATIENCE };
            let timer = self.ended.get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(Instant::now() + CHECK);
            if let Some(error) = self.stream.get_ref().take_error()? {
                return Poll::Ready(Err(error));
            }
            if !self.letter_sent
                && self.activity.answer_may_begin()
                && let Poll::Ready(written) = self.stream.as_mut().poll_write(cx, FIRST_LETTER)
            {
                self.letter_sent = written? > 0;
            }
        }
    }

    /// Reads and forgets the rest of a request.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stream, activity, discarding, .. } = self;
        let discarding = discarding
            .get_or_insert_with(|| Discarding { deadline: Box::pin(sleep(DISCARD_TIME)), bytes: 0 });
        let mut buffer = [0; DISCARD_BUFFER];
        while activity.mid_request() && discarding.bytes < DISCARD_BYTES {
            let mut buffer = ReadBuf::new(&mut buffer);
            match stream.as_mut().poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    discarding.bytes += buffer.filled().len();
                    activity.received(buffer.filled());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return discarding.deadline.as_mut().poll(cx),
            }
            if discarding.deadline.as_mut().poll(cx).is_ready() {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Tells what a write of `bytes` came to; all there was to write is `total` long.
    fn noted(&self, bytes: &[u8], total: usize, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let answer = total != CONTINUE.len() || bytes != CONTINUE;
        let some = matches!(written, Poll::Ready(Ok(count)) if count > 0);
        self.activity.wrote(answer && some, written.is_pending());
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ended.is_none() {
            let before = buffer.filled().len();
            ready!(this.stream.as_mut().poll_read(cx, buffer))?;
            let new = buffer.filled().get(before..).unwrap_or_default();
            if !new.is_empty() || buffer.remaining() == 0 {
                this.activity.received(new);
                return Poll::Ready(Ok(()));
            }
        }
        this.poll_ended(cx)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = match bytes.split_first() {
            Some((_, [])) if this.letter_sent => {
                this.letter_sent = false;
                Poll::Ready(Ok(1))
            }
            Some((_, rest)) if this.letter_sent => {
                let written = this.stream.as_mut().poll_write(cx, rest);
                this.letter_sent = !matches!(written, Poll::Ready(Ok(_)));
                written.map_ok(|count| count + 1)
            }
            _ => this.stream.as_mut().poll_write(cx, bytes),
        };
        this.noted(bytes, bytes.len(), written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        if self.letter_sent {
            return self.poll_write(cx, first);
        }
        let written = self.stream.as_mut().poll_write_vectored(cx, slices);
        self.noted(first, slices.iter().map(|slice| slice.len()).sum(), written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.discarding.is_none() {
            ready!(this.stream.as_mut().poll_shutdown(cx))?;
        }
        this.poll_discard(cx).map(Ok)
    }
}
