//! Why a model did not load.

use crate::library::LibraryError;
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
    Memory(#[from] crate::model::MemoryError),
    /// The KV cache could not be allocated.
    #[error(
        "the KV cache of {} was refused by the system; lower engine.slots or engine.context_length",
        crate::model::Mib(*bytes)
    )]
    KvCache {
        /// Its size, bytes.
        bytes: u64,
    },
    /// The system gave no thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] std::io::Error),
}
