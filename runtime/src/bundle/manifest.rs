//! The manifest of a bundle, in two stages: [`RawManifest`] is what the YAML says, [`super::Bundle`] what was checked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use super::generation::GenerationSpec;
pub use super::statistics::{Drift, Statistics};
pub use super::weight_rule::{WeightForm, WeightRule};
use crate::tensor::ElementType;

/// The manifest's format version; a reader refuses any other.
pub const FORMAT: u32 = 2;

/// `manifest.yaml`, as written by the exporter and before any check.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RawManifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Model name: the checkpoint directory's name unless `--name` was given.
    pub model: String,
    /// The pipeline that composes the graphs.
    pub pipeline: PipelineKind,
    /// Numeric precision of weights and compute.
    pub precision: Precision,
    /// What the graphs are written for.
    pub target: Target,
    /// Which weights are stored in which form, where that is not the precision's alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightRule>,
    /// SHA-256 of the calibration that the precision was built with, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration_sha256: Option<String>,
    /// Operators that the calibration kept out of 16 bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_fp32: Vec<KeptNode>,
    /// Name and version of the exporter.
    pub tool: String,
    /// SHA-256 of the checkpoint's config and tensors, hex.
    pub checkpoint_sha256: String,
    /// Graphs by name; which names must be there is the pipeline's affair.
    pub graphs: BTreeMap<String, RawGraph>,
    /// Every other file of the bundle (`*.onnx.data`, tokenizer, templates): path to SHA-256.
    pub files: BTreeMap<String, String>,
    /// What the vision side needs to know.
    pub vision: VisionSpec,
    /// What the decoder needs to know.
    pub decoder: DecoderSpec,
    /// How the checkpoint's author would have tokens picked; absent in bundles of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationSpec>,
}

/// An operator that stays in 32 bits, because something that it reads or makes is too large for 16.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KeptNode {
    /// The graph.
    pub graph: String,
    /// The operator.
    pub node: String,
    /// What is too large.
    pub tensor: String,
    /// How large it got.
    pub magnitude: f32,
}

/// Which composition of graphs a bundle holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineKind {
    /// SAM, allocator, compressor, CLIP, quality adapter, Qwen3 (design 4.1).
    ArrCocOvis,
}

/// Numeric precision of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout: the reference.
    Fp32,
    /// Weights, products and the cache in 16-bit floats; norms, rotary embedding and sums in 32.
    Fp16,
    /// As fp16, with weights and products of encoders and decoder in 8-bit floats.
    Fp8,
    /// int8 weights with a scale per output channel and int8 activations with one per token, in encoders, decoder and embeddings.
    Int8,
    /// As int8, with blocks of int4 weights in the decoder, or in portable bundles as fp16, with such blocks in the decoder's layers.
    Int4,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Fp32, Self::Fp16, Self::Fp8, Self::Int8, Self::Int4];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        let known = Self::ALL.into_iter().find(|precision| precision.name() == name);
        known.ok_or_else(|| UnknownPrecision { found: name.to_owned() })
    }
}

/// No precision has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}, found `{found}`", Precision::ALL.map(Precision::name).join(", "))]
pub struct UnknownPrecision {
    /// What was given.
    pub found: String,
}

/// The kind of engine that the graphs are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// ONNX Runtime's CPU provider: fused operators, KV cache updated in place.
    Cpu,
    /// Standard operators only: tract, TensorRT, and ONNX Runtime as the second witness.
    Portable,
}

/// One graph file.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RawGraph {
    /// Path of the `.onnx` file inside the bundle.
    pub file: String,
    /// SHA-256 of that file, hex.
    pub sha256: String,
    /// ONNX opset of the default domain.
    pub opset: i64,
    /// Dynamic axes and their ranges.
    pub axes: BTreeMap<String, AxisRange>,
}

/// Range of a dynamic axis: what a TensorRT profile needs, and what the runtime refuses to leave.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct AxisRange {
    /// Smallest length.
    pub min: u64,
    /// Length to optimise for.
    pub opt: u64,
    /// Largest length.
    pub max: u64,
}

/// Vision side of a composite model.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct VisionSpec {
    /// Side of a square patch, pixels.
    pub patch_size: usize,
    /// Width of `image_features`.
    pub feature_size: usize,
    /// Square input sizes that the encoder takes, pixels; the native one is `native_size`.
    pub image_sizes: Vec<usize>,
    /// The size that the checkpoint was trained at, pixels.
    pub native_size: usize,
    /// Per-channel mean and standard deviation of pixels in 0..1.
    pub image_mean: [f32; 3],
    /// See `image_mean`.
    pub image_std: [f32; 3],
    /// Token budgets, one per tier, ascending.
    pub token_budgets: Vec<usize>,
    /// Side of the gist grid; the first `gist_grid * gist_grid` tokens are its cells.
    pub gist_grid: usize,
    /// Statistics that the adapter's output is normalised to.
    pub adapter_target: Statistics,
    /// Whether the model was trained on messages whose images stand before their text, and so gets them in that order.
    #[serde(default = "images_first")]
    pub images_first: bool,
}

/// Bundles of earlier versions do not say it: all of them are of a family that was trained image first.
fn images_first() -> bool {
    true
}

/// The decoder, as far as the KV cache and the token loop go.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct DecoderSpec {
    /// Number of layers.
    pub layers: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of `inputs_embeds`.
    pub hidden_size: usize,
    /// Size of the vocabulary, and so of `logits`.
    pub vocab_size: usize,
    /// Longest sequence that the rotary tables cover, tokens.
    pub context_length: usize,
    /// Ids that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// Id of the placeholder that an image's tokens replace.
    pub image_token_id: u32,
    /// Elements of the KV cache.
    #[serde(default, skip_serializing_if = "CacheElement::is_default")]
    pub cache_element: CacheElement,
}

/// Elements of a KV cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheElement {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// 16-bit floats.
    Fp16,
}

impl CacheElement {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// As a tensor's element type.
    pub fn element_type(self) -> ElementType {
        match self {
            Self::Fp32 => ElementType::F32,
            Self::Fp16 => ElementType::F16,
        }
    }
}
