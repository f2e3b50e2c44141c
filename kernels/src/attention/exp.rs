//! Powers of two of sixteen numbers.

use std::arch::x86_64::*;
use std::f32::consts::LN_2;

/// `ln(2)^k / k!` for k of 0 to 4: the first terms of the Taylor series of `2^f`.
const TERMS: [f32; 5] =
    [1.0, LN_2, LN_2 * LN_2 / 2.0, LN_2 * LN_2 * LN_2 / 6.0, LN_2 * LN_2 * LN_2 * LN_2 / 24.0];

/// `2^x` for x of at most zero, to four digits, which is more than the 16-bit floats keep that it becomes: `2^n * 2^f` with n whole and f
/// within half of zero. What is too small for a 32-bit float becomes zero.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn exp2(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let n = _mm512_roundscale_ps::<NEAREST>(x);
    let f = _mm512_sub_ps(x, n);
    let [one, a, b, c, d] = TERMS.map(|term| _mm512_set1_ps(term));
    let power = _mm512_fmadd_ps(d, f, c);
    let power = _mm512_fmadd_ps(power, f, b);
    let power = _mm512_fmadd_ps(power, f, a);
    _mm512_scalef_ps(_mm512_fmadd_ps(power, f, one), n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_digits() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        let at = |x: f32| {
            let mut y = [0.0f32; 16];
            // SAFETY: the array takes sixteen numbers, and the CPU was asked.
            unsafe { _mm512_storeu_ps(y.as_mut_ptr(), exp2(_mm512_set1_ps(x))) };
            y
        };
        for step in 0..10_000 {
            let x = -0.0121 * step as f32;
            let expected = f64::from(x).exp2();
            assert!((f64::from(at(x)[3]) / expected - 1.0).abs() < 6e-5, "{x}: {} for {expected}", at(x)[3]);
        }
        assert_eq!((at(0.0), at(-1e30)), ([1.0; 16], [0.0; 16]));
    }
}
