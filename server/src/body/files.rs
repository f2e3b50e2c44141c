//! The image files of a request, counted among the bodies until the last of them is dropped, wherever it has
//! got to by then.

use std::sync::{Arc, OnceLock};

use axum::body::Bytes;

use super::budget::{Exhausted, FREE_BYTES, Held};

/// The files of one request, while they are read.
pub(crate) struct Files {
    held: Held,
    /// What the body itself is counted with: its texts, some of which are files.
    body: usize,
    /// Bytes of files that came from elsewhere.
    fetched: usize,
    /// Bytes of all files.
    total: usize,
    /// What the files are counted with when all are there.
    count: Arc<OnceLock<Held>>,
}

/// One of them.
struct File {
    bytes: Vec<u8>,
    _count: Arc<OnceLock<Held>>,
}

impl AsRef<[u8]> for File {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Files {
    pub(crate) fn new(held: Held) -> Self {
        Self { body: held.bytes(), held, fetched: 0, total: 0, count: Arc::default() }
    }

    /// Counts a file from elsewhere before it is there: it may have `most` bytes.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub(crate) async fn expect(&mut self, most: usize) -> Result<(), Exhausted> {
        self.held.count(self.body.saturating_add(self.fetched).saturating_add(most)).await
    }

    /// Takes a file that was expected.
    pub(crate) fn fetched(&mut self, file: Vec<u8>) -> Bytes {
        self.fetched = self.fetched.saturating_add(file.len());
        self.held.shrink(self.body.saturating_add(self.fetched));
        self.decoded(file)
    }

    /// Takes a file that was part of the body.
    pub(crate) fn decoded(&mut self, mut file: Vec<u8>) -> Bytes {
        file.shrink_to_fit();
        self.total = self.total.saturating_add(file.len());
        Bytes::from_owner(File { bytes: file, _count: Arc::clone(&self.count) })
    }

    /// All files are there, and nothing is left of the body but its texts.
    pub(crate) fn complete(mut self) {
        self.held.shrink(if self.total > FREE_BYTES { self.total } else { 0 });
        // It is empty: files are completed once.
        let _ = self.count.set(self.held);
    }
}
