//! Precisions as far as planning goes: what each costs, and which GPUs can compute in it.

use std::fmt;

use serde::Serialize;

use super::devices::ComputeCapability;

/// A precision to plan for. What `build` writes is the manifest's own list, which may be
/// shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Weights, activations and KV cache in 32 bits.
    Fp32,
    /// Weights, activations and KV cache in 16 bits; norms, rotary tables and logits in 32.
    Fp16,
    /// As fp16, with the range of fp32 and three bits of precision fewer.
    Bf16,
    /// Linear layers' weights in E4M3, all else as fp16. Counted with a scale per output channel; a bundle
    /// has one for each matrix.
    Fp8,
    /// Linear layers' weights in int8 with a scale per output channel, all else as fp16.
    Int8,
    /// The decoder's linear layers in blocks of 32 4-bit weights with an fp16 scale each, all else as fp16.
    Int4,
}

/// Weights that share a scale in int4: the default of ONNX Runtime's `MatMulNBits`.
const INT4_BLOCK: u64 = 32;
/// Bytes of a block: 32 nibbles and an fp16 scale; the blocks are symmetric, so there is no zero point.
const INT4_BLOCK_BYTES: u64 = INT4_BLOCK / 2 + 2;
/// Bytes of an output channel's scale in fp8 and int8.
const CHANNEL_SCALE_BYTES: u64 = 4;

/// What a tensor of weights is to quantisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightKind {
    /// A linear layer of the decoder.
    DecoderLinear,
    /// A linear layer of another network.
    Linear,
    /// Embeddings, the output head, convolutions, stacked heads: never below 16 bits.
    Table,
    /// Norms, biases, rotary tables: 32 bits in every precision. They are few, and the first to lose their
    /// meaning.
    Vector,
}

impl Precision {
    /// All of them, from the largest to the smallest.
    pub const ALL: [Self; 6] = [Self::Fp32, Self::Fp16, Self::Bf16, Self::Fp8, Self::Int8, Self::Int4];

    /// Bytes of an element of activations and KV cache. Below 16 bits only weights shrink: what is quantised
    /// for a product is dequantised behind it, and the KV cache stays as it is computed.
    pub const fn float_bytes(self) -> u64 {
        if matches!(self, Self::Fp32) { 4 } else { 2 }
    }

    /// Bytes of `rows` x `columns` weights of a kind, scales included.
    pub const fn weight_bytes(self, kind: WeightKind, rows: u64, columns: u64) -> u64 {
        match (self, kind) {
            (_, WeightKind::Vector) => rows * columns * 4,
            (Self::Fp8 | Self::Int8, WeightKind::DecoderLinear | WeightKind::Linear) => {
                rows * (columns + CHANNEL_SCALE_BYTES)
            }
            (Self::Int4, WeightKind::DecoderLinear) => rows * columns.div_ceil(INT4_BLOCK) * INT4_BLOCK_BYTES,
            _ => rows * columns * self.float_bytes(),
        }
    }

    /// Why a GPU of this compute capability should not run this precision; `None` where it should.
    ///
    /// Sources: the support matrices of TensorRT 10 and 11 (FP8 from 8.9, BF16 from 8.0) and of TensorRT-RTX
    /// 1.5 (7.5: FP32 and FP16); NVIDIA's CUDA C++ programming guide, table of arithmetic by compute
    /// capability.
    pub fn refusal(self, gpu: ComputeCapability) -> Option<Refusal> {
        let (reason, instead) = match self {
            Self::Bf16 if gpu < ComputeCapability(80) => (
                "needs sm_80 (Ampere) or newer; Volta (sm_70) and Turing (sm_75) have no bf16 arithmetic",
                Self::Fp16,
            ),
            Self::Fp8 if gpu < ComputeCapability(89) => (
                "needs sm_89 (Ada, Hopper) or newer; older tensor cores have no E4M3, so each weight would be unpacked to \
                 fp16 before it is used",
                if gpu < ComputeCapability(75) { Self::Int4 } else { Self::Int8 },
            ),
            Self::Int8 if gpu < ComputeCapability(75) => (
                "needs tensor cores that have it, sm_75 (Turing) or newer; without them it costs accuracy and is slower \
                 than fp16",
                Self::Int4,
            ),
            _ => return None,
        };
        Some(Refusal { reason, instead })
    }

    /// What `build` does not write for GPUs: a plan of it is of what other tools make.
    pub const fn unbuilt(self) -> Option<&'static str> {
        match self {
            Self::Bf16 => Some("a plan only: `build` writes no bf16"),
            Self::Int8 => Some("a plan only: `build` writes int8 for CPUs"),
            Self::Fp32 | Self::Fp16 | Self::Fp8 | Self::Int4 => None,
        }
    }

    /// What to know before choosing this precision on a GPU that does run it.
    pub fn caveat(self, gpu: ComputeCapability) -> Option<&'static str> {
        match self {
            // NVIDIA/Model-Optimizer#167 and NVIDIA/TensorRT#3186.
            Self::Int8 if gpu == ComputeCapability(75) => Some(
                "int8 saves memory, not time: on a T4, CLIP ViT-L ran at half the speed of fp16 (NVIDIA/Model-Optimizer#167)",
            ),
            // ONNX Runtime's contrib_ops/cuda/quantization/matmul_nbits.
            Self::Int4 if gpu < ComputeCapability(80) => {
                Some("int4 runs from the plain layout: ONNX Runtime's prepacked kernels begin at sm_80")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

/// A precision that a GPU should not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Why.
    pub reason: &'static str,
    /// What to take instead.
    pub instead: Precision,
}
