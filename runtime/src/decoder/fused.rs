//! The fused flavour: attention over one shared KV buffer per layer, which the operator updates in place.
//!
//! A buffer is `[slots, kv_heads, capacity, head_dim]`, so a slot is a contiguous block. A prefill chunk
//! binds the block of its slot as a batch of one; a decode step binds the blocks of the slots from 0 to the
//! highest one that takes part. Slots in between that do not take part ("holes") ride along: they are given a
//! zero embedding and their own length, so the operator writes one position after what they hold, where the
//! next real token will overwrite it. That position always exists, because [`super::Slots`] keeps one spare.

use crate::library::{Graph, InPlace};
use crate::tensor::{ElementType, Tensor, TensorError, try_zeroed};
use arrcoc_bundle::manifest::DecoderSpec;
use arrcoc_bundle::names::{cache, tensor};

use super::{
    Decoder, DecoderError, Logits, Mark, Position, Positions, Rows, Slots, output, sequence_length,
    shared_inputs,
};

/// A decoder whose graph updates its KV cache in place.
pub struct Fused {
    graph: Box<dyn Graph>,
    spec: DecoderSpec,
    slots: Slots,
    capacity: usize,
    /// Keys and values of every layer, `[slots, kv_heads, capacity, head_dim]` each.
    buffers: Vec<Buffer>,
}

struct Buffer {
    input: String,
    output: String,
    elements: Vec<f32>,
}

impl Buffer {
    /// Zeros come as zeroed pages: memory is used as positions are, not before.
    fn new(layer: usize, part: &str, elements: usize) -> Result<Self, TensorError> {
        Ok(Self {
            input: cache::past(layer, part),
            output: cache::present(layer, part),
            elements: try_zeroed(elements)?,
        })
    }
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
}

impl Fused {
    /// Wraps a loaded `decoder` graph; allocates the cache.
    ///
    /// # Errors
    /// [`TensorError::Memory`] where the system has not as much.
    pub fn new(
        graph: Box<dyn Graph>,
        spec: &DecoderSpec,
        slots: usize,
        capacity: usize,
    ) -> Result<Self, TensorError> {
        let factors = [slots, spec.kv_heads, capacity, spec.head_dim];
        let elements = factors.into_iter().fold(1_usize, usize::saturating_mul);
        let buffers = (0..spec.layers)
            .flat_map(|layer| cache::PARTS.map(|part| Buffer::new(layer, part, elements)))
            .collect::<Result<_, _>>()?;
        Ok(Self { graph, spec: spec.clone(), slots: Slots::new(slots, capacity), capacity, buffers })
    }

    /// Elements of one slot in one buffer.
    fn block(&self) -> usize {
        self.spec.kv_heads * self.capacity * self.spec.head_dim
    }

    /// Runs the graph over the slots from `first` on, one per row; returns `logits` `[batch, 1, V]`.
    fn run(&mut self, first: usize, feed: &Feed) -> Result<Tensor, DecoderError> {
        let (batch, block) = (feed.marks.len(), self.block());
        let shape = [batch, self.spec.kv_heads, self.capacity, self.spec.head_dim];
        let mut in_place: Vec<InPlace<'_>> = self
            .buffers
            .iter_mut()
            .map(|buffer| InPlace {
                input: &buffer.input,
                output: &buffer.output,
                shape: &shape,
                element: ElementType::F32,
                bytes: bytemuck::cast_slice_mut(&mut buffer.elements[first * block..][..batch * block]),
            })
            .collect();
        let outputs = self.graph.run_in_place(&feed.inputs(&self.spec)?, &mut in_place)?;
        output(outputs, "decoder", tensor::LOGITS)
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
        let Positions { each, next } = rows.positions_from(mark.position, seq);
        let Rows { embeds, deep, .. } = rows.clone();
        let logits = self.run(slot, &Feed { embeds, marks: vec![mark], seq, positions: each, deep })?;
        let logits = Logits::new(&logits, 0, 1, self.spec.vocab_size)?;
        self.slots.advance(slot, seq, next);
        Ok(logits)
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
        let logits = self.run(0, &Feed { embeds, marks, seq: 1, positions, deep: None })?;
        let rows = slots.iter().map(|slot| Logits::new(&logits, *slot, batch, self.spec.vocab_size));
        let rows = rows.collect::<Result<_, _>>()?;
        for slot in slots {
            self.slots.advance(*slot, 1, self.slots.mark(*slot).position + 1);
        }
        Ok(rows)
    }

    fn fork(&mut self, from: usize, mark: Mark) -> Result<Option<usize>, DecoderError> {
        let Some(to) = self.slots.allocate() else { return Ok(None) };
        let (block, head) = (self.block(), self.capacity * self.spec.head_dim);
        for buffer in &mut self.buffers {
            for start in (0..block).step_by(head) {
                let source = from * block + start;
                let length = mark.length * self.spec.head_dim;
                buffer.elements.copy_within(source..source + length, to * block + start);
            }
        }
        self.slots.set(to, mark);
        Ok(Some(to))
    }

    fn rewind(&mut self, slot: usize, mark: Mark) -> Result<(), DecoderError> {
        self.slots.set(slot, mark);
        Ok(())
    }

    fn free(&mut self, slot: usize) {
        self.slots.free(slot);
    }
}
