//! The language model and its KV cache.
//!
//! A [`Decoder`] keeps a fixed number of slots, one per answer in work. Two flavours stand behind one trait:
//! [`fused::Fused`] updates one shared buffer in place, [`portable::Portable`] passes past and present
//! tensors around. A prompt goes in as [`Rows`]; what a family adds to embeddings (positions of its own, rows
//! for deeper layers) travels in them, and no flavour knows a family.

use arrcoc_bundle::names::tensor;
use std::sync::{Mutex, PoisonError};

use crate::library::{Graph, LibraryError};
use crate::tensor::{Tensor, TensorError, try_zeroed};
use arrcoc_bundle::manifest::DecoderSpec;

pub mod fused;
mod load;
pub mod portable;
mod rows;
mod slots;
mod states;

pub use load::{kv_bytes, load, state_bytes};
pub use rows::{Position, Positions, Rows};
pub use slots::{Mark, Slots};

/// A run of the language model failed.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// The inference library failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A tensor is not what the graph's contract says.
    #[error("graph `{graph}`: expected {expected}, found {found}; export the checkpoint again")]
    Contract {
        /// The graph's name in the bundle.
        graph: &'static str,
        /// What the contract says.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A slot has no room.
    #[error("KV slot {slot} holds {length} of {capacity} positions and cannot take {adding} more")]
    Full {
        /// The slot.
        slot: usize,
        /// Positions that it holds.
        length: usize,
        /// Positions that it was to take.
        adding: usize,
        /// Positions per slot.
        capacity: usize,
    },
    /// A recurrent layer remembers nothing of a place.
    #[error(
        "slot {slot} stands at {length} tokens and cannot go back to {mark}: this model's recurrent layers remember only where the \
         prompt ended"
    )]
    Forgotten {
        /// The slot.
        slot: usize,
        /// Tokens that it holds.
        length: usize,
        /// Tokens that it was to go back to.
        mark: usize,
    },
}

impl From<TensorError> for DecoderError {
    fn from(error: TensorError) -> Self {
        Self::Contract { graph: "decoder", expected: "another tensor".into(), found: error.to_string() }
    }
}

/// One row of logits, in the library's own memory.
#[derive(Debug, Clone)]
pub struct Logits {
    /// `[rows, 1, V]`, checked on construction to be f32.
    tensor: Tensor,
    row: usize,
}

impl Logits {
    /// Takes row `row` of `[rows, 1, V]`.
    fn new(tensor: &Tensor, row: usize, rows: usize, vocab_size: usize) -> Result<Self, DecoderError> {
        let expected = [rows, 1, vocab_size];
        tensor.as_slice::<f32>()?;
        if tensor.shape() != expected {
            return Err(DecoderError::Contract {
                graph: "decoder",
                expected: format!("`logits` {expected:?}"),
                found: format!("{:?}", tensor.shape()),
            });
        }
        Ok(Self { tensor: tensor.clone(), row })
    }

    /// The logits, one per token of the vocabulary.
    pub fn values(&self) -> &[f32] {
        let all = self.tensor.as_slice::<f32>().unwrap_or(&[]);
        let vocab_size = self.tensor.shape().last().copied().unwrap_or(0);
        &all[self.row * vocab_size..][..vocab_size]
    }
}

/// A language model with KV slots.
pub trait Decoder: Send {
    /// The slots; their marks move with every successful run, and stay where they were when one fails.
    fn slots(&self) -> &Slots;

    /// See [`Decoder::slots`].
    fn slots_mut(&mut self) -> &mut Slots;

    /// Feeds rows to a slot, after what it holds; returns the logits of the last one. Feeding a prompt in
    /// several chunks gives what feeding it whole gives.
    ///
    /// # Errors
    /// [`DecoderError`]; the slot then holds what it held before.
    fn prefill(&mut self, slot: usize, rows: &Rows) -> Result<Logits, DecoderError>;

    /// Feeds one token to each of `slots`: row `i` of `[1, slots.len(), H]` to `slots[i]`. Returns one row of
    /// logits per slot, in the same order.
    ///
    /// # Errors
    /// [`DecoderError`]; the slots then hold what they held before.
    fn step(&mut self, slots: &[usize], embeds: &Tensor) -> Result<Vec<Logits>, DecoderError>;

    /// Takes a free slot and fills it with the beginning of another one, up to `mark`. `None` when no slot is
    /// free. A decoder with recurrent layers can only do so where the other slot stands, where its last
    /// prefill ended, or at the start.
    ///
    /// # Errors
    /// [`DecoderError`] when the copy fails; no slot is taken then.
    fn fork(&mut self, from: usize, mark: Mark) -> Result<Option<usize>, DecoderError>;

    /// Forgets what a slot holds after `mark`; see [`Decoder::fork`] for recurrent layers.
    ///
    /// # Errors
    /// [`DecoderError`]; the slot then holds what it held before.
    fn rewind(&mut self, slot: usize, mark: Mark) -> Result<(), DecoderError>;

    /// Gives a slot back.
    fn free(&mut self, slot: usize);
}

/// The token embeddings, shared by the threads that embed questions and those that embed prompts.
pub struct Embedder {
    graph: Mutex<Box<dyn Graph>>,
    hidden_size: usize,
}

impl Embedder {
    /// Wraps the `embedding` graph.
    pub fn new(graph: Box<dyn Graph>, hidden_size: usize) -> Self {
        Self { graph: Mutex::new(graph), hidden_size }
    }

    /// Embeds `S` token ids, at least one, as `[1, S, H]`.
    ///
    /// # Errors
    /// [`DecoderError`] when the graph fails; an id outside the vocabulary is such a failure.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor, DecoderError> {
        let shape = [1, ids.len()];
        let ids = Tensor::from_vec(&shape, ids.iter().map(|id| i64::from(*id)).collect())?;
        // The lock guards no invariant of ours: a graph whose run panicked is no worse than one whose run
        // failed.
        let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = graph.run(&[(tensor::INPUT_IDS, ids)])?;
        drop(graph);
        let embeds = output(outputs, "embedding", tensor::INPUTS_EMBEDS)?;
        let expected = [1, shape[1], self.hidden_size];
        if embeds.shape() != expected {
            return Err(DecoderError::Contract {
                graph: "embedding",
                expected: format!("`inputs_embeds` {expected:?}"),
                found: format!("{:?}", embeds.shape()),
            });
        }
        embeds.as_slice::<f32>()?;
        Ok(embeds)
    }
}

/// Takes one output out of a graph's outputs.
fn output(outputs: Vec<(String, Tensor)>, graph: &'static str, name: &str) -> Result<Tensor, DecoderError> {
    let found = outputs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    outputs.into_iter().find(|(candidate, _)| candidate == name).map(|(_, tensor)| tensor).ok_or_else(|| {
        DecoderError::Contract {
            graph,
            expected: format!("an output `{name}`"),
            found: format!("only {found}"),
        }
    })
}

/// The inputs of a run that both flavours have: embeddings `[batch, seq, H]`, positions `[3, batch, seq]`
/// (time, row and column), and, where the decoder has such levels, rows for its first layers
/// `[levels, batch, seq, H]`.
fn shared_inputs(
    spec: &DecoderSpec,
    embeds: Tensor,
    positions: &[Position],
    deep: Option<Tensor>,
) -> Result<Vec<(&'static str, Tensor)>, DecoderError> {
    let [batch, seq, _] = *embeds.shape() else { return Err(not_rows(spec, &embeds)) };
    let planes = (0..3).flat_map(|plane| positions.iter().map(move |position| position[plane] as i64));
    let planes = Tensor::from_vec(&[3, batch, seq], planes.collect())?;
    let mut inputs = vec![(tensor::INPUTS_EMBEDS, embeds), (tensor::POSITION_IDS, planes)];
    let shape = [spec.deep_levels, batch, seq, spec.hidden_size];
    match deep {
        Some(deep) if deep.shape() != shape => {
            return Err(DecoderError::Contract {
                graph: "decoder",
                expected: format!("`deep_embeds` {shape:?}"),
                found: format!("{:?}", deep.shape()),
            });
        }
        Some(deep) => inputs.push((tensor::DEEP_EMBEDS, deep)),
        None if spec.deep_levels > 0 => {
            let zeros = try_zeroed::<f32>(shape.iter().product())?;
            inputs.push((tensor::DEEP_EMBEDS, Tensor::from_vec(&shape, zeros)?));
        }
        None => {}
    }
    Ok(inputs)
}

/// Checks rows against `[1, S, H]`; returns `S`.
fn sequence_length(rows: &Rows, spec: &DecoderSpec) -> Result<usize, DecoderError> {
    match *rows.embeds.shape() {
        [1, length, width] if length > 0 && width == spec.hidden_size => Ok(length),
        _ => Err(not_rows(spec, &rows.embeds)),
    }
}

/// Most tokens that the graph takes at once.
fn longest_run(spec: &DecoderSpec) -> usize {
    spec.recurrent.as_ref().map_or(usize::MAX, |recurrent| recurrent.longest_run)
}

fn not_rows(spec: &DecoderSpec, found: &Tensor) -> DecoderError {
    DecoderError::Contract {
        graph: "decoder",
        expected: format!("`inputs_embeds` [1, seq > 0, {}]", spec.hidden_size),
        found: format!("{:?}", found.shape()),
    }
}

#[cfg(test)]
mod tests;
