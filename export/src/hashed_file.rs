//! A file whose SHA-256 is known when it is written.
//!
//! Conversion, writing and hashing each have a thread and pass the same few buffers along: on two cores the
//! hash then costs next to nothing, where reading the file again would double the time.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};

use crate::checkpoint::hex;

const BUFFER_BYTES: usize = 1 << 20;
const BUFFERS: usize = 6;

/// A new file; [`HashedFile::finish`] waits until it is on the disk and returns its hash.
#[derive(Debug)]
pub struct HashedFile {
    buffer: Vec<u8>,
    length: u64,
    full: Option<SyncSender<Vec<u8>>>,
    free: Receiver<Vec<u8>>,
    writer: Option<JoinHandle<io::Result<()>>>,
    hasher: JoinHandle<String>,
}

impl HashedFile {
    /// Creates or truncates `path`.
    ///
    /// # Errors
    /// What [`File::create`] says.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let (full, to_write) = sync_channel::<Vec<u8>>(BUFFERS);
        let (written, to_hash) = sync_channel::<Vec<u8>>(BUFFERS);
        let (hashed, free) = sync_channel::<Vec<u8>>(BUFFERS);
        // The channels hold every buffer that there is, so the only waits are for work and for free buffers.
        for _ in 1..BUFFERS {
            hashed.send(Vec::with_capacity(BUFFER_BYTES)).map_err(io::Error::other)?;
        }
        let writer = thread::Builder::new()
            .name("write".to_owned())
            .spawn(move || write(file, &to_write, &written))?;
        let hasher = thread::Builder::new().name("hash".to_owned()).spawn(move || hash(&to_hash, &hashed))?;
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Ok(Self { buffer, length: 0, full: Some(full), free, writer: Some(writer), hasher })
    }

    /// Bytes written so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Writes zeros up to `offset`.
    ///
    /// # Errors
    /// What [`Write::write_all`] says.
    pub fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        let gap = offset.saturating_sub(self.length);
        io::copy(&mut io::Read::take(io::repeat(0), gap), self).map(drop)
    }

    /// Waits until everything is on the disk; returns the SHA-256 in hexadecimal.
    ///
    /// # Errors
    /// What writing or synchronising the file said.
    pub fn finish(mut self) -> io::Result<String> {
        if !self.buffer.is_empty() {
            self.pass_on()?;
        }
        // The writer ends when no sender is left.
        self.full = None;
        self.join_writer()?;
        Ok(self.hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Hands the full buffer to the writer and takes a free one.
    fn pass_on(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let sent = self.full.as_ref().is_some_and(|full| full.send(buffer).is_ok());
        match self.free.recv() {
            Ok(buffer) if sent => {
                self.buffer = buffer;
                Ok(())
            }
            // A thread that ends early is the writer with an error.
            _ => {
                self.full = None;
                self.join_writer().and(Err(io::ErrorKind::BrokenPipe.into()))
            }
        }
    }

    fn join_writer(&mut self) -> io::Result<()> {
        let writer = self.writer.take().ok_or(io::ErrorKind::BrokenPipe)?;
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(BUFFER_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        self.length += n as u64;
        if self.buffer.len() == BUFFER_BYTES {
            self.pass_on()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(mut file: File, to_write: &Receiver<Vec<u8>>, written: &SyncSender<Vec<u8>>) -> io::Result<()> {
    for buffer in to_write {
        file.write_all(&buffer)?;
        written.send(buffer).map_err(io::Error::other)?;
    }
    file.sync_all()
}

fn hash(to_hash: &Receiver<Vec<u8>>, hashed: &SyncSender<Vec<u8>>) -> String {
    let mut digest = Sha256::new();
    for mut buffer in to_hash {
        digest.update(&buffer);
        buffer.clear();
        // After the last piece there is nobody left to use the buffer again.
        let _ = hashed.send(buffer);
    }
    hex(&digest.finalize())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_and_hash_agree_across_buffers() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 1, BUFFER_BYTES, BUFFER_BYTES * 9 + 77] {
            let path = dir.path().join("file");
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let mut file = HashedFile::create(&path).unwrap();
            bytes.chunks(123_457).for_each(|chunk| file.write_all(chunk).unwrap());
            file.pad_to(length as u64 + 5).unwrap();
            assert_eq!(file.length(), length as u64 + 5);
            let sha256 = file.finish().unwrap();
            let found = std::fs::read(&path).unwrap();
            assert_eq!(found, [bytes, vec![0; 5]].concat());
            assert_eq!(sha256, hex(&Sha256::digest(&found)));
        }
    }

    #[test]
    fn a_full_disk_is_reported() {
        // /dev/full refuses every write.
        let Ok(mut file) = HashedFile::create(Path::new("/dev/full")) else { return };
        let outcome = file.write_all(&vec![1; BUFFER_BYTES * 20]).and_then(|()| file.finish().map(drop));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
