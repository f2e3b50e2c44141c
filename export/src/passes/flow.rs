//! What the passes of 16- and 8-bit floats share: the operators that such numbers flow through, and what the
//! passes are told.

use std::collections::BTreeMap;

use half::f16;

use super::forms::Rules;
use crate::calibrate::file::GraphRanges;
use crate::calibrate::histogram::RangeMethod;
use crate::quantize;

/// Operators that hand on what they are given.
pub(super) const MOVING: [&str; 11] = [
    "Reshape",
    "Transpose",
    "Slice",
    "Split",
    "Expand",
    "Unsqueeze",
    "Squeeze",
    "Gather",
    "GatherElements",
    "Pad",
    "Identity",
];

/// What a pass is told of a graph.
pub(super) struct Settings<'a> {
    pub(super) rules: &'a mut Rules,
    /// What the graph's tensors reached.
    pub(super) ranges: &'a GraphRanges,
    /// Largest magnitudes of everything that comes from the checkpoint.
    pub(super) weights: &'a BTreeMap<String, Vec<f32>>,
    /// How the range of an 8-bit activation is chosen.
    pub(super) range: RangeMethod,
}

/// Little-endian floats as halves.
pub(super) fn halves(bytes: &[u8]) -> Vec<u8> {
    quantize::floats(bytes).flat_map(|x| f16::from_f32(x).to_le_bytes()).collect()
}
