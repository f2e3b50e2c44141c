//! Products of a few rows: a decoder's step. Every weight is read once, in the order of memory, and multiplied with all rows.

use std::arch::x86_64::*;

use super::Weight;
use super::quantize::QuantizedRows;
use crate::Threads;
use crate::shared::Shared;
use crate::vectors::{BYTES, load_bytes};

/// Most rows.
pub(super) const MOST: usize = 4;

/// Outputs of one task.
const OUTPUTS_PER_TASK: usize = 64;
/// Outputs that are computed side by side: as many streams of memory, and enough sums to hide the latency of an addition.
const ABREAST: usize = 4;

pub(super) fn multiply(
    x: &QuantizedRows<'_>,
    weight: Weight<'_>,
    y: &Shared<'_, f32>,
    threads: &dyn Threads,
) {
    let outputs = weight.outputs();
    threads.run(outputs.div_ceil(OUTPUTS_PER_TASK), &|task| {
        let end = outputs.min((task + 1) * OUTPUTS_PER_TASK);
        for first in (task * OUTPUTS_PER_TASK..end).step_by(ABREAST) {
            // SAFETY: `linear` asked the CPU and compared the shapes; every task has outputs of its own.
            unsafe {
                match x.rows {
                    1 => four_outputs::<1>(x, weight, first, y),
                    2 => four_outputs::<2>(x, weight, first, y),
                    3 => four_outputs::<3>(x, weight, first, y),
                    _ => four_outputs::<4>(x, weight, first, y),
                }
            }
        }
    });
}

/// Four outputs of `R` rows, from output `first`.
///
/// # Safety
/// Only one task may have these outputs, and the CPU must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn four_outputs<const R: usize>(
    x: &QuantizedRows<'_>,
    weight: Weight<'_>,
    first: usize,
    y: &Shared<'_, f32>,
) {
    let outputs = weight.outputs();
    let inputs = weight.inputs();
    let rows: [&[u8]; R] = std::array::from_fn(|row| x.values(row));
    // Beyond the last output, that one again: nobody reads it.
    let weights: [&[u8]; ABREAST] = std::array::from_fn(|n| weight.row((first + n).min(outputs - 1)));
    let raise = _mm512_set1_epi8(i8::MIN);
    let mut sums = [[_mm512_setzero_si512(); ABREAST]; R];
    for at in (0..inputs).step_by(BYTES) {
        for n in 0..ABREAST {
            // Raised by 128, since the instruction multiplies unsigned with signed bytes.
            let w = _mm512_xor_si512(load_bytes(&weights[n][at..]), raise);
            for r in 0..R {
                sums[r][n] = _mm512_dpbusd_epi32(sums[r][n], w, load_bytes(&rows[r][at..]));
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let about = x.about(r);
        // SAFETY: the caller has these outputs to itself.
        let y = unsafe { y.part(r * outputs + first, ABREAST.min(outputs - first)) };
        for n in 0..y.len() {
            let product = _mm512_reduce_add_epi32(sums[n]).wrapping_sub(about.correction) as f32;
            let output = first + n;
            y[n] = product.mul_add(about.scale * weight.scales[output], weight.bias[output]);
        }
    }
}
