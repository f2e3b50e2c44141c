//! How sixteen floats become bytes.

use std::arch::x86_64::*;

/// Largest magnitude of a quantized activation.
const RANGE: f32 = 127.0;
/// Keeps a scale of nothing but zeros (padding) above zero; no activation that matters is that small.
const SMALLEST: f32 = 1e-20;

/// The largest magnitude of many numbers. It is looked for among their bits: there infinity is larger than
/// every number, and what is no number is larger still, where an ordinary maximum would lose it.
pub(crate) struct Largest(__m512i);

impl Largest {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn of_none() -> Self {
        Self(_mm512_setzero_si512())
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn and(self, x: __m512) -> Self {
        Self(_mm512_max_epu32(self.0, _mm512_castps_si512(_mm512_abs_ps(x))))
    }

    /// What brings the numbers to bytes; `None` where one of them is not finite.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn step(self) -> Option<Step> {
        let largest = f32::from_bits(_mm512_reduce_max_epu32(self.0));
        largest.is_finite().then(|| {
            let largest = largest.max(SMALLEST);
            Step { to: RANGE / largest, back: largest / RANGE }
        })
    }
}

/// Factors between numbers and bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    to: f32,
    /// What a byte stands for.
    pub(crate) back: f32,
}

impl Step {
    /// Sixteen numbers to bytes, half to even, and the same as words.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn round(self, x: __m512) -> (__m128i, __m512i) {
        let words = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(self.to)));
        (_mm512_cvtsepi32_epi8(words), words)
    }
}
