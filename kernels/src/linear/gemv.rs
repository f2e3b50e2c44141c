//! Products of a few rows: a decoder's step. Every weight is read once, in the order of memory, and multiplied with all rows.

use std::arch::x86_64::*;

use super::quantize::QuantizedRows;
use super::{Weight, scaled_back};
use crate::Threads;
use crate::shared::Shared;
use crate::vectors::{BYTES, LANES, fetch_soon, load_bytes, load_floats, store_floats, transposed};

/// Most rows.
pub(super) const MOST: usize = 4;

/// Outputs of one task.
const OUTPUTS_PER_TASK: usize = 4 * LANES;
/// How far ahead of the products weights are asked for, bytes.
const AHEAD: usize = 2 << 10;

pub(super) fn multiply(
    x: &QuantizedRows<'_>,
    weight: Weight<'_>,
    y: &Shared<'_, f32>,
    threads: &dyn Threads,
) {
    let outputs = weight.outputs();
    threads.run(outputs.div_ceil(OUTPUTS_PER_TASK), &|task| {
        let end = outputs.min((task + 1) * OUTPUTS_PER_TASK);
        for first in (task * OUTPUTS_PER_TASK..end).step_by(LANES) {
            let count = LANES.min(end - first);
            // SAFETY: `linear` asked the CPU and compared the shapes; every task has outputs of its own.
            unsafe {
                match x.rows {
                    1 => some_outputs::<1>(x, weight, first, count, y),
                    2 => some_outputs::<2>(x, weight, first, count, y),
                    3 => some_outputs::<3>(x, weight, first, count, y),
                    _ => some_outputs::<4>(x, weight, first, count, y),
                }
            }
        }
    });
}

/// Sixteen outputs or fewer of `R` rows, from output `first`.
///
/// # Safety
/// Only one task may have these outputs, and the CPU must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn some_outputs<const R: usize>(
    x: &QuantizedRows<'_>,
    weight: Weight<'_>,
    first: usize,
    count: usize,
    y: &Shared<'_, f32>,
) {
    let rows: [&[u8]; R] = std::array::from_fn(|row| x.values(row));
    let mut sums = [[_mm512_setzero_si512(); LANES]; R];
    for lane in 0..count {
        let products = multiply_output(rows, weight.row(first + lane));
        for r in 0..R {
            sums[r][lane] = products[r];
        }
    }
    let [scales, bias] = [weight.scales, weight.bias].map(|all| load_floats(&all[first..][..count]));
    for (r, sums) in sums.into_iter().enumerate() {
        let [first_word, words @ ..] = transposed(sums);
        let product = words.into_iter().fold(first_word, |sum, word| _mm512_add_epi32(sum, word));
        let result = scaled_back(product, x.about(r), scales, bias);
        // SAFETY: the caller has these outputs to itself.
        store_floats(result, unsafe { y.part(r * weight.outputs() + first, count) });
    }
}

/// An output's products with `R` rows, in sixteen sums each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply_output<const R: usize>(rows: [&[u8]; R], weights: &[u8]) -> [__m512i; R] {
    let (pairs, rest) = weights.as_chunks::<{ 2 * BYTES }>();
    let done = 2 * BYTES * pairs.len();
    assert!(rows.iter().all(|row| row.len() >= weights.len()));
    // Two chains of additions, since one would wait for itself.
    let mut sums = [[_mm512_setzero_si512(); 2]; R];
    for (pair, bytes) in pairs.iter().enumerate() {
        fetch_soon(bytes, AHEAD);
        for half in 0..2 {
            let weights = raised(load_bytes(&bytes[half * BYTES..]));
            for r in 0..R {
                // SAFETY: the row is as long as the weights, of which these 64 are a part.
                let x = unsafe { rows[r].as_ptr().add((2 * pair + half) * BYTES) };
                // SAFETY: as above.
                let x = unsafe { _mm512_loadu_si512(x.cast()) };
                sums[r][half] = _mm512_dpbusd_epi32(sums[r][half], weights, x);
            }
        }
    }
    for (at, bytes) in rest.chunks(BYTES).enumerate() {
        let weights = raised(load_bytes(bytes));
        for r in 0..R {
            let x = load_bytes(&rows[r][done + at * BYTES..]);
            sums[r][at] = _mm512_dpbusd_epi32(sums[r][at], weights, x);
        }
    }
    sums.map(|[even, odd]| _mm512_add_epi32(even, odd))
}

/// Raised by 128, since the instruction multiplies unsigned with signed bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn raised(weights: __m512i) -> __m512i {
    _mm512_xor_si512(weights, _mm512_set1_epi8(i8::MIN))
}
