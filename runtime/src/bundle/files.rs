//! The files of a bundle: where they are, and whether they are what the exporter wrote.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::BundleError;

/// A file of the bundle and the digest that it must have.
#[derive(Debug)]
pub(super) struct HashedFile {
    /// Path in the bundle, as the manifest writes it.
    pub(super) name: String,
    /// Canonical path.
    pub(super) path: PathBuf,
    /// SHA-256, hex.
    pub(super) sha256: String,
}

/// Resolves a manifest path; `field` names it in errors, `dir` is canonical.
///
/// Symbolic links are followed first and judged by where they end: inside the bundle they are fine.
pub(super) fn resolve(dir: &Path, field: &str, name: &str) -> Result<PathBuf, BundleError> {
    let refuse =
        |reason| BundleError::Path { field: field.to_owned(), path: name.escape_debug().to_string(), reason };
    let relative = Path::new(name);
    if name.is_empty() || name.contains(['\\', '\0']) {
        return Err(refuse("empty, or with a backslash or NUL in it"));
    }
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(refuse("absolute, or with `.` or `..` in it"));
    }
    let path = dir
        .join(relative)
        .canonicalize()
        .map_err(|source| BundleError::Read { file: name.to_owned(), source })?;
    if !path.starts_with(dir) {
        return Err(refuse("a symbolic link that leads out of the bundle"));
    }
    if !path.is_file() {
        return Err(refuse("not a file"));
    }
    Ok(path)
}

/// Refuses files that the manifest does not list. Graphs name their external data themselves, and inference libraries
/// look for it in the bundle's directory only: with this, all that they can read has been hashed.
pub(super) fn check_listed(dir: &Path, files: &[HashedFile]) -> Result<(), BundleError> {
    let unreadable = |source| BundleError::Open { path: dir.to_path_buf(), source };
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in folder.read_dir().map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let relative = path.strip_prefix(dir).unwrap_or(&path);
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if relative != Path::new(super::MANIFEST)
                && !files.iter().any(|file| Path::new(&file.name) == relative)
            {
                return Err(BundleError::Unlisted { file: relative.display().to_string() });
            }
        }
    }
    Ok(())
}

/// Hashes every file, several at a time; the first mismatch in manifest order wins.
pub(super) fn check_hashes(files: &[HashedFile]) -> Result<(), BundleError> {
    let results: Vec<_> = files.par_iter().map(check_hash).collect();
    results.into_iter().collect()
}

fn check_hash(file: &HashedFile) -> Result<(), BundleError> {
    let found = sha256(&file.path).map_err(|source| BundleError::Read { file: file.name.clone(), source })?;
    if found != file.sha256 {
        return Err(BundleError::Hash { file: file.name.clone(), expected: file.sha256.clone(), found });
    }
    Ok(())
}

/// SHA-256 of a file as lower-case hex, read as a stream.
fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
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
