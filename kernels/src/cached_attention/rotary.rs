//! Rotary positions.

use std::arch::x86_64::*;

use crate::vectors::{LANES, load_floats, store_floats};

/// Angles of all positions, and the positions of the new tokens.
#[derive(Debug, Clone, Copy)]
pub struct Rotary<'a> {
    /// \[positions, width / 2\].
    pub cosines: &'a [f32],
    /// \[positions, width / 2\].
    pub sines: &'a [f32],
    /// Rows of the tables, \[batch, tokens\].
    pub positions: &'a [usize],
}

impl Rotary<'_> {
    /// # Panics
    /// When there are not as many positions as tokens, or the tables do not have them.
    pub(super) fn assert_fits(&self, tokens: usize, width: usize) {
        let Self { cosines, sines, positions } = self;
        assert_eq!(cosines.len(), sines.len(), "expected as many sines as cosines");
        assert_eq!(positions.len(), tokens, "expected a position of every token");
        let rows = cosines.len() / (width / 2);
        let largest = positions.iter().max();
        assert!(
            largest.is_none_or(|largest| *largest < rows),
            "expected positions below {rows}, found {largest:?}"
        );
    }

    /// Rotates `x` \[width\] to the position of a token, and multiplies it with `scale`: number i and number i + width / 2 are a pair.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn rotate(&self, token: usize, x: &[f32], scale: f32, to: &mut [f32]) {
        let half = x.len() / 2;
        let start = self.positions[token] * half;
        let (cosines, sines) = (&self.cosines[start..][..half], &self.sines[start..][..half]);
        let ((first, second), (to_first, to_second)) = (x.split_at(half), to.split_at_mut(half));
        let scale = _mm512_set1_ps(scale);
        for at in (0..half).step_by(LANES) {
            let [a, b, cosine, sine] = [first, second, cosines, sines].map(|x| load_floats(&x[at..]));
            let turned_a = _mm512_fmsub_ps(a, cosine, _mm512_mul_ps(b, sine));
            let turned_b = _mm512_fmadd_ps(b, cosine, _mm512_mul_ps(a, sine));
            store_floats(_mm512_mul_ps(turned_a, scale), &mut to_first[at..]);
            store_floats(_mm512_mul_ps(turned_b, scale), &mut to_second[at..]);
        }
    }
}
