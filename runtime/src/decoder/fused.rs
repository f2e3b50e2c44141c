//! The fused flavour: attention over one shared KV buffer per layer, which the operator updates in place.
//!
//! A buffer is `[slots, kv_heads, capacity, head_dim]`, so a slot is a contiguous block. It lies where the
//! library computes ([`Blocks`]) and never leaves: runs bind ranges of slots. A prefill chunk
//! binds the block of its slot as a batch of one; a decode step binds the blocks of the slots from 0 to the
//! highest one that takes part. Slots in between that do not take part ("holes") ride along: they are given a
//! zero embedding and their own length, so the operator writes one position after what they hold, where the
//! next real token will overwrite it. That position always exists, because [`super::Slots`] keeps one spare.
//!
//! What recurrent layers remember is no buffer: every token changes all of it, and a hole must not change. It
//! goes in and out as tensors ([`super::states`]), stacked for a step of several slots, and what comes out
//! for holes is dropped.

use crate::library::{Blocks, Graph, InPlace, Kept, LibraryError};
use crate::tensor::{ElementType, Tensor, try_with_capacity, try_zeroed};
use arrcoc_bundle::manifest::DecoderSpec;
use arrcoc_bundle::names::{cache, tensor};

use super::states::{State, States};
use super::{
    Decoder, DecoderError, Logits, Mark, Position, Positions, Rows, Slots, longest_run, not_rows, output,
    sequence_length, shared_inputs,
};

/// A decoder whose graph updates its KV cache in place.
pub struct Fused {
    /// Keys and values of every layer, `[slots, kv_heads, capacity, head_dim]` each. Before the graph, so
    /// that they go before the library's session does, whose memory they may be.
    buffers: Vec<Buffer>,
    graph: Box<dyn Graph>,
    spec: DecoderSpec,
    slots: Slots,
    capacity: usize,
    states: States,
}

struct Buffer {
    input: String,
    output: String,
    blocks: Blocks,
}

/// What one run of the graph gets besides the cache.
struct Feed {
    /// `[batch, seq, H]`.
    embeds: Tensor,
    /// Where each slot stands before the run.
    marks: Vec<Mark>,
    /// Tokens per slot.
    seq: usize,
    /// Of every token, slot by slot.
    positions: Vec<Position>,
    /// `[levels, batch, seq, H]`.
    deep: Option<Tensor>,
    /// What recurrent layers remember of each slot.
    states: Vec<State>,
}

/// What a run of the graph makes besides the cache.
struct Made {
    /// `[batch, 1, V]`.
    logits: Tensor,
    /// What recurrent layers remember of each slot.
    states: Vec<State>,
}

impl Fused {
    /// Wraps a loaded `decoder` graph; allocates the cache.
    ///
    /// # Errors
    /// [`LibraryError`] where there is not as much memory.
    pub fn new(
        graph: Box<dyn Graph>,
        spec: &DecoderSpec,
        slots: usize,
        capacity: usize,
    ) -> Result<Self, LibraryError> {
        let (element, block) =
            (ElementType::from(spec.cache_element), [spec.kv_heads, capacity, spec.head_dim]);
        let buffer = |(layer, part)| {
            let (input, output) = (cache::past(layer, part), cache::present(layer, part));
            Ok(Buffer { input, output, blocks: graph.blocks(element, slots, &block)? })
        };
        let parts = spec.attention_layers().flat_map(|layer| cache::PARTS.map(|part| (layer, part)));
        let buffers = parts.map(buffer).collect::<Result<_, LibraryError>>()?;
        let states = States::new(spec, slots)?;
        Ok(Self { graph, spec: spec.clone(), slots: Slots::new(slots, capacity), capacity, buffers, states })
    }

    /// Runs the graph over the slots from `first` on, one per row.
    fn run(&mut self, first: usize, feed: &Feed) -> Result<Made, DecoderError> {
        let batch = feed.marks.len();
        let shape = [batch, self.spec.kv_heads, self.capacity, self.spec.head_dim];
        let mut in_place: Vec<InPlace<'_>> = self
            .buffers
            .iter_mut()
            .map(|Buffer { input, output, blocks }| {
                blocks.in_place((input, output), &(first..first + batch), &shape)
            })
            .collect();
        let names = self.states.names();
        let mut inputs: Vec<(&str, Tensor)> = feed.inputs(&self.spec)?;
        for (at, (name, _)) in names.iter().enumerate() {
            inputs.push((name, stack(&feed.states, at)?));
        }
        let outputs = self.graph.run_in_place(&inputs, &mut in_place)?;
        let mut states = vec![State::with_capacity(names.len()); batch];
        for ((_, name), zeros) in names.iter().zip(self.states.zeros()) {
            let found = outputs.iter().find(|(candidate, _)| candidate == name);
            let made =
                found.map_or_else(|| output(Vec::new(), "decoder", name), |(_, made)| Ok(made.clone()))?;
            unstack(&made, zeros.shape(), name, &mut states)?;
        }
        Ok(Made { logits: output(outputs, "decoder", tensor::LOGITS)?, states })
    }

    /// One run of the graph over tokens of one slot, as many as it can take at once.
    fn run_of(&mut self, slot: usize, rows: &Rows) -> Result<Logits, DecoderError> {
        let seq = sequence_length(rows, &self.spec)?;
        let mark = self.slots.check_room(slot, seq)?;
        let Positions { each, next } = rows.positions_from(mark.position, seq);
        let Rows { embeds, deep, .. } = rows.clone();
        let states = vec![self.states.now(slot, mark)];
        let feed = Feed { embeds, marks: vec![mark], seq, positions: each, deep, states };
        let Made { logits, mut states } = self.run(slot, &feed)?;
        let logits = Logits::new(&logits, 0, 1, self.spec.vocab_size)?;
        self.states.set(slot, states.pop().unwrap_or_default());
        self.slots.advance(slot, seq, next);
        Ok(logits)
    }

    /// Spreads `[1, n, H]` over `batch` rows `[batch, 1, H]`, zeros in between; no copy where there is
    /// nothing between.
    fn spread(&self, slots: &[usize], embeds: &Tensor, batch: usize) -> Result<Tensor, DecoderError> {
        let width = self.spec.hidden_size;
        if slots.iter().copied().eq(0..batch) {
            return Ok(embeds.reshaped(&[batch, 1, width])?);
        }
        let mut rows = try_zeroed::<f32>(batch * width)?;
        for (slot, row) in slots.iter().zip(embeds.as_slice::<f32>()?.chunks_exact(width)) {
            rows[slot * width..][..width].copy_from_slice(row);
        }
        Ok(Tensor::from_vec(&[batch, 1, width], rows)?)
    }
}

impl Feed {
    fn inputs(&self, spec: &DecoderSpec) -> Result<Vec<(&'static str, Tensor)>, DecoderError> {
        let (batch, seq) = (self.marks.len(), self.seq);
        let totals = || self.marks.iter().map(|mark| (mark.length + seq) as i32);
        let mut inputs = shared_inputs(spec, self.embeds.clone(), &self.positions, self.deep.clone())?;
        inputs.extend([
            (
                tensor::SEQLENS_K,
                Tensor::from_vec::<i32>(&[batch], totals().map(|total| total - 1).collect())?,
            ),
            (tensor::TOTAL_SEQUENCE_LENGTH, Tensor::from_vec::<i32>(&[], vec![totals().max().unwrap_or(0)])?),
        ]);
        Ok(inputs)
    }
}

impl Decoder for Fused {
    fn slots(&self) -> &Slots {
        &self.slots
    }

    fn slots_mut(&mut self) -> &mut Slots {
        &mut self.slots
    }

    fn prefill(&mut self, slot: usize, rows: &Rows) -> Result<Logits, DecoderError> {
        let seq = sequence_length(rows, &self.spec)?;
        let mark = self.slots.check_room(slot, seq)?;
        let state = self.states.now(slot, mark);
        let mut last = None;
        for rows in rows.runs(longest_run(&self.spec))? {
            match self.run_of(slot, &rows) {
                Ok(logits) => last = Some(logits),
                Err(error) => {
                    self.slots.set(slot, mark);
                    self.states.set(slot, state);
                    return Err(error);
                }
            }
        }
        self.states.keep(slot, self.slots.mark(slot));
        last.ok_or_else(|| not_rows(&self.spec, &rows.embeds))
    }

    fn step(&mut self, slots: &[usize], embeds: &Tensor) -> Result<Vec<Logits>, DecoderError> {
        let Some(highest) = slots.iter().max() else { return Ok(Vec::new()) };
        let batch = highest + 1;
        for slot in slots {
            self.slots.check_room(*slot, 1)?;
        }
        let embeds = self.spread(slots, embeds, batch)?;
        let marks: Vec<_> = (0..batch).map(|slot| self.slots.mark(slot)).collect();
        let positions = marks.iter().map(|mark| [mark.position; 3]).collect();
        let states = marks.iter().enumerate().map(|(slot, mark)| match slots.contains(&slot) {
            true => self.states.now(slot, *mark),
            false => self.states.zeros().clone(),
        });
        let states = states.collect();
        let feed = Feed { embeds, marks, seq: 1, positions, deep: None, states };
        let Made { logits, mut states } = self.run(0, &feed)?;
        let rows = slots.iter().map(|slot| Logits::new(&logits, *slot, batch, self.spec.vocab_size));
        let rows = rows.collect::<Result<_, _>>()?;
        for slot in slots {
            self.states.set(*slot, std::mem::take(&mut states[*slot]));
            self.slots.advance(*slot, 1, self.slots.mark(*slot).position + 1);
        }
        Ok(rows)
    }

    fn fork(&mut self, from: usize, mark: Mark) -> Result<Option<usize>, DecoderError> {
        let state = self.states.at(from, self.slots.mark(from), mark)?;
        let Some(to) = self.slots.allocate() else { return Ok(None) };
        for buffer in &mut self.buffers {
            if let Err(error) = buffer.blocks.copy(from, to, mark.length) {
                self.slots.free(to);
                return Err(error.into());
            }
        }
        self.states.set(to, state);
        self.states.keep(to, mark);
        self.slots.set(to, mark);
        Ok(Some(to))
    }

    fn rewind(&mut self, slot: usize, mark: Mark) -> Result<(), DecoderError> {
        let state = self.states.at(slot, self.slots.mark(slot), mark)?;
        self.states.set(slot, state);
        self.slots.set(slot, mark);
        Ok(())
    }

    fn free(&mut self, slot: usize) {
        self.states.free(slot);
        self.slots.free(slot);
    }
}

/// Tensor `at` of every slot as one, `[batch, ...]`; no copy where there is only one slot.
fn stack(states: &[State], at: usize) -> Result<Tensor, DecoderError> {
    let tensors = states.iter().map(|state| Ok(state[at].to_host()?));
    let tensors = tensors.collect::<Result<Vec<_>, DecoderError>>()?;
    if let [only] = &tensors[..] {
        return Ok(only.clone());
    }
    let mut shape = states[0][at].shape().to_vec();
    let mut all = try_with_capacity(states.len() * shape.iter().product::<usize>())?;
    for tensor in &tensors {
        all.extend_from_slice(tensor.as_slice::<f32>()?);
    }
    shape[0] = states.len();
    Ok(Tensor::from_vec(&shape, all)?)
}

/// Hands out the rows of `[batch, ...]`, `shape` each, to the slots.
fn unstack(made: &Tensor, shape: &[usize], name: &str, states: &mut [State]) -> Result<(), DecoderError> {
    let mut expected = shape.to_vec();
    expected[0] = states.len();
    if made.shape() != expected {
        return Err(DecoderError::Contract {
            graph: "decoder",
            expected: format!("`{name}` {expected:?}"),
            found: format!("{:?}", made.shape()),
        });
    }
    if let [only] = states {
        only.push(Kept::host(made.clone()));
        return Ok(());
    }
    let rows = made.as_slice::<f32>()?.chunks_exact(shape.iter().product());
    for (state, row) in states.iter_mut().zip(rows) {
        state.push(Kept::host(Tensor::from_vec(shape, row.to_vec())?));
    }
    Ok(())
}
