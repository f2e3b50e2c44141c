//! Will it fit? `arrcoc-export plan`.
//!
//! Computed from shapes alone: the configuration and, of a checkpoint, the headers of its weight files.
//! `memory` adds up weights, KV cache, activations (`activations`, from the graphs themselves) and the
//! runtime's own; `advice` holds the sum against a GPU of `devices` and looks for the first change that makes
//! it fit; `precision` knows what each precision costs and which GPUs compute in it; `budgets` is what an
//! image costs the decoder.

mod activations;
mod advice;
mod budgets;
mod devices;
mod memory;
mod precision;
mod report;
#[cfg(test)]
mod tests;
mod units;

use std::path::PathBuf;

use arrcoc_models::config::ConfigError;
use arrcoc_models::families::{Composition, PictureError, Preset};

pub use activations::Peak;
pub use advice::{Change, Outcome, Verdict};
pub use budgets::BudgetCost;
pub use devices::{ComputeCapability, Device, Facts};
pub use memory::{Attention, Estimate, Model, RUNTIME_OVERHEAD, Workload};
pub use precision::{Precision, Refusal, WeightKind};
pub use report::Report;

use crate::build::{BuildError, Described};
use crate::checkpoint::{Checkpoint, CheckpointError, Tensor};
use crate::init::{self, WeightType};

/// Context unless another is asked for, tokens: the server's own default.
pub const DEFAULT_CONTEXT: usize = 4096;

/// What to plan for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model.
    pub source: ModelSource,
    /// One precision, or all.
    pub precision: Option<Precision>,
    /// One GPU, or all.
    pub device: Option<Device>,
    /// Answers generated at the same time.
    pub slots: usize,
    /// Longest prompt plus answer; `None` for [`DEFAULT_CONTEXT`] or the model's own limit, if that is
    /// smaller.
    pub context: Option<usize>,
    /// Side of the encoder's input; `None` for the one that it was trained for.
    pub image_size: Option<usize>,
    /// Prompt tokens processed per step.
    pub prefill_chunk: usize,
    /// How attention is computed.
    pub attention: Attention,
}

/// Where the shapes come from.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// A checkpoint's directory.
    Checkpoint(PathBuf),
    /// A configuration that `init` knows.
    Preset(&'static Preset),
}

/// A model that cannot be planned for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The checkpoint is damaged, or is not what its configuration says.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint's configuration or tensors.
    #[error(transparent)]
    Described(#[from] BuildError),
    /// The preset's configuration.
    #[error("the preset's configuration is refused")]
    Preset(#[from] ConfigError),
    /// No image of this size is ever encoded.
    #[error(transparent)]
    ImageSize(#[from] PictureError),
    /// The context is longer than the model's positions.
    #[error("context: expected 1 to {most} tokens (the model's max_position_embeddings), found {found}")]
    Context {
        /// The model's limit.
        most: usize,
        /// What was asked for.
        found: usize,
    },
    /// There must be room for at least one answer.
    #[error("expected at least 1 {what}, found 0")]
    Zero {
        /// Slots, or tokens of a prefill chunk.
        what: &'static str,
    },
}

/// A model's name, configuration and size as it is stored.
struct Loaded {
    name: String,
    composition: Box<dyn Composition>,
    parameters: u64,
    stored: Option<u64>,
}

/// Computes what a model needs and where it fits.
///
/// # Errors
/// [`PlanError`]; that it fits nowhere is not an error.
pub fn plan(options: &Options) -> Result<Report, PlanError> {
    let Loaded { name, composition, parameters, stored } = load(&options.source)?;
    let workload = workload(composition.as_ref(), options)?;
    let model = Model::new(composition, options.attention, workload.context);
    let precisions = options.precision.map_or(Precision::ALL.to_vec(), |one| vec![one]);
    let devices = options.device.map_or(Device::ALL.to_vec(), |one| vec![one]);
    let estimates = precisions.iter().map(|&precision| model.estimate(precision, workload)).collect();
    let pairs =
        devices.iter().flat_map(|&device| precisions.iter().map(move |&precision| (device, precision)));
    let verdicts = pairs.map(|(device, precision)| model.judge(device, precision, workload)).collect();
    // Every precision below fp32 has a KV cache of 16-bit numbers: fp16 stands for them all.
    let budgets_in = options.precision.unwrap_or(Precision::Fp16);
    let budgets = model.budgets(budgets_in, workload);
    let attention = options.attention;
    Ok(Report {
        model: name,
        parameters,
        stored,
        workload,
        attention,
        estimates,
        verdicts,
        budgets_in,
        budgets,
    })
}

fn load(source: &ModelSource) -> Result<Loaded, PlanError> {
    let (name, composition, stored) = match source {
        ModelSource::Checkpoint(dir) => {
            let mut checkpoint = Checkpoint::open(dir)?;
            // Shapes come from the configuration, so the headers must agree with it.
            let Described { composition, .. } = Described::read(&mut checkpoint)?;
            let stored = checkpoint.tensors().values().map(Tensor::size).sum();
            (dir.display().to_string(), composition, Some(stored))
        }
        ModelSource::Preset(preset) => {
            (preset.name.to_owned(), init::compose(preset, WeightType::Bfloat16)?, None)
        }
    };
    let elements = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
    let parameters = composition.parameters().iter().map(|parameter| elements(&parameter.shape)).sum();
    Ok(Loaded { name, composition, parameters, stored })
}

fn workload(composition: &dyn Composition, options: &Options) -> Result<Workload, PlanError> {
    let most = composition.decoder().max_positions;
    let context = options.context.unwrap_or(DEFAULT_CONTEXT.min(most));
    if context == 0 || context > most {
        return Err(PlanError::Context { most, found: context });
    }
    let image_size = composition.picture(options.image_size)?.size;
    let Options { slots, prefill_chunk, .. } = *options;
    for (what, n) in [("slot", slots), ("token per prefill chunk", prefill_chunk)] {
        if n == 0 {
            return Err(PlanError::Zero { what });
        }
    }
    Ok(Workload { slots, context, image_size, prefill_chunk })
}
