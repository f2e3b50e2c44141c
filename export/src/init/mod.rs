//! Random checkpoints in Hugging Face form: `arrcoc-export init`.
//!
//! They answer gibberish and measure truly: same shapes, same files, same speed as trained ones.

mod random;
mod shards;
mod tokenizer;

use arrcoc_bundle::names::checkpoint::{CONFIG, GENERATION_CONFIG, INDEX, PREPROCESSOR_CONFIG};
use arrcoc_bundle::names::file::{CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG};
use std::path::{Path, PathBuf};

use arrcoc_models::config::ConfigError;
use arrcoc_models::families::{self, Composition, Files, Preset};
use serde_json::Value;

use crate::checkpoint::Dtype;
use crate::progress::Progress;
use crate::staging::{INIT_MARK, Owned, Staging, StagingError};
use shards::Shard;

/// Largest weight file unless another limit is asked for, bytes; transformers' own.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Element types that `init` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum WeightType {
    /// 32-bit floats.
    Float32,
    /// 16-bit brain floats, as most checkpoints are released.
    Bfloat16,
    /// 16-bit IEEE floats.
    Float16,
}

impl WeightType {
    fn config_name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::F32,
            Self::Bfloat16 => Dtype::Bf16,
            Self::Float16 => Dtype::F16,
        }
    }
}

/// What to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which configuration.
    pub preset: &'static Preset,
    /// Seed: equal seeds give equal bytes, on every machine.
    pub seed: u64,
    /// Element type of the weights.
    pub dtype: WeightType,
    /// Largest weight file, bytes; a larger checkpoint becomes several files with an index.
    pub shard_bytes: u64,
    /// The directory to create.
    pub out: PathBuf,
    /// Replace the directory if it exists and holds nothing but a checkpoint.
    pub force: bool,
}

/// What was made.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of weights.
    pub bytes: u64,
    /// Weight files.
    pub shards: usize,
}

/// A checkpoint could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// There is something already.
    #[error("{} exists already; give another --out, or --force to replace it", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A preset that the networks refuse.
    #[error("the preset's configuration is refused")]
    Config(#[from] ConfigError),
    /// A file cannot be written.
    #[error(transparent)]
    Staging(#[from] StagingError),
}

/// Says why [`INIT_MARK`] is there.
const MARK: &str = "Written by `arrcoc-export init`, which may replace this directory while nothing in it has changed.\n\
    Remove this file to keep the directory.\n";

/// Writes the checkpoint; nothing appears at `options.out` before all of it is there.
///
/// # Errors
/// [`InitError`].
pub fn init(options: &Options, progress: Progress) -> Result<Summary, InitError> {
    if options.out.symlink_metadata().is_ok() && !options.force {
        return Err(InitError::Exists { path: options.out.clone() });
    }
    let preset = options.preset;
    let config = (preset.config)(options.dtype.config_name());
    let composition = compose(preset, options.dtype)?;
    let parameters = composition.parameters();
    let shards = shards::plan(&parameters, options.dtype.dtype(), options.shard_bytes);
    let bytes = shards.iter().map(Shard::length).sum();
    let staging = Staging::begin(&options.out, bytes, Owned::Checkpoint)?;
    write_json(&staging, CONFIG, &config)?;
    write_texts(&staging, preset, composition.as_ref())?;
    if shards.len() > 1 {
        write_json(&staging, INDEX, &shards::index(&shards))?;
    }
    let mut step = progress.step("weights", bytes);
    for shard in &shards {
        let path = staging.path().join(&shard.name);
        write_shard(shard, options, &path, &mut step)?;
    }
    step.finish();
    // The last file: what is newer than it was changed by somebody else.
    staging.write(INIT_MARK, MARK.as_bytes())?;
    staging.commit()?;
    let parameters = parameters.iter().map(|p| p.shape.iter().product::<usize>() as u64).sum();
    Ok(Summary { parameters, bytes, shards: shards.len() })
}

/// The networks of a preset.
pub(crate) fn compose(preset: &Preset, dtype: WeightType) -> Result<Box<dyn Composition>, ConfigError> {
    let (config, image_processor) = ((preset.config)(dtype.config_name()), (preset.image_processor)());
    families::read(&Files::of_preset(&config, &image_processor))
}

/// Everything besides configuration and weights.
fn write_texts(
    staging: &Staging,
    preset: &Preset,
    composition: &dyn Composition,
) -> Result<(), StagingError> {
    let (dialogue, context) = (preset.dialogue, composition.decoder().max_positions);
    write_json(staging, GENERATION_CONFIG, &tokenizer::generation_config(dialogue))?;
    write_json(staging, PREPROCESSOR_CONFIG, &(preset.image_processor)())?;
    write_json(staging, TOKENIZER, &tokenizer::tokenizer(dialogue))?;
    write_json(staging, TOKENIZER_CONFIG, &tokenizer::tokenizer_config(dialogue, context))?;
    staging.write(CHAT_TEMPLATE, dialogue.template.as_bytes())
}

fn write_shard(
    shard: &Shard<'_>,
    options: &Options,
    path: &Path,
    step: &mut crate::progress::Step,
) -> Result<(), InitError> {
    shard
        .write(options.seed, path, step)
        .map_err(|source| StagingError::Io { path: path.to_owned(), source }.into())
}

fn write_json(staging: &Staging, name: &str, value: &Value) -> Result<(), StagingError> {
    staging.write(name, format!("{value:#}\n").as_bytes())
}
