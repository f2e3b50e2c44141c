//! Powers of two of sixteen numbers.

use std::arch::x86_64::*;
use std::f64::consts::LN_2;

/// `ln(2)^k / k!`: the first terms of the Taylor series of `2^f`.
const fn terms<const TERMS: usize>() -> [f32; TERMS] {
    let mut terms = [1.0; TERMS];
    let (mut k, mut term) = (1, 1.0);
    while k < TERMS {
        term *= LN_2 / k as f64;
        terms[k] = term as f32;
        k += 1;
    }
    terms
}

/// `2^x` for finite x of at most zero: `2^n * 2^f` with n whole and f within half of zero. Of five terms the
/// first that is left out is 4e-5 at most, of eight 5e-9. What is too small for a 32-bit float becomes zero.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn exp2<const TERMS: usize>(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let terms = const { terms::<TERMS>() };
    let n = _mm512_roundscale_ps::<NEAREST>(x);
    let f = _mm512_sub_ps(x, n);
    let mut power = _mm512_set1_ps(terms[TERMS - 1]);
    for k in (0..TERMS - 1).rev() {
        power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(terms[k]));
    }
    _mm512_scalef_ps(power, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avx512::LANES;
    use crate::testing::has;

    /// The relative error of a power.
    fn error<const TERMS: usize>(x: f32) -> f64 {
        let mut y = [0.0f32; LANES];
        // SAFETY: the array takes sixteen numbers, and the caller asked the CPU.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), exp2::<TERMS>(_mm512_set1_ps(x))) };
        match (f64::from(x).exp2(), f64::from(y[5])) {
            (expected, found) if expected < f64::from(f32::MIN_POSITIVE) => found - expected,
            (expected, found) => found / expected - 1.0,
        }
    }

    #[test]
    fn five_terms_are_four_digits_and_eight_are_seven() {
        if !has("avx512f", is_x86_feature_detected!("avx512f")) {
            return;
        }
        for step in 0..100_000 {
            let x = -0.00126 * step as f32;
            assert!(error::<5>(x).abs() < 6e-5, "{x}");
            // Two roundings of half a unit in the last place, 6e-8 each, and what the series leaves out.
            assert!(error::<8>(x).abs() < 1.3e-7, "{x}");
        }
        for x in [0.0, -1e30] {
            assert_eq!([error::<5>(x), error::<8>(x)], [0.0; 2], "{x}");
        }
    }
}
