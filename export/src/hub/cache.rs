//! The cache on disk, as huggingface_hub lays it out, so that both share it:
//!
//! ```text
//! CACHE/models--ORG--NAME/blobs/HASH                        contents, named by the hub's hash
//!                         snapshots/COMMIT/config.json      links to them
//!                         refs/main                         the commit of a branch or tag
//! CACHE/.locks/models--ORG--NAME/HASH.lock                  held while a blob is written
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use arrcoc_bundle::names::checkpoint::{CONFIG, INDEX, PREPROCESSOR_CONFIG, PROCESSOR_CONFIG, WEIGHTS};
use arrcoc_bundle::names::file::TOKENIZER;
use arrcoc_bundle::small;

use super::choice::shards;
use super::error::HubError;
use super::hash::Digest;
use super::names::{Repository, Revision, is_commit};
use crate::progress::Progress;

/// Tells programs that make backups to leave the cache out (bford.info/cachedir).
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file is a cache directory tag created by arrcoc-export, in a cache of huggingface_hub.\n\
    # For information about cache directory tags, see https://bford.info/cachedir/\n";

/// The part of a cache that belongs to one repository.
#[derive(Debug)]
pub(super) struct Folder {
    cache: PathBuf,
    name: String,
}

impl Folder {
    pub(super) fn new(cache: &Path, repository: &Repository) -> Self {
        Self { cache: cache.to_owned(), name: repository.folder() }
    }

    fn path(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The links of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.path().join("snapshots").join(commit)
    }

    /// Where contents lie.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs").join(digest.as_str())
    }

    /// Where they lie until they are complete.
    pub(super) fn incomplete(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs").join(format!("{}.incomplete", digest.as_str()))
    }

    /// Whether contents are there, by their size: they come there only when their hash is right.
    pub(super) fn has(&self, digest: &Digest, size: u64) -> bool {
        self.blob(digest).metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// Makes the directories, and tags the cache.
    pub(super) fn create(&self) -> Result<(), HubError> {
        for dir in [self.path().join("blobs"), self.locks()] {
            fs::create_dir_all(&dir).map_err(|source| HubError::io(&dir, source))?;
        }
        let tag = self.cache.join("CACHEDIR.TAG");
        if !tag.exists() {
            // Whatever keeps it from being written keeps nothing else.
            let _ = fs::write(tag, TAG);
        }
        Ok(())
    }

    fn locks(&self) -> PathBuf {
        self.cache.join(".locks").join(&self.name)
    }

    /// Waits until nobody else writes a blob, huggingface_hub neither. Dropping the file frees it.
    pub(super) fn lock(&self, digest: &Digest, progress: Progress) -> Result<File, HubError> {
        let path = self.locks().join(format!("{}.lock", digest.as_str()));
        let io = |source| HubError::io(&path, source);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                progress
                    .note(&format!("waiting for another process that fetches the same ({})", path.display()));
            }
            // Some network file systems have no locks. The hash shows what two writers would mix.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.lock().map_err(io)?;
        Ok(file)
    }

    /// Links a file of a commit to its contents.
    pub(super) fn link(&self, commit: &str, path: &str, digest: &Digest) -> Result<(), HubError> {
        let link = self.snapshot(commit).join(path);
        let up = "../".repeat(path.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{}", digest.as_str()));
        if fs::read_link(&link).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let dir = link.parent().unwrap_or(&link);
        fs::create_dir_all(dir).map_err(|source| HubError::io(dir, source))?;
        let temporary = temporary(dir);
        let _ = fs::remove_file(&temporary);
        symlink(&target, &temporary)
            .and_then(|()| fs::rename(&temporary, &link))
            .map_err(|source| HubError::io(&link, source))
    }

    /// Notes the commit of a branch or tag, for those who look without a network.
    pub(super) fn note(&self, revision: &Revision, commit: &str) -> Result<(), HubError> {
        if revision.as_str() == commit || self.noted(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.path().join("refs").join(revision.as_str());
        let dir = path.parent().unwrap_or(&path);
        let temporary = temporary(dir);
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&temporary, commit))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| HubError::io(&path, source))
    }

    fn noted(&self, revision: &Revision) -> Option<String> {
        let bytes = small::read(&self.path().join("refs").join(revision.as_str()), 256).ok()?;
        String::from_utf8(bytes).ok().map(|text| text.trim().to_owned())
    }

    /// The commit and directory of a revision that has all that a build needs; no network is asked.
    pub(super) fn find(&self, revision: &Revision) -> Option<(String, PathBuf)> {
        let commit =
            if is_commit(revision.as_str()) { revision.as_str().to_owned() } else { self.noted(revision)? };
        let dir = self.snapshot(&commit);
        (is_commit(&commit) && is_complete(&dir)).then_some((commit, dir))
    }
}

/// A name in a directory that no other process has, and no other thread of this one.
fn temporary(dir: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!(".{}.{count}.tmp", std::process::id()))
}

/// Whether weights, configurations and tokenizer are there; weights come last, when ours fetches them.
fn is_complete(snapshot: &Path) -> bool {
    let has = |name: &str| snapshot.join(name).is_file();
    let weights = has(WEIGHTS)
        || shards(&snapshot.join(INDEX))
            .is_ok_and(|shards| !shards.is_empty() && shards.iter().all(|shard| has(shard)));
    weights && has(CONFIG) && has(TOKENIZER) && (has(PROCESSOR_CONFIG) || has(PREPROCESSOR_CONFIG))
}
