//! Powers of two of sixteen numbers, to the last digits of a 32-bit float.

use std::arch::x86_64::*;
use std::f64::consts::LN_2;

/// `ln(2)^k / k!` for k of 0 to 7: the first terms of the Taylor series of `2^f`. With f within half of zero the next one is 5e-9.
const TERMS: [f32; 8] = {
    let mut terms = [1.0; 8];
    let (mut k, mut term) = (1, 1.0);
    while k < 8 {
        term *= LN_2 / k as f64;
        terms[k] = term as f32;
        k += 1;
    }
    terms
};

/// Below, a power is no normal number: it counts as zero. Others have a sum of at least one beside it.
const LEAST: f32 = -126.0;

/// `2^x` for x of at most zero: `2^n * 2^f` with n whole and f within half of zero. NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn exp2(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let counts = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(LEAST));
    let n = _mm512_roundscale_ps::<NEAREST>(x);
    let f = _mm512_sub_ps(x, n);
    let mut power = _mm512_set1_ps(TERMS[7]);
    for k in (0..7).rev() {
        power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(TERMS[k]));
    }
    _mm512_maskz_scalef_ps(counts, power, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32) -> f32 {
        let mut y = [0.0f32; 16];
        // SAFETY: the array takes sixteen numbers, and the caller asked the CPU.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), exp2(_mm512_set1_ps(x))) };
        y[5]
    }

    #[test]
    fn seven_digits() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        // Two roundings of half a unit in the last place, 6e-8 each, and what the series leaves out.
        for step in 0..100_000 {
            let x = -0.00126 * step as f32;
            let expected = f64::from(x).exp2();
            assert!((f64::from(at(x)) / expected - 1.0).abs() < 1.3e-7, "{x}: {} for {expected}", at(x));
        }
        assert_eq!([at(0.0), at(-127.0), at(-1e30), at(f32::NEG_INFINITY)], [1.0, 0.0, 0.0, 0.0]);
        assert!(at(f32::NAN).is_nan());
    }
}
