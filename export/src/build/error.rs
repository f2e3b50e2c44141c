//! Why a bundle could not be built.

use std::path::PathBuf;

use arrcoc_bundle::quote::Brief;
use arrcoc_models::config::ConfigError;
use arrcoc_runtime::error::LoadError;

use crate::checkpoint::CheckpointError;
use crate::passes::PassError;
use crate::staging::StagingError;

/// A bundle could not be built; nothing was left at its destination, and a bundle that stood there still
/// stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The weights are at fault.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration is at fault.
    #[error("cannot use {}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Brief<ConfigError>,
    },
    /// The bundle would not load.
    #[error("this version's server would refuse the bundle; mend what the checkpoint says of it")]
    Unusable(#[source] LoadError),
    /// A text file is at fault.
    #[error(transparent)]
    Text(#[from] TextError),
    /// No name for the model.
    #[error(
        "`{name}` cannot name a model: expected letters, digits, `.`, `_` and `-`, the first no dot; give another --name"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// An option asks for more than the model has.
    #[error("--max-context {found} is out of range: this model takes 1 to {limit} tokens")]
    Context {
        /// What was asked for.
        found: usize,
        /// What the model was made for.
        limit: usize,
    },
    /// The precision is at fault.
    #[error(transparent)]
    Precision(#[from] PassError),
    /// The calibration is of another checkpoint.
    #[error(
        "the calibration is of another checkpoint: expected {expected}, found {found}; \
         make it again with `arrcoc-export calibrate`"
    )]
    OtherCalibration {
        /// Digest in the calibration.
        expected: String,
        /// Digest of the checkpoint.
        found: String,
    },
    /// The destination cannot be written.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The manifest cannot be written as YAML.
    #[error("cannot write the manifest")]
    Manifest(#[from] serde_yaml::Error),
}

/// A tokenizer, template or preprocessor file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file is not there.
    #[error("{} is missing: {hint}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not JSON.
    #[error("{} is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Brief<serde_json::Error>,
    },
    /// The tokenizers library refuses the file, or the runtime cannot use it.
    #[error("{} is no tokenizer that can be used: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Its reason.
        reason: String,
    },
    /// The chat template cannot be used.
    #[error(
        "the chat template in {} cannot be used: {reason}; mend it, or take the one that the model was trained with",
        path.display()
    )]
    Template {
        /// The file that it stands in.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A value does not fit.
    #[error("{}, {key}: expected {expected}, found {found}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A key cannot be followed.
    #[error("{}, `{key}`: expected {expected}, found {found}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
}
