//! Linear layers with weights in blocks of 32 along each row, of 8 or 4 bits and with a scale each: a decoder's.
//!
//! Activations are quantized block by block, too. A block's product is an integer and therefore exact; blocks are added in their
//! order, in both kernels with the same roundings. So a row's result depends neither on the rows beside it nor on which of the two
//! ran: prompts in chunks and answers in batches give the same bits.

mod gemm;
mod gemv;
mod quantize;

use crate::Threads;
use crate::shared::Shared;
use quantize::quantize;

/// Weights of a block.
pub const BLOCK: usize = 32;

/// Up to so many rows, weights are read once and multiplied as they lie; above, it pays to bring them into another order first.
const FEW: usize = gemv::MOST;

/// Bits of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// Two weights to a byte, the first in the lower half; 8 stands for zero.
    Four,
    /// One weight to a byte; 128 stands for zero.
    Eight,
}

impl Bits {
    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Four => BLOCK / 2,
            Self::Eight => BLOCK,
        }
    }

    /// What stands for zero.
    const fn zero(self) -> i32 {
        match self {
            Self::Four => 8,
            Self::Eight => 128,
        }
    }
}

/// A weight in blocks, in the layout of ONNX Runtime's `MatMulNBits`: `y = x * weight^T`.
#[derive(Debug, Clone, Copy)]
pub struct BlockedWeight<'a> {
    /// Bits of a weight.
    pub bits: Bits,
    /// Inputs: a whole number of blocks.
    pub inputs: usize,
    /// \[outputs, blocks, bytes of a block\].
    pub values: &'a [u8],
    /// \[outputs, blocks\].
    pub scales: &'a [f32],
}

impl BlockedWeight<'_> {
    fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    fn outputs(&self) -> usize {
        self.scales.len() / self.blocks()
    }

    /// An output's bytes.
    fn row(&self, output: usize) -> &[u8] {
        let bytes = self.blocks() * self.bits.bytes();
        &self.values[output * bytes..][..bytes]
    }

    /// An output's scales.
    fn scales_of(&self, output: usize) -> &[f32] {
        &self.scales[output * self.blocks()..][..self.blocks()]
    }
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
    scratch: &mut Vec<u8>,
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
    assert_eq!(weight.scales.len(), outputs * weight.blocks(), "scales: expected one for each block");
    assert_eq!(
        weight.values.len(),
        weight.scales.len() * weight.bits.bytes(),
        "values: expected whole blocks"
    );
    assert_eq!(y.len(), rows * outputs, "y: expected [{rows}, {outputs}]");

    let x = quantize(x, inputs, weight.bits.zero(), scratch, threads);
    let y = Shared::new(y);
    match rows {
        0..=FEW => gemv::multiply(&x, weight, &y, threads),
        _ => gemm::multiply(&x, weight, &y, threads),
    }
}

#[cfg(test)]
mod tests;
