//! From a model's configuration to what the manifest says about it. One function per model type.

use arrcoc_models::Target as GraphTarget;
use arrcoc_models::arr_coc_ovis::{self, GraphOptions};
use arrcoc_models::config::ModelConfig;
use arrcoc_models::graph::{Graph, Parameter};
use arrcoc_runtime::bundle::manifest::{
    AxisRange, CacheElement, DecoderSpec, PipelineKind, Statistics, Target, VisionSpec,
};
use arrcoc_runtime::quote::excerpt;
use serde_json::Value;

use super::error::{BuildError, TextError};
use super::text::{Expected, Text};
use crate::checkpoint::{CONFIG, Checkpoint};

/// Rows that run together: what a profile for TensorRT would be built for.
const MAX_BATCH: u64 = 64;

/// Length of a question that is worth optimising for, tokens.
const USUAL_QUERY: u64 = 32;

/// What the manifest and the graphs need to know of one model.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) pipeline: PipelineKind,
    pub(super) vision: VisionSpec,
    pub(super) decoder: DecoderSpec,
    pub(super) text: Text,
}

/// Every tensor that a checkpoint of this configuration has.
pub(crate) fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    match config {
        ModelConfig::ArrCocOvis(config) => config.parameters(),
    }
}

/// Whether the text files of a checkpoint can be used.
pub(crate) fn check_text(config: &ModelConfig, checkpoint: &Checkpoint) -> Result<(), BuildError> {
    describe(config, checkpoint, None).map(|_| ())
}

/// Reads the text files and collects what the manifest says.
pub(super) fn describe(
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    max_context: Option<usize>,
) -> Result<Described, BuildError> {
    match config {
        ModelConfig::ArrCocOvis(config) => arr_coc_ovis(config, checkpoint, max_context),
    }
}

fn arr_coc_ovis(
    config: &arr_coc_ovis::Config,
    checkpoint: &Checkpoint,
    max_context: Option<usize>,
) -> Result<Described, BuildError> {
    let limit = config.decoder.max_positions;
    let context_length = max_context.unwrap_or(limit);
    if !(1..=limit).contains(&context_length) {
        return Err(BuildError::Context { found: context_length, limit });
    }
    let expected = Expected {
        image_token_id: config.image_token_id,
        vocab_size: config.decoder.vocab_size,
        native_size: config.vision.image_size,
    };
    let text = Text::read(checkpoint.dir(), checkpoint.config(), expected)?;
    let mut image_sizes = config.image_sizes.clone();
    image_sizes.sort_unstable();
    let vision = VisionSpec {
        patch_size: config.vision.patch_size,
        feature_size: config.vision.output_channels,
        image_sizes,
        native_size: config.vision.image_size,
        image_mean: text.image_mean,
        image_std: text.image_std,
        token_budgets: config.token_budgets.clone(),
        gist_grid: config.compressor.gist_grid,
        adapter_target: Statistics {
            mean: config.adapter.target_mean,
            std: config.adapter.target_std,
            sparsity: config.adapter.target_sparsity,
        },
        images_first: images_first(checkpoint)?,
    };
    let decoder = DecoderSpec {
        layers: config.decoder.layers,
        kv_heads: config.decoder.kv_heads,
        head_dim: config.decoder.head_dim,
        hidden_size: config.decoder.hidden_size,
        vocab_size: config.decoder.vocab_size,
        context_length,
        eos_token_ids: text.generation.eos_token_ids.clone(),
        image_token_id: config.image_token_id,
        cache_element: CacheElement::Fp32,
    };
    Ok(Described { pipeline: PipelineKind::ArrCocOvis, vision, decoder, text })
}

/// `images_first` of `config.json`: whether the model was trained on messages whose images stand before their text.
/// The family's own prompts have that order, so it is the default.
fn images_first(checkpoint: &Checkpoint) -> Result<bool, BuildError> {
    match &checkpoint.config()["images_first"] {
        Value::Null => Ok(true),
        Value::Bool(first) => Ok(*first),
        other => Err(TextError::Key {
            path: checkpoint.dir().join(CONFIG),
            key: "images_first".to_owned(),
            expected: "true or false".to_owned(),
            found: excerpt(&other.to_string()),
        }
        .into()),
    }
}

impl Described {
    /// The model's graphs for `target`.
    pub(super) fn graphs(&self, config: &ModelConfig, target: Target) -> Vec<Graph> {
        let target = match target {
            Target::Cpu => GraphTarget::Cpu,
            Target::Portable => GraphTarget::Portable,
        };
        let context_length = self.decoder.context_length;
        match config {
            ModelConfig::ArrCocOvis(config) => config.graphs(GraphOptions { target, context_length }),
        }
    }

    /// Range of a dynamic axis of the graph contract.
    pub(super) fn axis(&self, name: &str) -> AxisRange {
        let context = self.decoder.context_length as u64;
        let vision = &self.vision;
        let sizes = |map: &dyn Fn(u64) -> u64| AxisRange {
            min: vision.image_sizes.iter().map(|&size| map(size as u64)).min().unwrap_or(1),
            opt: map(vision.native_size as u64),
            max: vision.image_sizes.iter().map(|&size| map(size as u64)).max().unwrap_or(1),
        };
        let budgets = &vision.token_budgets;
        match name {
            "batch" => AxisRange { min: 1, opt: 1, max: MAX_BATCH },
            "height" | "width" => sizes(&|size| size),
            "patches" => sizes(&|size| (size / vision.patch_size as u64).pow(2)),
            "tokens" => AxisRange {
                min: budgets.first().map_or(1, |&n| n as u64),
                // The upper of the middle tiers: kernels for it do for the smaller ones too.
                opt: budgets.get(budgets.len() * 3 / 4).map_or(1, |&n| n as u64),
                max: budgets.last().map_or(1, |&n| n as u64),
            },
            "query_len" => AxisRange { min: 1, opt: USUAL_QUERY.min(context), max: context },
            "past" => AxisRange { min: 0, opt: context / 2, max: context },
            // `seq` is one in every step but the first of a sequence.
            "seq" => AxisRange { min: 1, opt: 1, max: context },
            _ => AxisRange { min: 1, opt: context.div_ceil(2), max: context },
        }
    }
}
