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

    /// Cosines and sines of a token's position, \[width / 2\].
    pub(super) fn angles(&self, token: usize, half: usize) -> [&[f32]; 2] {
        [self.cosines, self.sines].map(|table| &table[self.positions[token] * half..][..half])
    }
}
