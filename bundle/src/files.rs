//! The files of a bundle: where they are, whether they are what the exporter wrote, and whether they still
//! are.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::lease;
use crate::error::BundleError;
use crate::quote::{excerpt, one_line};

/// A file of the bundle and the digest that it must have.
#[derive(Debug)]
pub(super) struct ListedFile {
    /// Path in the bundle, as the manifest writes it.
    pub(super) name: String,
    /// Absolute path.
    pub(super) path: PathBuf,
    /// SHA-256, hex.
    pub(super) sha256: String,
}

/// Longest path in a bundle, bytes: it stands in messages.
const MOST_PATH: usize = 1000;

/// Finds the file of a manifest path; `field` names it in errors, `dir` is canonical.
///
/// The path itself stays inside the bundle. What lies there may be a symbolic link to anywhere, as in Hugging
/// Face's cache: the file's hash says whether it is the right one.
pub(super) fn resolve(dir: &Path, field: &str, name: &str) -> Result<PathBuf, BundleError> {
    let refuse = |reason| BundleError::Path { field: field.to_owned(), path: excerpt(name), reason };
    if name.len() > MOST_PATH {
        return Err(refuse("longer than 1000 bytes"));
    }
    if one_line(name, MOST_PATH) != name {
        return Err(refuse("with control characters"));
    }
    if !is_inside(name) {
        return Err(refuse("empty, absolute, or with `.`, `..`, a backslash or NUL in it"));
    }
    let path = dir.join(name);
    let metadata = path.metadata().map_err(|source| BundleError::Read { file: name.to_owned(), source })?;
    if !metadata.is_file() {
        return Err(refuse("not a file"));
    }
    Ok(path)
}

/// Whether a relative path stays where it begins, read letter by letter.
pub(super) fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', '\0'])
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Every file of a bundle, open, as it was when it was hashed.
#[derive(Debug)]
pub struct HashedFiles(Vec<HashedFile>);

#[derive(Debug)]
struct HashedFile {
    listed: ListedFile,
    /// The file that was hashed, whatever its path names by now.
    file: File,
    /// Its state when it was last known to match its hash.
    seen: Mutex<State>,
    /// Whether the system holds off a writer.
    leased: AtomicBool,
}

/// What changes of a file when its content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// The same of the last change of anything, which no program can set.
    changed: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl HashedFiles {
    /// Hashes every file, several at a time; the first mismatch in manifest order wins.
    ///
    /// # Errors
    /// [`BundleError::Read`] or [`BundleError::Hash`].
    pub(super) fn check(files: Vec<ListedFile>) -> Result<Self, BundleError> {
        let results: Vec<_> = files.into_par_iter().map(HashedFile::check).collect();
        results.into_iter().collect::<Result<_, _>>().map(Self)
    }

    /// Has writers held off where the system can do that, until these files are closed;
    /// [`Self::check_contents`] then tells of the first one that waits.
    pub fn hold_off_writers(&self) {
        for file in &self.0 {
            file.leased.store(lease::take(&file.file), Ordering::Relaxed);
        }
    }

    /// Checks that no file's content has changed since it was hashed, and that every path still leads to that
    /// file: for right after a library opened them by their paths.
    ///
    /// # Errors
    /// As for [`Self::check`], and [`BundleError::Replaced`].
    pub(super) fn check_paths(&self) -> Result<(), BundleError> {
        self.check_contents()?;
        self.0.iter().try_for_each(HashedFile::check_path)
    }

    /// Checks the content alone. A file that another one has replaced is still the one that was loaded: the
    /// process has it open.
    ///
    /// # Errors
    /// As for [`Self::check`].
    pub fn check_contents(&self) -> Result<(), BundleError> {
        self.0.iter().try_for_each(HashedFile::check_content)
    }
}

impl HashedFile {
    fn check(listed: ListedFile) -> Result<Self, BundleError> {
        let unreadable = |source| BundleError::Read { file: listed.name.clone(), source };
        let file = File::open(&listed.path).map_err(unreadable)?;
        // Before the hash: what is written during it is noticed afterwards.
        let state = State::of(&file.metadata().map_err(unreadable)?);
        let hashed = Self { listed, file, seen: Mutex::new(state), leased: AtomicBool::new(false) };
        hashed.hash()?;
        Ok(hashed)
    }

    fn hash(&self) -> Result<(), BundleError> {
        let ListedFile { name, sha256: expected, .. } = &self.listed;
        let found = sha256(&self.file).map_err(|source| BundleError::Read { file: name.clone(), source })?;
        if found != *expected {
            return Err(BundleError::Hash { file: name.clone(), expected: expected.clone(), found });
        }
        Ok(())
    }

    /// Looks at the file's times and length, and hashes it again where they have changed: links, owners and
    /// names may come and go.
    fn check_content(&self) -> Result<(), BundleError> {
        let name = || self.listed.name.clone();
        if self.leased.load(Ordering::Relaxed) && lease::is_wanted(&self.file) {
            return Err(BundleError::Written { file: name() });
        }
        let unreadable = |source| BundleError::Read { file: name(), source };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = State::of(&self.file.metadata().map_err(unreadable)?);
        if now != *seen {
            self.hash()?;
            *seen = now;
        }
        Ok(())
    }

    fn check_path(&self) -> Result<(), BundleError> {
        let ListedFile { name, path, .. } = &self.listed;
        let unreadable = |source| BundleError::Read { file: name.clone(), source };
        let (named, hashed) =
            (path.metadata().map_err(unreadable)?, self.file.metadata().map_err(unreadable)?);
        if (named.dev(), named.ino()) != (hashed.dev(), hashed.ino()) {
            return Err(BundleError::Replaced { file: name.clone() });
        }
        Ok(())
    }
}

/// SHA-256 of a file as lower-case hex, read as a stream.
fn sha256(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hex(&hasher.finalize()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}
