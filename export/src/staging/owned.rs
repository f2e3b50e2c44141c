//! What may be replaced: only what the same command has written.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use arrcoc_bundle::MANIFEST;
use arrcoc_bundle::names::{checkpoint, file};
use arrcoc_bundle::quote::quote;
use arrcoc_bundle::yaml;

use super::StagingError;

/// A file of every checkpoint that `init` writes, the last of them.
pub const INIT_MARK: &str = ".arrcoc-init";

/// Longest manifest or configuration that is looked into, bytes.
const MARK_LIMIT: u64 = 1 << 20;

/// Deeper than any command writes.
const DEPTH: usize = 4;

/// What a command writes, and so may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned {
    /// A directory with a manifest of ours, and no file besides those that it lists.
    Bundle,
    /// A directory with the mark of `init`, no other files than `init` writes, and none of them changed
    /// since.
    Checkpoint,
    /// A directory with nothing but ONNX models and a TensorRT plan.
    Plan,
    /// Nothing: what is written is never moved into place.
    Scratch,
}

impl Owned {
    fn expected(self) -> &'static str {
        match self {
            Self::Bundle => "a bundle that `arrcoc-export build` wrote, and no other files in it",
            Self::Checkpoint => {
                "a checkpoint as `arrcoc-export init` wrote it, unchanged, and no other files in it"
            }
            Self::Plan => "a plan that `arrcoc-export compile` made, and no other files with it",
            Self::Scratch => "nothing",
        }
    }

    /// Whether a destination is free, an empty directory, or of this kind.
    ///
    /// # Errors
    /// [`StagingError::Foreign`], or [`StagingError::Io`] where it cannot be looked at.
    pub(super) fn check(self, destination: &Path) -> Result<(), StagingError> {
        let foreign = |found: &str| StagingError::Foreign {
            path: destination.to_owned(),
            expected: self.expected(),
            found: found.to_owned(),
        };
        let io = |source| StagingError::Io { path: destination.to_owned(), source };
        let metadata = match destination.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata.map_err(io)?,
        };
        if metadata.is_symlink() {
            return Err(foreign("a symbolic link"));
        }
        if !metadata.is_dir() {
            return Err(foreign("a file"));
        }
        let mut files = BTreeSet::new();
        list(destination, Path::new(""), DEPTH, &mut files).map_err(io)?;
        if files.is_empty() {
            return Ok(());
        }
        let ours = match self {
            Self::Bundle => bundle_files(destination),
            Self::Checkpoint => checkpoint_files(destination, &files),
            Self::Plan => Some(files.iter().filter(|name| is_plan_file(name)).cloned().collect()),
            Self::Scratch => None,
        };
        match ours {
            None => Err(foreign("a directory of something else")),
            Some(ours) => match files.difference(&ours).next() {
                Some(other) => Err(foreign(&format!("{} in it", quote(other)))),
                None => Ok(()),
            },
        }
    }
}

/// Every file below a directory, and every directory that is empty or too deep; links are not followed.
fn list(dir: &Path, inside: &Path, depth: usize, files: &mut BTreeSet<String>) -> io::Result<()> {
    let mut empty = true;
    for entry in fs::read_dir(dir.join(inside))? {
        let entry = entry?;
        empty = false;
        let path = inside.join(entry.file_name());
        if entry.file_type()?.is_dir() && depth > 0 {
            list(dir, &path, depth - 1, files)?;
        } else {
            files.insert(path.to_string_lossy().into_owned());
        }
    }
    if empty && !inside.as_os_str().is_empty() {
        files.insert(inside.to_string_lossy().into_owned());
    }
    Ok(())
}

/// The manifest and what it lists, of any version of the format.
fn bundle_files(dir: &Path) -> Option<BTreeSet<String>> {
    let manifest: serde_yaml::Value = yaml::parse(read(&dir.join(MANIFEST))?.as_bytes()).ok()?;
    manifest.get("tool")?.as_str().filter(|tool| tool.starts_with("arrcoc-export"))?;
    let graphs = manifest.get("graphs")?.as_mapping()?.values().filter_map(|graph| graph.get("file"));
    let files = manifest.get("files").and_then(|files| files.as_mapping()).into_iter().flatten();
    let names = graphs.chain(files.map(|(name, _)| name)).filter_map(|name| name.as_str().map(str::to_owned));
    Some(names.chain([MANIFEST.to_owned()]).collect())
}

/// Those of the files that belong to a checkpoint and are as `init` left them.
fn checkpoint_files(dir: &Path, found: &BTreeSet<String>) -> Option<BTreeSet<String>> {
    let written = |name: &str| dir.join(name).symlink_metadata().ok()?.modified().ok();
    // Weights that were trained in the same place are not those of `init`, and exist only once.
    let mark = written(INIT_MARK)?;
    let untouched = |name: &str| written(name).is_some_and(|time| time <= mark);
    let texts = [
        INIT_MARK,
        checkpoint::CONFIG,
        checkpoint::INDEX,
        checkpoint::GENERATION_CONFIG,
        checkpoint::PREPROCESSOR_CONFIG,
        file::TOKENIZER,
        file::TOKENIZER_CONFIG,
        file::CHAT_TEMPLATE,
    ];
    let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
    let ours = found.iter().filter(|name| texts.contains(&name.as_str()) || is_weights(name));
    let ours = ours.filter(|name| untouched(name));
    Some(ours.cloned().collect())
}

fn is_plan_file(name: &str) -> bool {
    [".onnx", ".engine", ".profile"].iter().any(|ending| name.ends_with(ending))
}

/// A small text file, and nothing that only looks like one.
fn read(path: &Path) -> Option<String> {
    let metadata = path.symlink_metadata().ok()?;
    (metadata.is_file() && metadata.len() <= MARK_LIMIT).then(|| fs::read_to_string(path).ok())?
}
