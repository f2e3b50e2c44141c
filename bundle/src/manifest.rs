//! The manifest of a bundle, in two stages: [`RawManifest`] is what the YAML says, [`super::Bundle`] what was
//! checked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::generation::GenerationSpec;
use super::graph::{AxisRange, Meaning, Role};
use super::statistics::Statistics;
use super::tool_calls::ToolSyntax;
use super::weight_rule::WeightRule;

/// The manifest's format version; a reader refuses any other.
pub const FORMAT: u32 = 3;

/// `manifest.yaml`, as written by the exporter and before any check.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RawManifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Model name: the checkpoint directory's name unless `--name` was given.
    pub model: String,
    /// The family of checkpoints: who reads `processor` and runs the graphs.
    pub family: String,
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
    /// Graphs by name. What each is for, it says itself; which names must be there is the family's affair.
    pub graphs: BTreeMap<String, RawGraph>,
    /// Every other file of the bundle (`*.onnx.data`, tokenizer, templates): path to SHA-256.
    pub files: BTreeMap<String, String>,
    /// Images, as far as prompts and metrics go.
    pub vision: VisionSpec,
    /// How the family turns a picture into tensors and places: a struct of [`crate::processors`].
    pub processor: serde_yaml::Value,
    /// What the decoder needs to know.
    pub decoder: DecoderSpec,
    /// How the checkpoint's author would have tokens picked.
    pub generation: GenerationSpec,
    /// How the model calls tools, where its chat template has a place for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<ToolSyntax>,
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

/// Numeric precision of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout: the reference.
    Fp32,
    /// Weights, products and the cache in 16-bit floats; norms, rotary embedding and sums in 32.
    Fp16,
    /// As fp16, with weights and products of encoders and decoder in 8-bit floats; a `cuda` decoder's
    /// attention stays in 16 bits.
    Fp8,
    /// int8 weights and activations: in encoders with a scale per output channel and one per token, in
    /// decoder and embeddings in blocks of 32.
    Int8,
    /// As int8, with blocks of int4 weights in the decoder; for `cuda` and in portable bundles as fp16, with
    /// such blocks in the decoder's layers.
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

/// The kind of engine that the graphs are written for. Nobody outside of this file asks which one it is:
/// what follows from it is a method here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// ONNX Runtime's CPU provider: fused operators, KV cache updated in place.
    Cpu,
    /// ONNX Runtime's CUDA provider: networks in standard operators, and the decoder's attention in one that
    /// updates the KV cache in place. It runs on the CPU provider too.
    Cuda,
    /// Standard operators only: tract, TensorRT, and ONNX Runtime as the second witness.
    Portable,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::Portable];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Portable => "portable",
        }
    }

    /// Opset of the default ONNX domain; 21 for portable graphs, too, where there are 8-bit floats or 4-bit
    /// integers.
    pub const fn opset(self) -> i64 {
        match self {
            Self::Cpu | Self::Cuda => 21,
            Self::Portable => 18,
        }
    }

    /// ONNX IR version that introduced no feature beyond [`Self::opset`]
    /// (<https://github.com/onnx/onnx/blob/main/docs/Versioning.md>).
    pub const fn ir_version(self) -> i64 {
        match self {
            Self::Cpu | Self::Cuda => 10,
            Self::Portable => 8,
        }
    }

    /// Whether the decoder extends one KV buffer per layer in place, in which every slot has a block, so
    /// that it steps several slots as one batch. Else past and present are tensors, slot by slot.
    pub const fn shares_cache(self) -> bool {
        matches!(self, Self::Cpu | Self::Cuda)
    }

    /// Whether networks have operators of our own, and those that ONNX Runtime has for CPUs. Else all but
    /// the decoder's attention is spelt out in standard operators.
    pub const fn has_own_operators(self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// Whether products in 8-bit integers are possible; they need [`Self::has_own_operators`].
    pub const fn has_integers(self) -> bool {
        self.has_own_operators()
    }

    /// Whether floats of 16 and 8 bits are possible. CPUs compute them in 32, and hide what overflows.
    pub const fn has_small_floats(self) -> bool {
        !matches!(self, Self::Cpu)
    }

    /// Whether products read blocks of 4-bit weights behind a standard `DequantizeLinear`. Else an operator
    /// reads them as they are stored.
    pub const fn dequantizes_blocks(self) -> bool {
        matches!(self, Self::Portable)
    }

    /// Whether a prompt may go through the decoder in longer chunks while nobody waits for a step. A GPU's
    /// kernels and plans are readied for lengths up to the usual chunk's.
    pub const fn has_longer_chunks(self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// Whether the graphs are in ONNX's standard operators alone, for any library.
    pub const fn is_standard(self) -> bool {
        matches!(self, Self::Portable)
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(name: &str) -> Result<Self, UnknownTarget> {
        let known = Self::ALL.into_iter().find(|target| target.name() == name);
        known.ok_or_else(|| UnknownTarget { found: name.to_owned() })
    }
}

/// No target has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}, found `{found}`", Target::ALL.map(Target::name).join(", "))]
pub struct UnknownTarget {
    /// What was given.
    pub found: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One graph file.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RawGraph {
    /// What the graph is for.
    pub role: Role,
    /// Path of the `.onnx` file inside the bundle.
    pub file: String,
    /// SHA-256 of that file, hex.
    pub sha256: String,
    /// ONNX opset of the default domain.
    pub opset: i64,
    /// Dynamic axes and their ranges.
    pub axes: BTreeMap<String, AxisRange>,
    /// The outputs, and what their numbers mean; the KV cache is not among them.
    pub outputs: BTreeMap<String, Meaning>,
}

/// What a model does with images, as far as it concerns prompts, budgets and metrics.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct VisionSpec {
    /// Id of the placeholder that an image's tokens replace. It may lie beyond the vocabulary.
    pub image_token_id: u32,
    /// Whether the model was trained on messages whose images stand before their text, and so gets them in
    /// that order.
    pub images_first: bool,
    /// Token budgets, one per tier, ascending; none where the family has no allocator of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_budgets: Vec<usize>,
    /// What visual tokens should look like to the decoder, where the family says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeds_target: Option<Statistics>,
}

/// The decoder, as far as the KV cache and the token loop go.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct DecoderSpec {
    /// Number of layers.
    pub layers: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head in the KV cache.
    pub head_dim: usize,
    /// Width of `inputs_embeds`.
    pub hidden_size: usize,
    /// Size of the vocabulary, and so of `logits`.
    pub vocab_size: usize,
    /// Longest sequence that the rotary tables cover, tokens.
    pub context_length: usize,
    /// Ids that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// Elements of the KV cache.
    #[serde(default, skip_serializing_if = "CacheElement::is_default")]
    pub cache_element: CacheElement,
    /// First layers behind which rows of the pictures are added (`deep_embeds`); 0 where the decoder has
    /// none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deep_levels: usize,
    /// Layers that have a memory of fixed size in place of keys and values; none in most decoders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurrent: Option<RecurrentSpec>,
}

impl DecoderSpec {
    /// The layers that have keys and values.
    pub fn attention_layers(&self) -> impl Iterator<Item = usize> {
        let recurrent = self.recurrent.as_ref().map_or(&[][..], |recurrent| &recurrent.layers);
        (0..self.layers).filter(|layer| !recurrent.contains(layer))
    }
}

/// Recurrent layers: what each remembers of earlier tokens, 32-bit floats.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RecurrentSpec {
    /// The layers, ascending.
    pub layers: Vec<usize>,
    /// Tokens that the memory of a layer's convolution holds.
    pub window: usize,
    /// Numbers of such a token.
    pub channels: usize,
    /// Heads, with a matrix each.
    pub heads: usize,
    /// Rows of a matrix.
    pub key_width: usize,
    /// Columns of a matrix.
    pub value_width: usize,
    /// Most tokens that the graph takes in one run.
    pub longest_run: usize,
}

impl RecurrentSpec {
    /// Shape of the convolution's memory for `batch` rows.
    pub fn window_shape(&self, batch: usize) -> [usize; 3] {
        [batch, self.window, self.channels]
    }

    /// Shape of the matrices for `batch` rows.
    pub fn matrix_shape(&self, batch: usize) -> [usize; 4] {
        [batch, self.heads, self.key_width, self.value_width]
    }

    /// Numbers that a slot remembers, over all layers.
    pub fn numbers(&self) -> u64 {
        let product = |factors: &[usize]| factors.iter().fold(1, |n: u64, &f| n.saturating_mul(f as u64));
        let layer = product(&self.window_shape(1)).saturating_add(product(&self.matrix_shape(1)));
        layer.saturating_mul(self.layers.len() as u64)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
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
}
