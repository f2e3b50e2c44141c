//! What a decoder is fed: embeddings, and what else a family says of them.

use std::ops::Range;

use crate::tensor::{Tensor, TensorError};

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

    /// How many tokens they are.
    pub fn tokens(&self) -> usize {
        self.embeds.shape().get(1).copied().unwrap_or(0)
    }

    /// The same in runs of at most `longest` tokens.
    ///
    /// # Errors
    /// [`TensorError`] where a tensor is not of 32-bit floats.
    pub(super) fn runs(&self, longest: usize) -> Result<Vec<Self>, TensorError> {
        let tokens = self.tokens();
        if tokens <= longest {
            return Ok(vec![self.clone()]);
        }
        let starts = (0..tokens).step_by(longest.max(1));
        starts.map(|start| self.part(start..tokens.min(start + longest))).collect()
    }

    /// Some of the tokens: embeddings, positions and deeper rows alike.
    ///
    /// # Errors
    /// [`TensorError`] where a tensor is not of 32-bit floats.
    pub fn part(&self, range: Range<usize>) -> Result<Self, TensorError> {
        let positions = self.positions.as_ref().map(|Positions { each, next }| Positions {
            each: each.get(range.clone()).unwrap_or_default().to_vec(),
            // Where the rows go on, if they do.
            next: each.get(range.end).map_or(*next, |[time, ..]| *time),
        });
        let deep = self.deep.as_ref().map(|deep| tokens_of(deep, &range)).transpose()?;
        Ok(Self { embeds: tokens_of(&self.embeds, &range)?, positions, deep })
    }

    /// The positions of `seq` tokens in a slot that goes on at `start`.
    pub(super) fn positions_from(&self, start: usize, seq: usize) -> Positions {
        let counted =
            || Positions { each: (start..start + seq).map(|at| [at; 3]).collect(), next: start + seq };
        self.positions.clone().unwrap_or_else(counted)
    }
}

/// Some tokens of `[..., tokens, width]`.
fn tokens_of(tensor: &Tensor, range: &Range<usize>) -> Result<Tensor, TensorError> {
    let mut shape = tensor.shape().to_vec();
    let [.., tokens, width] = shape[..] else { return Ok(tensor.clone()) };
    let axis = shape.len() - 2;
    shape[axis] = range.len();
    let numbers = tensor.as_slice::<f32>()?.chunks_exact((tokens * width).max(1));
    let part = range.start * width..range.end * width;
    let taken = numbers.flat_map(|rows| rows.get(part.clone()).unwrap_or_default()).copied().collect();
    Tensor::from_vec(&shape, taken)
}
