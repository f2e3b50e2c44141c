//! What a family is, for those who write one and for those who export its checkpoints.

use std::fmt;

use arrcoc_bundle::manifest::VisionSpec;
use arrcoc_bundle::names::axis;
use arrcoc_bundle::names::checkpoint::PREPROCESSOR_CONFIG;
use arrcoc_bundle::{AxisRange, Role, Target};
use serde::Serialize;
use serde_json::Value;

use crate::config::ConfigError;
use crate::graph::ops::gated_delta::longest_run;
use crate::graph::{Graph, Parameter};
use crate::networks::decoder;

/// Rows that run together: what a profile for TensorRT would be built for.
const MAX_BATCH: u64 = 64;

/// Length of a question that is worth optimising for, tokens.
const USUAL_QUERY: u64 = 32;

/// All checkpoints of one `model_type`.
pub trait Family: Sync {
    /// Values of `model_type` that it reads.
    fn model_types(&self) -> &'static [&'static str];

    /// Reads a checkpoint's configuration.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, section and key, what was expected and what was found.
    fn read(&self, files: &Files<'_>) -> Result<Box<dyn Composition>, ConfigError>;

    /// Shapes that `arrcoc-export init` knows by name.
    fn presets(&self) -> &'static [Preset];
}

/// What a family reads of a checkpoint: parsed JSON, and which tensors there are.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// `config.json`.
    pub config: &'a Value,
    /// The image processor's configuration: `preprocessor_config.json`, or `image_processor` in
    /// `processor_config.json`. `null` without one.
    pub image_processor: &'a Value,
    /// The file that it stands in, for messages.
    pub image_processor_file: &'static str,
    /// What `processor_config.json` says besides; `null` without one.
    pub processor: &'a Value,
    /// `tokenizer_config.json`; `null` without one.
    pub tokenizer: &'a Value,
    /// Whether the checkpoint has a tensor of this name; `None` for a shape that is only planned.
    pub has_tensor: Option<&'a dyn Fn(&str) -> bool>,
}

impl<'a> Files<'a> {
    /// The files of a preset, before there is a checkpoint.
    pub fn of_preset(config: &'a Value, image_processor: &'a Value) -> Self {
        Self {
            config,
            image_processor,
            image_processor_file: PREPROCESSOR_CONFIG,
            processor: &Value::Null,
            tokenizer: &Value::Null,
            has_tensor: None,
        }
    }

    /// Whether the output head is the embedding table: where there are weights, they decide, whatever the
    /// files say.
    pub fn tied(&self, head: &str, stated: bool) -> bool {
        self.has_tensor.map_or(stated, |has_tensor| !has_tensor(head))
    }
}

/// A checkpoint's networks, and what a runtime must know of them.
pub trait Composition: fmt::Debug + Send + Sync {
    /// The graphs of a bundle, without the ranges of their axes. A decoder comes before an embedding that
    /// shares its table.
    fn graphs(&self, options: GraphOptions) -> Vec<Graph>;

    /// The decoder.
    fn decoder(&self) -> &decoder::Config;

    /// Images, as far as prompts and metrics go.
    fn vision(&self) -> VisionSpec;

    /// The family's own section of the manifest: a struct of [`arrcoc_bundle::processors`].
    fn processor(&self) -> serde_yaml::Value;

    /// Range of an axis that is the family's own; `None` for the decoder's.
    fn range(&self, axis: &str) -> Option<AxisRange>;

    /// What the worst picture of a size takes, for plans of memory. `None` is the size that the model was
    /// made for.
    ///
    /// # Errors
    /// [`PictureError`] where the encoder has no such size.
    fn picture(&self, size: Option<usize>) -> Result<Picture, PictureError>;

    /// Other spellings of tensor names in released files: a prefix there, and the one that the networks use.
    fn renames(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Tensors that a checkpoint may hold and no network reads.
    fn ignored(&self) -> &'static [Ignored] {
        &[]
    }
}

/// Tensors that no network reads, and why that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored {
    /// How their names begin.
    pub prefix: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// What a picture takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Encoder input, pixels.
    pub size: usize,
    /// Lengths of the family's own axes.
    pub axes: Vec<(&'static str, usize)>,
    /// Visual tokens of all that the picture has.
    pub full: usize,
    /// Fewer ones, that a request may ask for; ascending.
    pub budgets: Vec<usize>,
}

/// The encoder takes no such pictures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image size: expected one of {expected:?} pixels, found {found}")]
pub struct PictureError {
    /// Sizes that it takes.
    pub expected: Vec<usize>,
    /// What was asked for.
    pub found: usize,
}

/// How graphs are written.
#[derive(Debug, Clone, Copy)]
pub struct GraphOptions {
    /// What they are written for.
    pub target: Target,
    /// Length of the rotary tables, and so the longest sequence.
    pub context_length: usize,
}

/// A configuration with a name.
#[derive(Debug)]
pub struct Preset {
    /// The name.
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub about: &'static str,
    /// `config.json`, with weights of an element type (`float32`, `bfloat16`, `float16`).
    pub config: fn(&str) -> Value,
    /// `preprocessor_config.json`.
    pub image_processor: fn() -> Value,
    /// How its prompts look.
    pub dialogue: &'static Dialogue,
}

/// The tokens and the template of a preset's dialogues. Its tokenizer has the 256 bytes, and these behind
/// them.
#[derive(Debug)]
pub struct Dialogue {
    /// Control tokens, in the order of their ids.
    pub control: &'static [&'static str],
    /// Those that end an answer.
    pub ends: &'static [&'static str],
    /// The chat template.
    pub template: &'static str,
}

impl Dialogue {
    /// Ids of the bytes come first.
    pub const FIRST_CONTROL: u32 = 256;

    /// The id of a control token.
    ///
    /// # Panics
    /// When there is none of that name: a bug of the preset.
    pub fn id(&self, token: &str) -> u32 {
        let at = self.control.iter().position(|known| *known == token);
        Self::FIRST_CONTROL + at.unwrap_or_else(|| panic!("the dialogue has no token `{token}`")) as u32
    }
}

impl dyn Composition {
    /// Every tensor that a checkpoint of this configuration must have, sorted by name.
    pub fn parameters(&self) -> Vec<Parameter> {
        let graphs = self.graphs(GraphOptions { target: Target::Portable, context_length: 1 });
        let mut parameters: Vec<_> = graphs.into_iter().flat_map(|graph| graph.parameters).collect();
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        parameters.dedup_by(|a, b| a.name == b.name);
        parameters
    }

    /// The graphs of a bundle, with the ranges of their axes.
    pub fn ranged_graphs(&self, options: GraphOptions) -> Vec<Graph> {
        let mut graphs = self.graphs(options);
        for graph in &mut graphs {
            // Where layers are recurrent, a prompt comes in runs.
            let recurrent = graph.role == Role::Decoder && self.decoder().delta_net.is_some();
            let longest = recurrent.then(|| longest_run(options.target) as u64);
            let range = |name| {
                let range = self.range(name).unwrap_or_else(|| decoder_range(name, options.context_length));
                let longest = longest.filter(|_| name == axis::SEQ).unwrap_or(range.max);
                AxisRange { max: range.max.min(longest), ..range }
            };
            graph.ranges = graph.axes().into_iter().map(|axis| (axis, range(axis))).collect();
        }
        graphs
    }
}

/// Images of a family as released: all of their tokens, where the message has them.
pub(super) fn all_tokens(image_token_id: u32) -> VisionSpec {
    VisionSpec { image_token_id, images_first: false, token_budgets: Vec::new(), embeds_target: None }
}

/// A family's section of the manifest.
///
/// # Panics
/// Never: these structs are numbers, texts and lists of them.
pub(super) fn section(processor: &impl Serialize) -> serde_yaml::Value {
    serde_yaml::to_value(processor).expect("a plain struct")
}

/// Range of an axis of the decoder, or of a question.
fn decoder_range(name: &str, context_length: usize) -> AxisRange {
    let context = context_length as u64;
    match name {
        axis::BATCH => AxisRange { min: 1, opt: 1, max: MAX_BATCH },
        axis::QUERY_LEN => AxisRange { min: 1, opt: USUAL_QUERY.min(context), max: context },
        axis::PAST => AxisRange { min: 0, opt: context / 2, max: context },
        // One in every step but the first of a sequence.
        axis::SEQ => AxisRange { min: 1, opt: 1, max: context },
        _ => AxisRange { min: 1, opt: context.div_ceil(2), max: context },
    }
}
