//! What can be wrong with a checkpoint.

use arrcoc_bundle::names::checkpoint::{INDEX, WEIGHTS};
use std::ops::Range;
use std::path::PathBuf;

use arrcoc_bundle::quote::Brief;
use arrcoc_bundle::small::LFS_ADVICE;
use arrcoc_models::config::ConfigError;

use super::expect::Mismatch;
use super::header::{Dtype, HeaderError, MAX_HEADER_BYTES};

/// A checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is no configuration.
    #[error("expected a checkpoint with a config.json in {}, found {instead}", path.display())]
    NoConfig {
        /// The directory.
        path: PathBuf,
        /// What is there.
        instead: String,
    },
    /// The path is not a directory.
    #[error("{} is not a directory: expected a Hugging Face checkpoint directory with config.json", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The weights are in llama.cpp's format.
    #[error(
        "{} is a GGUF file, llama.cpp's format, which is not read here; expected a Hugging Face checkpoint directory with \
         config.json and safetensors files", file.display()
    )]
    Gguf {
        /// The file.
        file: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A JSON file is too large to be what its name says.
    #[error("{} has {length} bytes; the limit for JSON files is {MAX_HEADER_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length, bytes.
        length: u64,
    },
    /// A file itself is not there.
    #[error("{}: {LFS_ADVICE}", path.display())]
    Pointer {
        /// The file.
        path: PathBuf,
    },
    /// A JSON file is not JSON.
    #[error("{} is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Brief<serde_json::Error>,
    },
    /// No weights.
    #[error("{} has no weights: expected {WEIGHTS}, or shards with {INDEX}", dir.display())]
    NoWeights {
        /// The checkpoint.
        dir: PathBuf,
    },
    /// There are no weights, and no family takes the configuration.
    #[error("cannot use {}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Brief<ConfigError>,
    },
    /// Two tensors are spellings of one.
    #[error("tensors `{first}` and `{second}` are both `{name}` to the networks; expected one of the two")]
    SameName {
        /// The name that the networks use.
        name: String,
        /// A tensor.
        first: String,
        /// The other one.
        second: String,
    },
    /// Weights in pickled form.
    #[error(
        "{} holds pickled weights ({file}), which can run code when they are loaded and are not read here; \
         convert them with transformers: `model.save_pretrained(DIR, safe_serialization=True)`",
        dir.display()
    )]
    Pickle {
        /// The checkpoint.
        dir: PathBuf,
        /// The first such file.
        file: String,
    },
    /// A weight file is damaged.
    #[error("{} is not a sound safetensors file", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// The index is malformed.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// A weight file is missing.
    #[error(
        "shard {shard} is missing: {} puts {tensors} tensors there; download it again, or finish the download",
        index.display()
    )]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The missing file.
        shard: String,
        /// Tensors that the index puts there.
        tensors: usize,
    },
    /// The index names a tensor that its file does not hold.
    #[error("tensor `{tensor}` is not in {shard}, where {} puts it: the files are not of one checkpoint", index.display())]
    NotInShard {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it should be.
        shard: String,
    },
    /// A file holds a tensor that the index does not name.
    #[error(
        "tensor `{tensor}` of {} is not in {}: the files are not of one checkpoint",
        shard.display(), index.display()
    )]
    NotInIndex {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it is.
        shard: PathBuf,
    },
    /// Two files hold a tensor of the same name.
    #[error("tensor `{tensor}` is both in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The tensors are not the ones that the configuration asks for.
    #[error("the tensors do not fit config.json:{}", super::expect::Listed(.0))]
    Mismatches(Vec<Mismatch>),
    /// A tensor was asked for that is not there.
    #[error("the checkpoint has no tensor `{tensor}`")]
    NoSuchTensor {
        /// The tensor.
        tensor: String,
    },
    /// Elements were asked for that are not there.
    #[error("tensor `{tensor}` has {found} elements; {range:?} were asked for")]
    Range {
        /// The tensor.
        tensor: String,
        /// What was asked for.
        range: Range<usize>,
        /// What there is.
        found: usize,
    },
    /// A tensor has a type that is no weight's.
    #[error("tensor `{tensor}` has dtype {dtype}; expected F32, BF16 or F16")]
    NotFloat {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
    },
    /// What was read could not be written on.
    #[error("cannot write the weights")]
    Sink(#[source] std::io::Error),
    /// A weight, or the scale that it would be stored with, does not fit 16 bits.
    #[error(
        "tensor `{tensor}`: element {index} is {value}, and in the form it was to take weights end at {limit}; keep it in 32 \
         bits with the rule `{{tensor: \"{tensor}\", form: fp32}}`"
    )]
    Overflow {
        /// The tensor.
        tensor: String,
        /// Row-major index of the first such element, within the part that a graph reads.
        index: usize,
        /// Its value, smoothed where the tensor is.
        value: f32,
        /// The largest magnitude that fits.
        limit: f32,
    },
    /// All of a matrix is too small for 16-bit scales.
    #[error(
        "tensor `{tensor}`: the largest weight is {largest}, and in the form it was to take it has to be {least} at least; \
         give it 32-bit scales with the rule `{{tensor: \"{tensor}\", form: w8a8}}` in a bundle for CPUs, or keep it as it \
         is with `form: fp32`"
    )]
    Underflow {
        /// The tensor.
        tensor: String,
        /// Its largest magnitude, smoothed where the tensor is.
        largest: f32,
        /// What that has to be.
        least: f32,
    },
    /// A weight cannot be quantized.
    #[error(
        "tensor `{tensor}`: element {index} is NaN or infinite and cannot be quantized; was the checkpoint saved whole?"
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Row-major index of the first such element, within the part that a graph reads.
        index: usize,
    },
}
