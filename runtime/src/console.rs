//! How the programs write: results to standard output, everything else to standard error.
//!
//! A result is what the user asked for. If it cannot be written, that is an error, unless its reader has
//! left. Logs, notes and progress only accompany the work. They go through a bounded queue to a thread of
//! their own: when the reader stalls, the disk is full or the pipe is closed, they are dropped and counted,
//! and nobody waits for them.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Messages that may wait to be written.
const QUEUE_MESSAGES: usize = 8192;

/// Their bytes.
const QUEUE_BYTES: usize = 8 << 20;

/// How long the end of a program waits for what it said last.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a result or a progress bar waits for the notes before it, so that both are read in order.
const IN_ORDER: Duration = Duration::from_millis(250);

/// How long a result waits for a non-blocking standard output that takes nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// A writer that cannot take more now is asked again after this time.
const RETRY: Duration = Duration::from_millis(10);

/// Where log lines go: each write is queued whole for standard error, and never waits or fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        standard_error().push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says something to people on standard error, in lines of its own.
pub fn note(text: &str) {
    standard_error().push(format!("{text}\n").into_bytes());
}

/// Messages that standard error did not get since the program started.
pub fn dropped() -> u64 {
    standard_error().counts.dropped.load(Ordering::Relaxed)
}

/// Waits a moment for what was said so far, so that what comes next is read after it.
pub fn in_order() {
    standard_error().flush(IN_ORDER);
}

/// Writes a result to standard output. A reader that has left (`... | head`) has all that it wants: that is
/// no error.
///
/// # Errors
/// Any other reason why it cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    in_order();
    finished(write_standard_output(text.as_bytes()))
}

/// The outcome of writing a result: that its reader has left is none.
///
/// # Errors
/// All other errors.
pub fn finished(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes to standard output what helps but is no result, an address for example. Whether it gets there does
/// not matter.
pub fn offer(text: &str) {
    let (done, wait) = sync_channel(1);
    let text = text.as_bytes().to_vec();
    // On a thread of its own: nobody may be reading.
    let writer = Builder::new().name("arrcoc-stdout".into()).spawn(move || {
        let _ = write_standard_output(&text);
        let _ = done.send(());
    });
    if writer.is_ok() {
        let _ = wait.recv_timeout(LAST_WORDS);
    }
}

fn write_standard_output(bytes: &[u8]) -> io::Result<()> {
    write_patiently(&mut io::stdout().lock(), bytes, PATIENCE)
}

/// Writes all of it, also where somebody else has made the descriptor non-blocking: it is asked again until
/// it took nothing for `patience`.
fn write_patiently(writer: &mut impl Write, bytes: &[u8], patience: Duration) -> io::Result<()> {
    let (mut left, mut stalled) = (bytes, None);
    loop {
        let step = if left.is_empty() { writer.flush().map(|()| None) } else { writer.write(left).map(Some) };
        match step {
            Ok(None) => return Ok(()),
            Ok(Some(0)) => return Err(ErrorKind::WriteZero.into()),
            Ok(Some(more)) => (left, stalled) = (&left[more..], None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if stalled.get_or_insert_with(Instant::now).elapsed() >= patience {
                    return Err(error);
                }
                std::thread::sleep(RETRY);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Says what a parser of command lines has to say: help and the version (`code` 0) are results, everything
/// else is about a wrong command line. `coloured` is for terminals.
pub fn usage(plain: &impl fmt::Display, coloured: &impl fmt::Display, code: i32) -> ExitCode {
    let terminal = if code == 0 { io::stdout().is_terminal() } else { io::stderr().is_terminal() };
    let with_colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = if with_colours { coloured.to_string() } else { plain.to_string() };
    if code != 0 {
        note(text.trim_end_matches('\n'));
    } else if let Err(error) = print(&text) {
        note(&format!("error: cannot write to standard output: {error}"));
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::try_from(code).unwrap_or(2))
}

/// Waits, for a second at most, until everything that was said is written. For the end of a program.
pub fn flush() {
    standard_error().flush(LAST_WORDS);
}

/// Calls [`flush`] when it is dropped: the first local of `main`.
#[derive(Debug)]
pub struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush();
    }
}

/// Has a file that reaches `ulimit -f` be an error of the write, as a full disk is, instead of the end of the
/// process. To be called before there are threads.
pub fn survive_full_files() {
    // SAFETY: the call names a signal and the constant that ignores it; no code of ours runs in a handler.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Has panics reported with [`note`]. Rust's own report would wait for a reader that stalls.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        note(&format!("thread `{}` {panic}", thread.name().unwrap_or("without a name")));
    }));
}

fn standard_error() -> &'static Queue {
    static QUEUE: OnceLock<Queue> = OnceLock::new();
    QUEUE.get_or_init(|| Queue::start(io::stderr()))
}

/// Messages on their way to a writer.
#[derive(Debug)]
struct Queue {
    sender: SyncSender<Item>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Bytes in the queue.
    queued: AtomicUsize,
    /// Messages that found no room, and those that could not be written.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Item {
    Message(Vec<u8>),
    /// Everything before it is written, or dropped.
    Mark(SyncSender<()>),
}

impl Queue {
    /// Starts the thread that writes. Without a thread, everything is dropped.
    fn start(writer: impl Write + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(QUEUE_MESSAGES);
        let counts = Arc::new(Counts::default());
        let thread_counts = Arc::clone(&counts);
        let _ =
            Builder::new().name("arrcoc-log".into()).spawn(move || drain(&receiver, writer, &thread_counts));
        Self { sender, counts }
    }

    /// Queues a message, or drops it where there is no room.
    fn push(&self, message: Vec<u8>) {
        let bytes = message.len();
        let queued = self.counts.queued.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if queued > QUEUE_BYTES || self.sender.try_send(Item::Message(message)).is_err() {
            self.counts.queued.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for what is queued; whether it was dealt with in time.
    fn flush(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        let (done, wait) = sync_channel(1);
        let mut mark = Item::Mark(done);
        loop {
            match self.sender.try_send(mark) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < end => mark = back,
                Err(_) => return false,
            }
            std::thread::sleep(RETRY);
        }
        let left = end.saturating_duration_since(Instant::now());
        wait.recv_timeout(left) != Err(RecvTimeoutError::Timeout)
    }
}

/// Writes what comes, until the queue is gone. What cannot be written is counted, and the next message tried:
/// a disk that was full may have room again.
fn drain(queue: &Receiver<Item>, mut writer: impl Write, counts: &Counts) {
    let mut torn = false;
    for item in queue {
        match item {
            Item::Message(message) => {
                // The beginning of a message that did not fit is no part of this one.
                torn = torn && write_as_far_as_possible(&mut writer, b"\n") == 0;
                let written = if torn { 0 } else { write_as_far_as_possible(&mut writer, &message) };
                if written < message.len() {
                    counts.dropped.fetch_add(1, Ordering::Relaxed);
                    torn |= written > 0;
                }
                counts.queued.fetch_sub(message.len(), Ordering::Relaxed);
            }
            Item::Mark(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

/// Returns how many bytes the writer took.
fn write_as_far_as_possible(writer: &mut impl Write, message: &[u8]) -> usize {
    let mut written = 0;
    while written < message.len() {
        match writer.write(&message[written..]) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else has made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    /// Has room for so many bytes more.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn room(&self, bytes: usize) {
            self.0.lock().unwrap().1 = bytes;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, room) = &mut *self.0.lock().unwrap();
            let fits = bytes.len().min(*room);
            if fits == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            *room -= fits;
            text.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_full_disk_refuses_is_counted_and_torn_lines_are_ended() {
        let disk = Disk::default();
        let queue = Queue::start(disk.clone());
        for (room, message) in [(100, "one\n"), (3, "second\n"), (0, "third\n"), (100, "four\n")] {
            disk.room(room);
            queue.push(message.into());
            assert!(queue.flush(SOON));
        }
        assert_eq!(disk.text(), "one\nsec\nfour\n");
        assert_eq!(queue.counts.dropped.load(Ordering::Relaxed), 2);
        assert_eq!(queue.counts.queued.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_writer_that_stalls_holds_nobody_up_and_memory_is_bounded() {
        struct Stalled(std::sync::mpsc::Receiver<()>);
        impl Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // Ends when the test lets go of the sender.
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (go_on, stalled) = channel();
        let queue = Queue::start(Stalled(stalled));
        for _ in 0..2 * QUEUE_MESSAGES {
            queue.push(b"line\n".to_vec());
        }
        assert!(!queue.flush(Duration::from_millis(1)));
        let dropped = queue.counts.dropped.load(Ordering::Relaxed);
        assert!(dropped >= QUEUE_MESSAGES as u64 - 1, "{dropped}");
        queue.push(vec![b'x'; QUEUE_BYTES + 1]);
        assert_eq!(queue.counts.dropped.load(Ordering::Relaxed), dropped + 1);
        assert!(queue.counts.queued.load(Ordering::Relaxed) <= QUEUE_BYTES);
        drop(go_on);
        assert!(queue.flush(SOON));
        assert_eq!(queue.counts.dropped.load(Ordering::Relaxed), dropped + 1);
    }

    /// Takes a byte each second time that it is asked, and has nothing to say to a flush at first.
    #[derive(Default)]
    struct NonBlocking {
        took: Vec<u8>,
        asked: usize,
    }

    impl NonBlocking {
        fn ready(&mut self) -> io::Result<()> {
            self.asked += 1;
            if self.asked.is_multiple_of(2) { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
        }
    }

    impl Write for NonBlocking {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.ready()?;
            self.took.push(bytes[0]);
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.ready()
        }
    }

    #[test]
    fn a_result_survives_a_non_blocking_descriptor_but_does_not_wait_forever() {
        let mut writer = NonBlocking::default();
        write_patiently(&mut writer, b"result\n", SOON).unwrap();
        assert_eq!((writer.took.as_slice(), writer.asked), (b"result\n".as_slice(), 16));
        let error = write_patiently(&mut NonBlocking::default(), b"x", Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_reader_that_left_is_no_error_and_a_full_disk_is() {
        assert!(finished(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert_eq!(finished(Err(ErrorKind::StorageFull.into())).unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(finished(Ok(())).is_ok());
    }
}
