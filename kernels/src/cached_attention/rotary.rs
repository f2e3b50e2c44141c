//! Rotary positions.

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
    pub(super) fn rotate(&self, token: usize, x: &[f32], scale: f32, to: &mut [f32]) {
        let half = x.len() / 2;
        let start = self.positions[token] * half;
        let (cosines, sines) = (&self.cosines[start..][..half], &self.sines[start..][..half]);
        let ((first, second), (to_first, to_second)) = (x.split_at(half), to.split_at_mut(half));
        for i in 0..half {
            to_first[i] = (first[i] * cosines[i] - second[i] * sines[i]) * scale;
            to_second[i] = (second[i] * cosines[i] + first[i] * sines[i]) * scale;
        }
    }
}
