//! How far two runtimes may lie apart, per output of a stage, and why.
//!
//! Distances are max |a - b| / max |b| over an output, with the same inputs bit for bit on both sides, so that a stage
//! answers for itself and not for the ones before it.

use arrcoc_runtime::bundle::manifest::{Precision, Target};

/// What an output is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Stage: the graph's name in the bundle.
    pub stage: &'static str,
    /// Output of the graph.
    pub output: &'static str,
    /// Largest allowed distance; 0 asks for equality.
    pub limit: f64,
}

/// The contract of the reference tests: 1e-3 for networks in 32-bit floats. Runtimes differ in the order of their sums
/// and in their exponentials, which came to 3e-6 at most on the three presets; trained weights have outliers
/// that random ones lack. A wrong operator, layout or weight differs by far more than either.
const NETWORK: f64 = 1e-3;

/// A handful of operations on small whole numbers: one rounding more or less.
const ARITHMETIC: f64 = 1e-6;

/// Rows or indices picked, not computed.
const EXACT: f64 = 0.0;

/// Every output of every stage at precision `fp32`.
pub const FP32: &[Tolerance] = &[
    Tolerance { stage: "embedding", output: "inputs_embeds", limit: EXACT },
    Tolerance { stage: "vision_encoder", output: "image_features", limit: NETWORK },
    Tolerance { stage: "allocator", output: "relevance", limit: NETWORK },
    Tolerance { stage: "allocator", output: "knowing", limit: NETWORK },
    Tolerance { stage: "allocator", output: "tension_weights", limit: NETWORK },
    Tolerance { stage: "allocator", output: "tier_logits", limit: NETWORK },
    Tolerance { stage: "compressor", output: "visual_tokens", limit: NETWORK },
    Tolerance { stage: "compressor", output: "token_positions", limit: ARITHMETIC },
    // Both sides see the same relevance; ties go to the lower index by contract.
    Tolerance { stage: "compressor", output: "token_indices", limit: EXACT },
    Tolerance { stage: "refiner", output: "refined_tokens", limit: NETWORK },
    Tolerance { stage: "quality_adapter", output: "visual_embeds", limit: NETWORK },
    Tolerance { stage: "decoder", output: "logits", limit: NETWORK },
];

/// Sixteen bits keep eleven of a number: every tensor that is stored so is off by 2^-12 of itself, and a network of a few dozen layers
/// stores a few hundred of them, whose errors add up as the root of their number; twice that, since logits are sums of cancelling terms.
const FP16: f64 = 1e-2;

/// E4M3 keeps four bits of a number: weights and activations are off by up to 1/16 of themselves, by half of that on the average, and
/// unlike int8's the error does not shrink for what is small. Sums of many products lose less, layers add up.
const FP8: f64 = 2e-1;

/// The rows of a table in 16 bits: half of the last bit.
const FP16_TABLE: f64 = 5e-4;

/// int8 activations carry an error of half a step, 1/254 of a token's largest value, into every product; it adds up over the layers
/// as the root of their number, and outliers make the step wider for all that stands beside them.
const INT8: f64 = 8e-2;

/// The rows of a table in int8: half a step of 1/127 of the row's largest entry.
const INT8_TABLE: f64 = 4e-3;

/// Blocks of int4 weights: half a step is 1/16 of a block's largest weight. Random weights have no direction that training would have kept
/// clear of that noise: they lose more than trained ones do.
const INT4: f64 = 4e-1;

/// The limit of a stage that a precision changes; `None` where it leaves fp32 as it is.
fn coarser(precision: Precision, target: Target, stage: &str) -> Option<f64> {
    let (table, encoders, decoder) = match (precision, target) {
        (Precision::Fp32, _) => return None,
        (Precision::Fp16, _) => (FP16_TABLE, FP16, FP16),
        (Precision::Fp8, _) => (FP16_TABLE, FP8, FP8),
        (Precision::Int8, _) => (INT8_TABLE, INT8, INT8),
        (Precision::Int4, Target::Cpu) => (INT8_TABLE, INT8, INT4),
        (Precision::Int4, Target::Portable) => (FP16_TABLE, FP16, INT4),
    };
    match stage {
        "embedding" => Some(table),
        "vision_encoder" | "refiner" => Some(encoders),
        "decoder" => Some(decoder),
        _ => None,
    }
}

/// The limit of an output at a precision and target; outputs that the table does not know must be equal.
pub fn limit(precision: Precision, target: Target, stage: &str, output: &str) -> f64 {
    let known = FP32.iter().find(|tolerance| tolerance.stage == stage && tolerance.output == output);
    known.map_or(EXACT, |tolerance| coarser(precision, target, stage).unwrap_or(tolerance.limit))
}
