//! The exponential of sixteen numbers.

use std::arch::x86_64::*;

/// `e^x` for x of at most zero, to seven digits: `2^n * 2^f` with n whole and f within half of zero, the latter by the first terms of its
/// Taylor series. What would be smaller than the smallest normal number becomes zero.
#[target_feature(enable = "avx512f")]
pub(super) fn exp(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let y = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm512_roundscale_ps::<NEAREST>(y);
    let f = _mm512_sub_ps(y, n);
    // ln(2)^k / k!, the highest power first.
    let ln_2 = std::f64::consts::LN_2;
    let mut factor = 1.0;
    let mut terms = [1.0f64; 7];
    for (k, term) in terms.iter_mut().enumerate().skip(1) {
        factor *= ln_2 / k as f64;
        *term = factor;
    }
    let mut power = _mm512_set1_ps(terms[6] as f32);
    for term in terms[..6].iter().rev() {
        power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(*term as f32));
    }
    _mm512_scalef_ps(power, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_digits() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        for step in 0..10_000 {
            let x = -0.008 * step as f32;
            let mut y = [0.0f32; 16];
            // SAFETY: the array takes sixteen numbers, and the CPU was asked.
            unsafe { _mm512_storeu_ps(y.as_mut_ptr(), exp(_mm512_set1_ps(x))) };
            let expected = f64::from(x).exp();
            // x * log2(e) is rounded once, which costs x * 2^-24 of the result.
            let tolerance = expected * (3e-7 + f64::from(x.abs()) * 1.2e-7);
            assert!((f64::from(y[3]) - expected).abs() <= tolerance, "{x}: {} for {expected}", y[3]);
        }
        let mut y = [1.0f32; 16];
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), exp(_mm512_set1_ps(f32::NEG_INFINITY.max(-1e30)))) };
        assert_eq!(y, [0.0; 16]);
    }
}
