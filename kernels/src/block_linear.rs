//! Linear layers with weights in blocks of 32 along each row, of 4 bits and with a scale each: a decoder's.
//!
//! Activations are quantized block by block, too. A block's product is an integer and therefore exact; blocks are added in their
//! order, in both kernels with the same roundings. So a row's result depends neither on the rows beside it nor on which of the two
//! ran: prompts in chunks and answers in batches give the same bits.

mod gemm;
mod gemv;
mod quantize;

use std::arch::x86_64::*;

use half::f16;

use crate::Threads;
use crate::shared::Shared;
use crate::vectors::{BYTES, LANES};
use quantize::quantize;

/// Weights of a block.
pub const BLOCK: usize = 32;
/// Outputs of a tile: one to each lane of a vector.
pub const TILE: usize = LANES;

/// Bytes of a block of a tile's weights.
const TILE_BYTES: usize = TILE * BLOCK / 2;
/// What stands for zero in a weight.
const ZERO: i32 = 8;

/// Up to so many rows, weights are read once and multiplied as they lie; above, it pays to take their halves apart first.
const FEW: usize = gemv::MOST;

/// A weight of 4 bits in the order in which the instruction takes it: `y = x * weight^T`.
///
/// Eight weights of an output, two to a byte and the first in the lower half, are a word; a tile's sixteen outputs have their words side
/// by side. 8 stands for zero.
#[derive(Debug, Clone, Copy)]
pub struct BlockedWeight<'a> {
    /// Inputs: a whole number of blocks.
    pub inputs: usize,
    /// \[outputs / 16, blocks, 4 words, 16 outputs, 4 bytes\].
    pub values: &'a [u8],
    /// \[outputs / 16, blocks, 16 outputs\].
    pub scales: &'a [f16],
}

impl BlockedWeight<'_> {
    fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    fn tiles(&self) -> usize {
        self.scales.len() / (self.blocks() * TILE)
    }

    fn outputs(&self) -> usize {
        self.tiles() * TILE
    }

    /// A tile's blocks, and their scales.
    fn tile(&self, tile: usize) -> (&[[u8; TILE_BYTES]], &[[f16; TILE]]) {
        let (blocks, at) = (self.blocks(), tile * self.blocks());
        (&self.values.as_chunks().0[at..][..blocks], &self.scales.as_chunks().0[at..][..blocks])
    }
}

/// The words of sixteen outputs, taken apart: the lower halves of their bytes, and the upper ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn halves(words: &[u8; BYTES]) -> [__m512i; 2] {
    let half = _mm512_set1_epi8(0x0f);
    // SAFETY: the array has the 64 bytes.
    let both = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
    [_mm512_and_si512(both, half), _mm512_and_si512(_mm512_srli_epi16::<4>(both), half)]
}

/// `y` \[rows, outputs\] from `x` \[rows, inputs\]. Each block of x is scaled so that its largest magnitude becomes 127, rounded to
/// the nearest integer, multiplied, and scaled back. `scratch` keeps memory between calls.
///
/// # Panics
/// When the slices do not fit each other, or the CPU has no [`crate::Support::linear`].
pub fn block_linear(
    x: &[f32],
    weight: BlockedWeight<'_>,
    y: &mut [f32],
    scratch: &mut Vec<[i32; BLOCK / 4]>,
    threads: &dyn Threads,
) {
    assert!(crate::Support::detect().linear, "expected a CPU with AVX-512 VNNI");
    let inputs = weight.inputs;
    assert!(inputs > 0 && inputs.is_multiple_of(BLOCK), "inputs: expected whole blocks, found {inputs}");
    let (rows, outputs) = (x.len() / inputs, weight.outputs());
    if y.is_empty() {
        return;
    }
    assert_eq!(x.len(), rows * inputs, "x: expected whole rows of {inputs}");
    assert_eq!(weight.scales.len(), outputs * weight.blocks(), "scales: expected whole tiles");
    assert_eq!(weight.values.len(), weight.scales.len() * BLOCK / 2, "values: expected whole blocks");
    assert_eq!(y.len(), rows * outputs, "y: expected [{rows}, {outputs}]");

    let x = quantize(x, inputs, scratch, threads);
    let y = Shared::new(y);
    match rows {
        0..=FEW => gemv::multiply(&x, weight, &y, threads),
        _ => gemm::multiply(&x, weight, &y, threads),
    }
}

#[cfg(test)]
mod tests;
