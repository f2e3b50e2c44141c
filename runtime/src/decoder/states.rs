//! What recurrent layers remember of each slot: the second kind of a slot's memory, beside keys and values.
//!
//! Keys and values lie by position, so a slot goes back by forgetting what comes later. A recurrent layer has
//! one memory of fixed size that every token changes. It goes back only where a copy was kept: to the
//! beginning, and to the end of the last prefill, from where the answers of a prompt begin. A copy costs
//! nothing until the slot goes on, since a tensor is never written again.
//!
//! A decoder without such layers has no tensors here, and nothing is kept.

use arrcoc_bundle::manifest::DecoderSpec;
use arrcoc_bundle::names::cache;

use super::{DecoderError, Mark};
use crate::library::Kept;
use crate::tensor::{Tensor, TensorError, try_zeroed};

/// The tensors of one slot, one per name: `[1, ...]` each.
pub(super) type State = Vec<Kept>;

/// The memory of all slots.
pub(super) struct States {
    names: Vec<(String, String)>,
    /// Of a slot without tokens.
    zeros: State,
    slots: Vec<Held>,
}

#[derive(Clone, Default)]
struct Held {
    now: State,
    /// At the end of the last prefill.
    prompt: Option<(Mark, State)>,
}

impl States {
    /// Nothing is remembered yet.
    pub(super) fn new(spec: &DecoderSpec, slots: usize) -> Result<Self, TensorError> {
        let (mut names, mut zeros) = (Vec::new(), Vec::new());
        if let Some(recurrent) = &spec.recurrent {
            let of_layer = [nothing(&recurrent.window_shape(1))?, nothing(&recurrent.matrix_shape(1))?];
            for layer in &recurrent.layers {
                for (part, nothing) in cache::STATE_PARTS.iter().zip(&of_layer) {
                    names.push((cache::past_state(*layer, part), cache::present_state(*layer, part)));
                    zeros.push(nothing.clone());
                }
            }
        }
        Ok(Self { names, zeros, slots: vec![Held::default(); slots] })
    }

    /// Names of an input and of the output that follows it.
    pub(super) fn names(&self) -> &[(String, String)] {
        &self.names
    }

    /// What a slot that stands at `mark` remembers.
    pub(super) fn now(&self, slot: usize, mark: Mark) -> State {
        if mark.length == 0 { self.zeros.clone() } else { self.slots[slot].now.clone() }
    }

    /// What a slot without tokens remembers.
    pub(super) fn zeros(&self) -> &State {
        &self.zeros
    }

    /// What a slot that stands at `current` remembered at an earlier `mark`.
    pub(super) fn at(&self, slot: usize, current: Mark, mark: Mark) -> Result<State, DecoderError> {
        let kept = self.slots[slot].prompt.as_ref().filter(|(kept, _)| kept.length == mark.length);
        match kept {
            _ if self.names.is_empty() => Ok(Vec::new()),
            _ if mark.length == 0 || mark.length == current.length => Ok(self.now(slot, mark)),
            Some((_, state)) => Ok(state.clone()),
            None => Err(DecoderError::Forgotten { slot, length: current.length, mark: mark.length }),
        }
    }

    /// A run has changed what a slot remembers.
    pub(super) fn set(&mut self, slot: usize, state: State) {
        self.slots[slot].now = state;
    }

    /// A prompt ends at `mark`: the slot may come back here.
    pub(super) fn keep(&mut self, slot: usize, mark: Mark) {
        if !self.names.is_empty() {
            self.slots[slot].prompt = Some((mark, self.slots[slot].now.clone()));
        }
    }

    /// Nothing of a slot is needed any more.
    pub(super) fn free(&mut self, slot: usize) {
        self.slots[slot] = Held::default();
    }
}

fn nothing(shape: &[usize]) -> Result<Kept, TensorError> {
    let zeros = try_zeroed::<f32>(shape.iter().product())?;
    Tensor::from_vec(shape, zeros).map(Kept::host)
}
