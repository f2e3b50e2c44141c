//! What a decoder is fed: embeddings, and what else a family says of them.

use super::DecoderError;
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

    /// The same in runs of at most `longest` tokens.
    ///
    /// # Errors
    /// [`DecoderError::Contract`] where the tensors are of another form.
    pub(super) fn runs(&self, longest: usize) -> Result<Vec<Self>, DecoderError> {
        let tokens = self.embeds.shape().get(1).copied().unwrap_or(0);
        if tokens <= longest {
            return Ok(vec![self.clone()]);
        }
        let starts = (0..tokens).step_by(longest.max(1));
        starts.map(|start| self.run(start, tokens.min(start + longest))).collect()
    }

    /// Tokens `start..end`.
    fn run(&self, start: usize, end: usize) -> Result<Self, DecoderError> {
        let positions = self.positions.as_ref().map(|positions| Positions {
            each: positions.each.get(start..end).unwrap_or_default().to_vec(),
            next: positions.each.get(end).map_or(positions.next, |each| each[0]),
        });
        let deep = self.deep.as_ref().map(|deep| tokens_of(deep, start, end)).transpose()?;
        Ok(Self { embeds: tokens_of(&self.embeds, start, end)?, positions, deep })
    }

    /// The positions of `seq` tokens in a slot that goes on at `start`.
    pub(super) fn positions_from(&self, start: usize, seq: usize) -> Positions {
        let counted =
            || Positions { each: (start..start + seq).map(|at| [at; 3]).collect(), next: start + seq };
        self.positions.clone().unwrap_or_else(counted)
    }
}

/// Tokens `start..end` of `[..., tokens, width]`.
fn tokens_of(tensor: &Tensor, start: usize, end: usize) -> Result<Tensor, DecoderError> {
    let mut shape = tensor.shape().to_vec();
    let [.., tokens, width] = shape[..] else { return Ok(tensor.clone()) };
    let axis = shape.len() - 2;
    shape[axis] = end - start;
    let numbers = tensor.as_slice::<f32>()?.chunks_exact((tokens * width).max(1));
    let taken: Vec<f32> =
        numbers.flat_map(|rows| rows.get(start * width..end * width).unwrap_or_default()).copied().collect();
    Ok(Tensor::from_vec(&shape, taken)?)
}
