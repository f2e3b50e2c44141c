//! Small files of a checkpoint.

use std::path::Path;

use arrcoc_bundle::quote::Brief;
use arrcoc_bundle::small;
use serde_json::Value;

use super::error::TextError;

/// Longest such file: tokenizers have a few ten megabytes.
const MOST_BYTES: u64 = 1 << 28;

/// Reads a file that may be absent.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, TextError> {
    let path = dir.join(name);
    match small::read(&path, MOST_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Io { path, source }),
    }
}

/// Parses a JSON file's contents.
pub(super) fn parse(dir: &Path, name: &str, bytes: &[u8]) -> Result<Value, TextError> {
    serde_json::from_slice(bytes)
        .map_err(|source| TextError::Json { path: dir.join(name), source: Brief(source) })
}
