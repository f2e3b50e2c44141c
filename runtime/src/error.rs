//! Why a model did not load.

use std::fmt;
use std::path::PathBuf;

use crate::library::error::LibraryError;
use arrcoc_bundle::BundleError;

/// A bundle could not be turned into a running model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bundle itself is at fault.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The inference library is at fault, or is not to be had.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The bundle is of a family that this version does not know.
    #[error(
        "this version of arrcoc-serve knows the families {known}, found `{found}`; use the version that built the bundle"
    )]
    Family {
        /// The manifest's family.
        found: String,
        /// The families known.
        known: String,
    },
    /// Bundle and options do not fit each other.
    #[error("{what}: expected {expected}, found {found}")]
    Options {
        /// Which option or manifest field.
        what: &'static str,
        /// What would work.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A tokenizer or template file does not parse.
    #[error("`{file}` cannot be used: {reason}; mend it in the checkpoint and build the bundle again")]
    Text {
        /// The file's path in the bundle.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The first run failed, so no later one would succeed.
    #[error("the warm-up run failed: {0}")]
    WarmUp(String),
    /// What the model needs is not known.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The KV cache could not be allocated.
    #[error(
        "the KV cache of {} was refused by the system; lower engine.slots or engine.context_length",
        Mib(*bytes)
    )]
    KvCache {
        /// Its size, bytes.
        bytes: u64,
    },
    /// The system gave no thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What a bundle needs is not known.
#[derive(Debug, thiserror::Error)]
#[error("`{}` of the bundle cannot be read: {reason}; copy the whole directory or export again", file.display())]
pub struct MemoryError {
    /// The file.
    pub file: PathBuf,
    /// Why.
    pub reason: String,
}

/// Bytes as people read them: in MiB from one on.
#[derive(Debug, Clone, Copy)]
pub struct Mib(pub u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 >> 20 {
            0 => write!(f, "{} bytes", self.0),
            _ => write!(f, "{} MiB", self.0.div_ceil(1 << 20)),
        }
    }
}
