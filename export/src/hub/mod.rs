//! Checkpoints from the Hugging Face hub: `arrcoc-export pull`.
//!
//! [`Hub::pull`] asks which files a revision has (`listing`), chooses those that a build reads (`choice`),
//! and brings them (`client`, `download`) into the cache that huggingface_hub keeps (`cache`), where
//! [`Hub::find`] finds them without a network. `names` checks what users and servers write before it becomes
//! part of a path.

mod cache;
mod choice;
mod client;
mod download;
mod error;
mod hash;
mod listing;
mod names;
mod settings;

use std::path::PathBuf;
use std::time::Instant;

use arrcoc_bundle::names::checkpoint::INDEX;
use serde::Serialize;

pub use error::HubError;
pub use names::{MAIN, Repository, Revision};
pub use settings::{Settings, Token};

use crate::progress::Progress;
use crate::staging;
use cache::Folder;
use client::Client;
use listing::Facts;

/// A hub and the cache of what it has.
pub struct Hub {
    client: Client,
    settings: Settings,
}

/// A checkpoint in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// `ORG/NAME`.
    pub repository: String,
    /// As it was asked for.
    pub revision: String,
    /// What that is.
    pub commit: String,
    /// The checkpoint's directory.
    pub path: PathBuf,
}

/// What [`Hub::pull`] did.
#[derive(Debug, Clone, Serialize)]
pub struct Pulled {
    /// Where it is.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// Every file, in the order in which they came.
    pub files: Vec<PulledFile>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that were not in the cache before.
    pub fetched_bytes: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct PulledFile {
    /// Path below the checkpoint.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// The hub's hash: SHA-256 of large files, Git's SHA-1 of small ones.
    pub hash: String,
}

impl Hub {
    /// A hub, of which nothing is asked yet.
    pub fn new(settings: Settings) -> Self {
        Self { client: Client::new(&settings), settings }
    }

    /// The hub's address.
    pub fn endpoint(&self) -> &str {
        self.settings.endpoint.as_str()
    }

    /// Looks for a checkpoint in the cache alone: one that has all that a build needs.
    pub fn find(&self, repository: &Repository, revision: &Revision) -> Option<Snapshot> {
        let (commit, path) = Folder::new(&self.settings.cache, repository).find(revision)?;
        Some(snapshot(repository, revision, commit, path))
    }

    /// Brings the cache up to a revision of a repository, and fetches what is missing there.
    ///
    /// # Errors
    /// [`HubError`]. What was fetched stays, and the next pull goes on from there.
    pub fn pull(
        &self,
        repository: &Repository,
        revision: &Revision,
        progress: Progress,
    ) -> Result<Pulled, HubError> {
        let started = Instant::now();
        let folder = Folder::new(&self.settings.cache, repository);
        if self.settings.offline {
            let found = self.find(repository, revision).ok_or_else(|| HubError::Offline {
                name: repository.to_string(),
                revision: revision.as_str().to_owned(),
                cache: self.settings.cache.clone(),
            })?;
            return Ok(pulled(found, &[], 0, started));
        }
        let listing = listing::list(&self.client, repository, revision)?;
        let task =
            Task { client: &self.client, folder: &folder, repository, commit: &listing.commit, progress };
        let small = choice::small(repository, &listing.files)?;
        let mut files = task.facts(small)?;
        if let Some(large) = files.iter().find(|facts| facts.size > choice::SMALL_BYTES) {
            let (file, size) = (large.path.clone(), large.size);
            return Err(HubError::TooLarge { file, size, limit: choice::SMALL_BYTES });
        }
        let mut fetched = task.fetch(&files)?;
        let path = folder.snapshot(&listing.commit);
        let weights = choice::weights(repository, &listing.files, &path.join(INDEX))?;
        let weights = task.facts(weights.iter().map(String::as_str))?;
        fetched += task.fetch(&weights)?;
        files.extend(weights);
        // Last: an interrupted pull leaves the revision that was there before.
        folder.note(revision, &listing.commit)?;
        Ok(pulled(snapshot(repository, revision, listing.commit, path), &files, fetched, started))
    }
}

/// Files of one commit on their way.
struct Task<'a> {
    client: &'a Client,
    folder: &'a Folder,
    repository: &'a Repository,
    commit: &'a str,
    progress: Progress,
}

impl Task<'_> {
    fn facts<'b>(&self, paths: impl IntoIterator<Item = &'b str>) -> Result<Vec<Facts>, HubError> {
        let facts = |path| listing::facts(self.client, self.repository, self.commit, path);
        paths.into_iter().map(facts).collect()
    }

    /// Fetches what is missing, after a look at the room that there is; returns how many bytes.
    fn fetch(&self, files: &[Facts]) -> Result<u64, HubError> {
        let missing = |facts: &&Facts| !self.folder.has(&facts.digest, facts.size);
        let bytes = files.iter().filter(missing).fold(0_u64, |sum, facts| sum.saturating_add(facts.size));
        let there = |facts: &Facts| self.folder.incomplete(&facts.digest).metadata().map_or(0, |of| of.len());
        let begun = files.iter().filter(missing).map(there).fold(0, u64::saturating_add);
        let blobs = self.folder.snapshot(self.commit);
        staging::check_space(staging::existing_ancestor(&blobs), &blobs, bytes.saturating_sub(begun))?;
        self.folder.create()?;
        for facts in files {
            let url = listing::address(self.client, self.repository, self.commit, &facts.path);
            download::fetch(self.client, self.folder, &url, facts, self.progress)?;
            self.folder.link(self.commit, &facts.path, &facts.digest)?;
        }
        Ok(bytes)
    }
}

fn snapshot(repository: &Repository, revision: &Revision, commit: String, path: PathBuf) -> Snapshot {
    Snapshot { repository: repository.to_string(), revision: revision.as_str().to_owned(), commit, path }
}

fn pulled(snapshot: Snapshot, files: &[Facts], fetched_bytes: u64, started: Instant) -> Pulled {
    let file = |facts: &Facts| PulledFile {
        name: facts.path.clone(),
        bytes: facts.size,
        hash: facts.digest.as_str().to_owned(),
    };
    Pulled {
        snapshot,
        files: files.iter().map(file).collect(),
        bytes: files.iter().map(|facts| facts.size).sum(),
        fetched_bytes,
        seconds: started.elapsed().as_secs_f64(),
    }
}
