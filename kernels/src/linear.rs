//! Linear layers in 8 bits: weights with a scale for each output, activations with a scale for each row, found on the way.
//!
//! Sums of products are integers and therefore exact, and what follows is done to each number alone: a row's result depends neither on
//! the rows beside it nor on which of the two kernels ran. Batches, chunks and streams give the same bits.

mod gemm;
mod gemv;
mod quantize;

use std::arch::x86_64::*;

use crate::Threads;
use crate::quantize::Group;
use crate::shared::Shared;
use quantize::quantize;

/// Most inputs of a [`linear()`] layer: so many products of signed bytes fit 32 bits, and so does the correction. Products with raised weights, which are
/// added first, may not: they wrap, and taking the correction off wraps back.
pub const MOST_INPUTS: usize = 1 << 17;

/// Up to so many rows, weights are read once and multiplied as they lie; above, it pays to bring them into another order first.
const FEW: usize = gemv::MOST;

/// Sums of products with raised weights to numbers, for sixteen outputs of a row.
#[inline]
#[target_feature(enable = "avx512f")]
fn scaled_back(sums: __m512i, about: Group, scales: __m512, bias: __m512) -> __m512 {
    let product = _mm512_sub_epi32(sums, _mm512_set1_epi32(about.correction));
    let scale = _mm512_mul_ps(_mm512_set1_ps(about.scale), scales);
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, bias)
}

/// A weight in 8 bits, as checkpoints order it: `y = x * weight^T * scale + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Weight<'a> {
    /// \[outputs, inputs\], from -127 to 127.
    pub values: &'a [i8],
    /// \[outputs\].
    pub scales: &'a [f32],
    /// \[outputs\].
    pub bias: &'a [f32],
}

impl Weight<'_> {
    fn outputs(&self) -> usize {
        self.scales.len()
    }

    fn inputs(&self) -> usize {
        self.values.len() / self.outputs().max(1)
    }

    /// An output's bytes, signed.
    fn row(&self, output: usize) -> &[u8] {
        let inputs = self.inputs();
        let row = &self.values[output * inputs..][..inputs];
        // SAFETY: bytes are bytes, signed or not.
        unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), row.len()) }
    }
}

/// `y` \[rows, outputs\] from `x` \[rows, inputs\]. Each row of x is scaled so that its largest magnitude becomes 127, rounded to
/// the nearest integer, multiplied, and scaled back. `scratch` keeps memory between calls.
///
/// # Panics
/// When the slices do not fit each other, or the CPU has no [`crate::Support::linear`].
pub fn linear(x: &[f32], weight: Weight<'_>, y: &mut [f32], scratch: &mut Vec<u8>, threads: &dyn Threads) {
    assert!(crate::Support::detect().linear, "expected a CPU with AVX-512 VNNI");
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    if y.is_empty() {
        return;
    }
    assert!((1..=MOST_INPUTS).contains(&inputs), "expected 1 to {MOST_INPUTS} inputs, found {inputs}");
    let rows = x.len() / inputs;
    assert_eq!(x.len(), rows * inputs, "x: expected whole rows of {inputs}");
    assert_eq!(weight.values.len(), outputs * inputs, "weight: expected [{outputs}, {inputs}]");
    assert_eq!(weight.bias.len(), outputs, "bias: expected one number for each output");
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
