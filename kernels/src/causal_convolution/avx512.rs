//! With AVX-512.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use super::Kernel;
use crate::avx512::exp::exp2;
use crate::avx512::{LANES, load_floats, store_floats};
use crate::table::Row;

pub(super) const ROW: Row<Kernel> =
    Row { instructions: "avx512f", here: || is_x86_feature_detected!("avx512f"), kernel: Kernel { run } };

/// Terms of a power of two: all digits of a 32-bit float.
const TERMS: usize = 8;

/// `2^x` is zero here and below.
const NOTHING: f32 = -200.0;

#[target_feature(enable = "avx512f")]
fn run(rows: &[&[f32]], weights: &[f32], out: &mut [f32]) {
    let channels = out.len();
    let [before @ .., own] = rows else { return };
    let (taps, newest) = weights.split_at(before.len() * channels);
    for (at, out) in out.chunks_mut(LANES).enumerate() {
        let (first, count) = (at * LANES, out.len());
        let vector = |x: &[f32], row: usize| load_floats(&x[row * channels + first..][..count]);
        let mut sum = _mm512_mul_ps(vector(own, 0), vector(newest, 0));
        for (row, before) in before.iter().enumerate() {
            sum = _mm512_fmadd_ps(vector(before, 0), vector(taps, row), sum);
        }
        store_floats(silu(sum), out);
    }
}

/// x / (1 + e^-x), without a power that overflows.
#[inline]
#[target_feature(enable = "avx512f")]
fn silu(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    let magnitude = _mm512_abs_ps(x);
    // The second operand is what a comparison with no number gives.
    let power = _mm512_mul_ps(magnitude, _mm512_set1_ps(-LOG2_E));
    let power = exp2::<TERMS>(_mm512_max_ps(_mm512_set1_ps(NOTHING), power));
    let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
    let numerator = _mm512_mask_blend_ps(negative, x, _mm512_mul_ps(x, power));
    _mm512_div_ps(numerator, _mm512_add_ps(one, power))
}
