//! What a decoder is fed: embeddings, and what else a family says of them.

use crate::tensor::Tensor;

/// The rotary position of a token: time, row and column. A text's token has the same number in all three.
pub type Position = [usize; 3];

/// S tokens of one slot.
#[derive(Debug, Clone)]
pub struct Rows {
    /// `[1, S, H]`.
    pub embeds: Tensor,
    /// Where each token stands; `None` counts on from where the slot is.
    pub positions: Option<Positions>,
    /// What is added behind the decoder's first layers, `[levels, 1, S, H]` (DeepStack); `None` adds nothing.
    pub deep: Option<Tensor>,
}

/// Positions that are not just counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    /// One per token.
    pub each: Vec<Position>,
    /// Where the token behind them stands, if it is a text's.
    pub next: usize,
}

impl Rows {
    /// Rows `[1, S, H]` that stand one behind the other, as text does.
    pub fn plain(embeds: Tensor) -> Self {
        Self { embeds, positions: None, deep: None }
    }

    /// The positions of `seq` tokens in a slot that goes on at `start`.
    pub(super) fn positions_from(&self, start: usize, seq: usize) -> Positions {
        let counted =
            || Positions { each: (start..start + seq).map(|at| [at; 3]).collect(), next: start + seq };
        self.positions.clone().unwrap_or_else(counted)
    }
}
