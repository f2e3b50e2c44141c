//! Small files of a checkpoint.

use std::path::Path;

use arrcoc_bundle::quote::Brief;
use serde_json::Value;

use super::error::TextError;

/// Reads a file that may be absent.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, TextError> {
    let path = dir.join(name);
    match std::fs::read(&path) {
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
