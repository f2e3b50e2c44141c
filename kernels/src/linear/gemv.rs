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
            // The last group steps back within the task: an output that is computed twice has the same value both times.
            let first = first.min(end.saturating_sub(ABREAST)).max(task * OUTPUTS_PER_TASK);
            // SAFETY: `linear` asked the CPU and compared the shapes.
            unsafe {
                match (x.rows, end - first >= ABREAST) {
                    (1, true) => outputs_of::<1, ABREAST>(x, weight, first, y),
                    (2, true) => outputs_of::<2, ABREAST>(x, weight, first, y),
                    (3, true) => outputs_of::<3, ABREAST>(x, weight, first, y),
                    (_, true) => outputs_of::<4, ABREAST>(x, weight, first, y),
                    (rows, false) => {
                        for output in first..end {
                            match rows {
                                1 => outputs_of::<1, 1>(x, weight, output, y),
                                2 => outputs_of::<2, 1>(x, weight, output, y),
                                3 => outputs_of::<3, 1>(x, weight, output, y),
                                _ => outputs_of::<4, 1>(x, weight, output, y),
                            }
                        }
                    }
                }
            }
        }
    });
}

/// `N` outputs of `R` rows, from output `first`.
///
/// # Safety
/// Only one task may have these outputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn outputs_of<const R: usize, const N: usize>(
    x: &QuantizedRows<'_>,
    weight: Weight<'_>,
    first: usize,
    y: &Shared<'_, f32>,
) {
    let inputs = weight.inputs();
    let rows: [&[u8]; R] = std::array::from_fn(|row| x.values(row));
    let weights: [&[u8]; N] = std::array::from_fn(|n| weight.row(first + n));
    let raise = _mm512_set1_epi8(i8::MIN);
    let mut sums = [[_mm512_setzero_si512(); N]; R];
    for at in (0..inputs).step_by(BYTES) {
        for n in 0..N {
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
        let y = unsafe { y.part(r * weight.outputs() + first, N) };
        for n in 0..N {
            let product = _mm512_reduce_add_epi32(sums[n]).wrapping_sub(about.correction) as f32;
            let output = first + n;
            y[n] = product.mul_add(about.scale * weight.scales[output], weight.bias[output]);
        }
    }
}
