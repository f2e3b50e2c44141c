//! What is in a checkpoint or a bundle: `arrcoc-export inspect`.

mod bundle;
mod checkpoint;

use std::fmt;
use std::path::Path;

use arrcoc_bundle::{BundleError, MANIFEST};
use serde::Serialize;

pub use bundle::BundleReport;
pub use checkpoint::CheckpointReport;

use crate::checkpoint::CheckpointError;
use crate::onnx::OnnxError;

/// What was found.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Report {
    /// A Hugging Face directory.
    Checkpoint(CheckpointReport),
    /// An engine bundle.
    Bundle(Box<BundleReport>),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(report) => report.fmt(f),
            Self::Bundle(report) => report.fmt(f),
        }
    }
}

/// A directory could not be inspected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// As a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// As a bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// One of a bundle's graphs.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
}

/// Looks into a directory: a bundle if it has a manifest, else a checkpoint. `tensors` lists every tensor.
///
/// # Errors
/// [`InspectError`] when it is neither, or damaged.
pub fn inspect(path: &Path, tensors: bool) -> Result<Report, InspectError> {
    if path.join(MANIFEST).exists() {
        Ok(Report::Bundle(Box::new(BundleReport::read(path)?)))
    } else {
        Ok(Report::Checkpoint(CheckpointReport::read(path, tensors)?))
    }
}
