//! The language model and its KV cache.
//!
//! A [`Decoder`] keeps a fixed number of slots, one per answer in work. Two flavours (design 4.3) stand behind one trait:
//! [`fused::Fused`] updates one shared buffer in place, [`portable::Portable`] passes past and present tensors around.

use std::sync::{Mutex, PoisonError};

use crate::error::LoadError;
use crate::library::{Graph, Library, LibraryError};
use crate::tensor::{Tensor, TensorError};
use arrcoc_bundle::{Bundle, Role, Target};

pub mod fused;
pub mod portable;

/// A run of the language model failed.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// The engine failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A tensor is not what the graph contract (design 4.1) says.
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
}

impl From<TensorError> for DecoderError {
    fn from(error: TensorError) -> Self {
        Self::Contract { graph: "decoder", expected: "another tensor".into(), found: error.to_string() }
    }
}

/// How far a slot has come. Position and length are two counters, because visual tokens may share positions (M-RoPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Keys and values held, tokens.
    pub length: usize,
    /// Rotary position of the next token.
    pub position: usize,
}

impl Mark {
    fn advance(&mut self, tokens: usize) {
        self.length += tokens;
        self.position += tokens;
    }
}

/// Which slots are taken, and how far each has come.
#[derive(Debug)]
pub struct Slots {
    marks: Vec<Option<Mark>>,
    capacity: usize,
}

impl Slots {
    /// `slots` free slots of `capacity` positions each.
    pub fn new(slots: usize, capacity: usize) -> Self {
        Self { marks: vec![None; slots], capacity }
    }

    /// Takes the lowest free slot, so that batches stay short.
    pub fn allocate(&mut self) -> Option<usize> {
        let slot = self.marks.iter().position(Option::is_none)?;
        self.marks[slot] = Some(Mark::default());
        Some(slot)
    }

    /// Gives a slot back.
    pub fn free(&mut self, slot: usize) {
        self.marks[slot] = None;
    }

    /// How far a slot has come; the start for a free one.
    pub fn mark(&self, slot: usize) -> Mark {
        self.marks[slot].unwrap_or_default()
    }

    /// Slots in all.
    pub fn total(&self) -> usize {
        self.marks.len()
    }

    /// Slots taken.
    pub fn used(&self) -> usize {
        self.marks.iter().flatten().count()
    }

    /// Share of all positions that hold keys and values, 0..=1.
    pub fn usage(&self) -> f64 {
        let held: usize = self.marks.iter().flatten().map(|mark| mark.length).sum();
        held as f64 / (self.total() * self.capacity).max(1) as f64
    }

    /// Checks that a slot can take `adding` more positions. One position per slot stays spare: a batched step may
    /// write a dummy there (see [`fused`]), and the last token of an answer is never fed back, so an answer can still
    /// fill the context.
    fn check_room(&self, slot: usize, adding: usize) -> Result<Mark, DecoderError> {
        let mark = self.mark(slot);
        if mark.length + adding >= self.capacity {
            return Err(DecoderError::Full { slot, length: mark.length, adding, capacity: self.capacity });
        }
        Ok(mark)
    }

    fn advance(&mut self, slot: usize, tokens: usize) {
        if let Some(mark) = &mut self.marks[slot] {
            mark.advance(tokens);
        }
    }

    fn set(&mut self, slot: usize, mark: Mark) {
        self.marks[slot] = Some(mark);
    }
}

/// One row of logits, in the engine's own memory.
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

    /// Feeds `[1, S, H]` to a slot, after what it holds; returns the logits of the last position. Feeding a prompt in
    /// several chunks gives what feeding it whole gives.
    ///
    /// # Errors
    /// [`DecoderError`]; the slot then holds what it held before.
    fn prefill(&mut self, slot: usize, embeds: &Tensor) -> Result<Logits, DecoderError>;

    /// Feeds one token to each of `slots`: row `i` of `[1, slots.len(), H]` to `slots[i]`. Returns one row of logits
    /// per slot, in the same order.
    ///
    /// # Errors
    /// [`DecoderError`]; the slots then hold what they held before.
    fn step(&mut self, slots: &[usize], embeds: &Tensor) -> Result<Vec<Logits>, DecoderError>;

    /// Takes a free slot and fills it with the beginning of another one, up to `mark`. `None` when no slot is free.
    ///
    /// # Errors
    /// [`DecoderError`] when the copy fails; no slot is taken then.
    fn fork(&mut self, from: usize, mark: Mark) -> Result<Option<usize>, DecoderError>;

    /// Forgets what a slot holds after `mark`.
    ///
    /// # Errors
    /// [`DecoderError`]; the slot then holds what it held before.
    fn rewind(&mut self, slot: usize, mark: Mark) -> Result<(), DecoderError>;

    /// Gives a slot back.
    fn free(&mut self, slot: usize);
}

/// Loads the decoder of a bundle, in the flavour of its target.
///
/// # Errors
/// [`LoadError`] when the graph does not load.
pub fn load(
    bundle: &Bundle,
    runtime: &dyn Library,
    slots: usize,
    capacity: usize,
) -> Result<Box<dyn Decoder>, LoadError> {
    let graph = runtime.load_from(bundle, bundle.manifest().only(Role::Decoder))?;
    let spec = &bundle.manifest().decoder;
    Ok(match bundle.manifest().target {
        Target::Cpu => {
            let bytes = crate::model::load::kv_bytes(spec, slots, capacity);
            let fused = fused::Fused::new(graph, spec, slots, capacity);
            Box::new(fused.map_err(|_| LoadError::KvCache { bytes })?)
        }
        Target::Portable => Box::new(portable::Portable::new(graph, spec, slots, capacity)),
    })
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
    /// [`DecoderError`] when the engine fails; an id outside the vocabulary is such a failure.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor, DecoderError> {
        let shape = [1, ids.len()];
        let ids = Tensor::from_vec(&shape, ids.iter().map(|id| i64::from(*id)).collect())?;
        // The lock guards no invariant of ours: a graph whose run panicked is no worse than one whose run failed.
        let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = graph.run(&[("input_ids", ids)])?;
        drop(graph);
        let embeds = output(outputs, "embedding", "inputs_embeds")?;
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

/// Places of `seq` tokens of each row, `[3, rows, seq]`: the axes are time, row and column, and text has one
/// place in all three.
fn position_ids(marks: impl Iterator<Item = Mark>, seq: usize) -> Vec<i64> {
    let places: Vec<i64> =
        marks.flat_map(|mark| (mark.position..mark.position + seq).map(|place| place as i64)).collect();
    places.repeat(3)
}

/// Checks embeddings against `[1, S, H]`; returns `S`.
fn sequence_length(embeds: &Tensor, hidden_size: usize) -> Result<usize, DecoderError> {
    match *embeds.shape() {
        [1, length, width] if length > 0 && width == hidden_size => Ok(length),
        ref other => Err(DecoderError::Contract {
            graph: "decoder",
            expected: format!("`inputs_embeds` [1, seq > 0, {hidden_size}]"),
            found: format!("{other:?}"),
        }),
    }
}

#[cfg(test)]
mod tests;
