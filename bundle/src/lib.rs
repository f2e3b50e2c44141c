//! Bundles: the directory that the exporter writes and the runtime runs. All that the two share is said here,
//! once.
//!
//! [`Bundle::open`] is the only way in. It parses `manifest.yaml` into [`RawManifest`] and checks every
//! field. The result is a [`Manifest`]. Then every path is resolved inside the bundle, and every file is
//! hashed. A [`Bundle`] has passed all of these checks. Files that the manifest does not list are ignored,
//! unless a graph would read one: that is an error.
//!
//! Libraries map large files instead of reading them. A file that somebody writes to after it was hashed
//! would change what is computed. [`Bundle::check_unchanged`] sees that after loading, and
//! [`files::HashedFiles`] looks again while a model serves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use manifest::RawManifest;

mod checked;
mod error;
pub mod files;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fuzz;
mod generation;
mod graph;
mod lease;
pub mod manifest;
pub mod names;
mod onnx;
pub mod processors;
pub mod quote;
pub mod small;
mod statistics;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod tool_calls;
mod validate;
mod weight_rule;
pub mod yaml;

pub use checked::{GraphFile, Manifest};
pub use error::BundleError;
use files::HashedFiles;
pub use files::hex;
pub use generation::GenerationSpec;
pub use graph::{AxisRange, Meaning, Role};
pub use manifest::{Precision, Target, UnknownTarget};
pub use names::file::MANIFEST;
pub use statistics::{Drift, Statistics};
pub use tool_calls::ToolSyntax;
pub use weight_rule::{WeightForm, WeightRule};

/// A bundle whose manifest was validated and whose files match their hashes.
#[derive(Debug, Clone)]
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
    digest: [u8; 32],
    files: Arc<HashedFiles>,
}

impl Bundle {
    /// Opens a bundle: reads and validates the manifest, then hashes every file.
    ///
    /// # Errors
    /// [`BundleError`] names the file or field, what was expected and what was found.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let dir =
            dir.canonicalize().map_err(|source| BundleError::Open { path: dir.to_path_buf(), source })?;
        let (raw, digest) = read_manifest(&dir)?;
        let (mut manifest, files) = validate::validate(raw, &dir)?;
        let files = Arc::new(HashedFiles::check(files)?);
        for (name, graph) in &mut manifest.graphs {
            graph.external = external_files(&dir, name, graph, &manifest.files)?;
        }
        Ok(Self { dir, manifest, digest, files })
    }

    /// Checks that the files are still those that were hashed, after they were read or mapped by their paths.
    ///
    /// # Errors
    /// [`BundleError::Hash`], [`BundleError::Replaced`] or [`BundleError::Read`].
    pub fn check_unchanged(&self) -> Result<(), BundleError> {
        self.files.check_paths()
    }

    /// The files, for code that checks them from time to time.
    pub fn hashed_files(&self) -> Arc<HashedFiles> {
        Arc::clone(&self.files)
    }

    /// The validated manifest of a bundle whose files are not read: what it is, not whether it is whole.
    ///
    /// # Errors
    /// [`BundleError`] of the manifest.
    pub fn describe(dir: &Path) -> Result<Manifest, BundleError> {
        let dir =
            dir.canonicalize().map_err(|source| BundleError::Open { path: dir.to_path_buf(), source })?;
        let (raw, _) = read_manifest(&dir)?;
        Ok(validate::validate(raw, &dir)?.0)
    }

    /// What [`Bundle::digest`] will be of the bundle at `dir`; nothing else of it is read.
    ///
    /// # Errors
    /// The manifest cannot be read.
    pub fn digest_at(dir: &Path) -> Result<[u8; 32], BundleError> {
        let path = dir.join(MANIFEST);
        let text = yaml::read(&path).map_err(|source| BundleError::Open { path, source })?;
        Ok(Sha256::digest(&text).into())
    }

    /// The bundle's directory, canonical.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The validated manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the manifest, and so of every file that it lists: the identity of the engines for the
    /// caches.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Range of a graph's dynamic axis, where it has one of that name.
    pub fn axis(&self, graph: &str, axis: &str) -> Option<AxisRange> {
        self.manifest.graphs.get(graph)?.axes.get(axis).copied()
    }

    /// Path of another file of the bundle (`tokenizer.json` ...).
    ///
    /// # Errors
    /// [`BundleError::NoFile`] when the manifest does not list it.
    pub fn file_path(&self, name: &str) -> Result<&Path, BundleError> {
        let file = self.manifest.files.get(name).map(PathBuf::as_path);
        file.ok_or_else(|| BundleError::NoFile { name: name.to_owned() })
    }

    /// A graph's file.
    ///
    /// # Errors
    /// [`BundleError::NoGraph`].
    pub fn graph(&self, name: &str) -> Result<&GraphFile, BundleError> {
        self.manifest.graphs.get(name).ok_or_else(|| BundleError::NoGraph { name: name.to_owned() })
    }
}

/// The files that a graph reads besides its own. All of them are listed, so that all of them have been
/// hashed.
fn external_files(
    dir: &Path,
    name: &str,
    graph: &GraphFile,
    listed: &BTreeMap<String, PathBuf>,
) -> Result<BTreeMap<String, PathBuf>, BundleError> {
    let model = std::fs::read(&graph.path)
        .map_err(|source| BundleError::Read { file: graph.path.display().to_string(), source })?;
    let locations = onnx::external_files(&model)
        .map_err(|reason| BundleError::Graph { graph: name.to_owned(), reason })?;
    // Libraries look beside the graph.
    let beside = graph.path.parent().unwrap_or(dir);
    let find = |file: String| {
        let path = files::is_inside(&file).then(|| beside.join(&file));
        match path.filter(|path| listed.values().any(|listed| listed == path)) {
            Some(path) => Ok((file, path)),
            None => Err(BundleError::Unlisted { graph: name.to_owned(), file }),
        }
    };
    locations.into_iter().map(find).collect()
}

/// Reads and parses the manifest; also its SHA-256.
fn read_manifest(dir: &Path) -> Result<(RawManifest, [u8; 32]), BundleError> {
    let path = dir.join(MANIFEST);
    let open = |source| BundleError::Open { path: path.clone(), source };
    let text = yaml::read(&path).map_err(open)?;
    // The version goes first: an older or newer manifest differs in fields too, and those errors would
    // mislead.
    let unreadable = |source| BundleError::Yaml { path: path.clone(), source };
    let FormatOnly { format } = yaml::parse(&text).map_err(unreadable)?;
    if format != manifest::FORMAT {
        return Err(BundleError::Format { found: format });
    }
    let raw = yaml::parse(&text).map_err(unreadable)?;
    Ok((raw, Sha256::digest(&text).into()))
}

/// The one field that every version of the manifest has.
#[derive(serde::Deserialize)]
struct FormatOnly {
    format: u32,
}
