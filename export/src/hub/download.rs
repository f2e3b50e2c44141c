//! One file from the hub into the cache: in as many attempts as it takes, each from where the one before it
//! stopped, hashed on the way, and moved to its place only when size and hash are the hub's.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use ureq::http::StatusCode;
use url::Url;

use super::cache::Folder;
use super::client::{ATTEMPTS, Ask, Client, Reply, shown};
use super::error::HubError;
use super::hash::Hasher;
use super::listing::Facts;
use crate::progress::{Progress, Step};

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

/// An attempt that brought fewer bytes counts as a failed one. With a body's time limit this is the slowest
/// connection that is waited for: some 17 kB a second.
const WORTH: u64 = 1 << 20;

/// A file as far as it has come.
struct Part<'a> {
    facts: &'a Facts,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
    /// It goes on what an earlier run has left.
    resumed: bool,
}

/// Fetches a file's contents, unless they are there.
///
/// # Errors
/// [`HubError`]. What came stays for the next run, unless it is wrong.
pub(super) fn fetch(
    client: &Client,
    folder: &Folder,
    url: &Url,
    facts: &Facts,
    progress: Progress,
) -> Result<(), HubError> {
    let _lock = folder.lock(&facts.digest, progress)?;
    if folder.has(&facts.digest, facts.size) {
        return Ok(());
    }
    let mut step = progress.step(&facts.path, facts.size);
    let mut part = Part::open(folder.incomplete(&facts.digest), facts, &mut step)?;
    let mut found = part.complete(client, url, &mut step)?;
    if found != facts.digest.as_str() && part.resumed {
        progress.note(&format!("{}: what an earlier run left is damaged; from the beginning", facts.path));
        part.restart(&mut step)?;
        found = part.complete(client, url, &mut step)?;
    }
    if found != facts.digest.as_str() {
        let _ = fs::remove_file(&part.path);
        let expected = facts.digest.as_str().to_owned();
        return Err(HubError::Hash { file: facts.path.clone(), expected, found });
    }
    let blob = folder.blob(&facts.digest);
    part.file.sync_all().map_err(|source| HubError::io(&part.path, source))?;
    fs::rename(&part.path, &blob).map_err(|source| HubError::io(&blob, source))?;
    step.finish();
    Ok(())
}

impl<'a> Part<'a> {
    /// Opens what an earlier run has left, or nothing.
    fn open(path: PathBuf, facts: &'a Facts, step: &mut Step) -> Result<Self, HubError> {
        let io = |source| HubError::io(&path, source);
        let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = options.map_err(io)?;
        let mut hasher = facts.digest.hasher(facts.size);
        let mut length = file.metadata().map_err(io)?.len();
        if length > facts.size {
            file.set_len(0).map_err(io)?;
            length = 0;
        }
        let mut piece = vec![0; PIECE];
        let mut left = length;
        while left > 0 {
            let read = file.read(&mut piece).map_err(io)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            left = left.saturating_sub(read as u64);
        }
        step.advance(length);
        Ok(Self { facts, path, file, hasher, length, resumed: length > 0 })
    }

    /// Throws away what has come.
    fn restart(&mut self, step: &mut Step) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| HubError::io(&self.path, source))?;
        self.hasher = self.facts.digest.hasher(self.facts.size);
        self.length = 0;
        self.resumed = false;
        step.rewind();
        Ok(())
    }

    /// Fetches what is missing; returns the hash of the whole.
    fn complete(&mut self, client: &Client, url: &Url, step: &mut Step) -> Result<String, HubError> {
        let mut failures = 0;
        while self.length < self.facts.size {
            let before = self.length;
            let source = match self.attempt(client, url, step) {
                Ok(()) => None,
                Err(error) if error.passes() => Some(Box::new(error)),
                Err(error) => return Err(error),
            };
            if self.length >= self.facts.size {
                break;
            }
            let came = self.length.saturating_sub(before);
            failures = if came >= WORTH { 0 } else { failures + 1 };
            if failures >= ATTEMPTS {
                let (file, at, size) = (self.facts.path.clone(), self.length, self.facts.size);
                return Err(HubError::CutOff { file, at, size, source });
            }
            client.rest(failures);
        }
        Ok(self.hasher.clone().finish())
    }

    /// Asks for the rest once, and takes what comes.
    fn attempt(&mut self, client: &Client, url: &Url, step: &mut Step) -> Result<(), HubError> {
        let reply = client.ask_once(Ask::Get(self.length), url)?;
        let total = match reply.status {
            StatusCode::PARTIAL_CONTENT => {
                let range = reply.text("content-range").and_then(content_range);
                let (start, total) = range.filter(|(start, _)| *start == self.length).ok_or_else(|| {
                    let expected = format!("expected Content-Range: bytes {}-…/SIZE", self.length);
                    HubError::NotAHub { url: shown(url), reason: expected }
                })?;
                debug_assert_eq!(start, self.length);
                Some(total)
            }
            // The server does not know ranges: all of it comes again.
            _ => {
                if self.length > 0 {
                    self.restart(step)?;
                }
                reply.text("content-length").and_then(|length| length.trim().parse().ok())
            }
        };
        if let Some(found) = total.filter(|total| *total != self.facts.size) {
            return Err(self.wrong_size(found));
        }
        self.take(reply, url, step)
    }

    fn take(&mut self, reply: Reply, url: &Url, step: &mut Step) -> Result<(), HubError> {
        let mut body = reply.body.into_reader();
        let mut piece = vec![0; PIECE];
        loop {
            let read =
                body.read(&mut piece).map_err(|source| HubError::Broken { url: shown(url), source })?;
            if read == 0 {
                return Ok(());
            }
            let length = self.length.saturating_add(read as u64);
            if length > self.facts.size {
                return Err(self.wrong_size(length));
            }
            self.file.write_all(&piece[..read]).map_err(|source| HubError::io(&self.path, source))?;
            self.hasher.update(&piece[..read]);
            self.length = length;
            step.advance(read as u64);
        }
    }

    /// The error of a server that has another file; what it sent is worth nothing.
    fn wrong_size(&self, found: u64) -> HubError {
        let _ = fs::remove_file(&self.path);
        HubError::Size { file: self.facts.path.clone(), expected: self.facts.size, found }
    }
}

/// Start and total of `bytes START-END/TOTAL`.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()?))
}
