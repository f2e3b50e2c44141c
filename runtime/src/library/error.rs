//! Why a library did not do what it was asked for.

use std::path::PathBuf;

use crate::tensor::TensorError;

/// A library failed, or was asked for what it cannot do.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The library itself is not to be had.
    #[error("{runtime} cannot be used: {reason}")]
    Unavailable {
        /// Which library.
        runtime: &'static str,
        /// What was expected, found, and what to do.
        reason: String,
    },
    /// A graph did not load.
    #[error("graph `{graph}` did not load: {reason}")]
    Load {
        /// The graph's name in the bundle.
        graph: String,
        /// The library's reason.
        reason: String,
    },
    /// TensorRT runs plans only, and there is none for this graph on this machine.
    #[error(
        "graph `{graph}` has no TensorRT plan for this GPU, these libraries and these lengths: expected `{}`; compile it \
         with `{command}`",
        expected.display()
    )]
    NoPlan {
        /// The graph's name in the bundle.
        graph: String,
        /// Where it would lie.
        expected: PathBuf,
        /// What compiles it.
        command: String,
    },
    /// A run failed.
    #[error("graph `{graph}` failed: {reason}")]
    Run {
        /// The graph's name in the bundle.
        graph: String,
        /// The library's reason.
        reason: String,
    },
    /// A graph has not the output that was to be kept.
    #[error("expected a graph to have an output `{output}`, found none; export the checkpoint again")]
    NoOutput {
        /// The output.
        output: String,
    },
    /// The library has no memory for blocks.
    #[error(
        "graph `{graph}`: {bytes} bytes of memory for a KV cache were refused: {reason}; lower engine.slots or engine.context_length"
    )]
    Blocks {
        /// The graph's name in the bundle.
        graph: String,
        /// What was asked for.
        bytes: usize,
        /// The library's reason.
        reason: String,
    },
    /// The library has no such capability.
    #[error("{runtime} does not support {what}")]
    Unsupported {
        /// Which library.
        runtime: &'static str,
        /// The capability.
        what: &'static str,
    },
    /// A tensor was read as what it is not: graphs and runtime disagree.
    #[error("a graph returned an unexpected tensor: {0}; export the checkpoint again")]
    Tensor(#[from] TensorError),
}
