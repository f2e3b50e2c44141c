//! The portable flavour: past tensors go in, present tensors come out and are kept without a copy, on a GPU
//! in its own memory. One slot per run, since rows of different lengths cannot share a past tensor.

use arrcoc_bundle::names::{cache, tensor};
use half::f16;

use crate::library::{Graph, Kept, RunOutputs};
use crate::tensor::{Element, ElementType, Tensor, TensorError, try_with_capacity};
use arrcoc_bundle::manifest::{CacheElement, DecoderSpec};

use super::states::{State, States};
use super::{
    Decoder, DecoderError, Logits, Mark, Positions, Rows, Slots, longest_run, sequence_length, shared_inputs,
};

/// A decoder whose graph takes and returns its KV cache as tensors.
pub struct Portable {
    graph: Box<dyn Graph>,
    spec: DecoderSpec,
    slots: Slots,
    /// Names of a past input and of the present output that follows it, two per layer.
    names: Vec<(String, String)>,
    /// Per slot: one `[1, kv_heads, length, head_dim]` per name, in the memory that the graph computes in.
    past: Vec<Vec<Kept>>,
    states: States,
}

/// All that a slot holds.
struct Held {
    slot: usize,
    mark: Mark,
    past: Vec<Kept>,
    state: State,
}

impl Portable {
    /// Wraps a loaded `decoder` graph.
    ///
    /// # Errors
    /// [`TensorError::Memory`] where the system has not as much as recurrent layers take.
    pub fn new(
        graph: Box<dyn Graph>,
        spec: &DecoderSpec,
        slots: usize,
        capacity: usize,
    ) -> Result<Self, TensorError> {
        let names = spec
            .attention_layers()
            .flat_map(|layer| {
                cache::PARTS.map(|part| (cache::past(layer, part), cache::present(layer, part)))
            })
            .collect();
        Ok(Self {
            graph,
            spec: spec.clone(),
            slots: Slots::new(slots, capacity),
            names,
            past: vec![Vec::new(); slots],
            states: States::new(spec, slots)?,
        })
    }

    fn held(&self, slot: usize) -> Held {
        let mark = self.slots.mark(slot);
        Held { slot, mark, past: self.past[slot].clone(), state: self.states.now(slot, mark) }
    }

    /// Undoes what happened to a slot since.
    fn put_back(&mut self, Held { slot, mark, past, state }: Held) {
        self.slots.set(slot, mark);
        self.past[slot] = past;
        self.states.set(slot, state);
    }

    /// One run of the graph, of tokens that it can take at once.
    fn run(&mut self, slot: usize, rows: &Rows) -> Result<Logits, DecoderError> {
        let seq = sequence_length(rows, &self.spec)?;
        let mark = self.slots.check_room(slot, seq)?;
        let total = mark.length + seq;
        let Positions { each, next } = rows.positions_from(mark.position, seq);
        let mut inputs = shared_inputs(&self.spec, rows.embeds.clone(), &each, rows.deep.clone())?;
        let mask = Tensor::from_vec::<i64>(&[1, total], vec![1; total])?;
        inputs.push((tensor::ATTENTION_MASK, mask));
        let names = || self.names.iter().chain(self.states.names());
        let past = self.prefix(slot, mark.length)?.into_iter().chain(self.states.now(slot, mark));
        let past: Vec<_> = names().map(|(name, _)| name.as_str()).zip(past).collect();
        let keep: Vec<_> = names().map(|(_, name)| name.as_str()).collect();
        let mut outputs = self.graph.run_keeping(&inputs, &past, &keep)?;
        let logits = self.check_outputs(&outputs, total)?;
        let state = outputs.kept.split_off(self.names.len());
        self.states.set(slot, state);
        self.past[slot] = outputs.kept;
        self.slots.advance(slot, seq, next);
        Ok(logits)
    }

    fn empty(&self) -> Result<Vec<Kept>, DecoderError> {
        let shape = [1, self.spec.kv_heads, 0, self.spec.head_dim];
        let empty = match self.spec.cache_element {
            CacheElement::Fp32 => Tensor::from_vec::<f32>(&shape, Vec::new())?,
            CacheElement::Fp16 => Tensor::from_vec::<f16>(&shape, Vec::new())?,
        };
        Ok(vec![Kept::host(empty); self.names.len()])
    }

    /// The first `length` positions of every tensor of a slot; no copy where that is all of them.
    fn prefix(&self, slot: usize, length: usize) -> Result<Vec<Kept>, DecoderError> {
        if length == 0 {
            return self.empty();
        }
        self.past[slot].iter().map(|tensor| prefix(tensor, length)).collect()
    }

    /// The logits among the outputs, when the present tensors are as long as they should be.
    fn check_outputs(&self, outputs: &RunOutputs, total: usize) -> Result<Logits, DecoderError> {
        let contract =
            |expected: String, found: String| DecoderError::Contract { graph: "decoder", expected, found };
        let expected = [1, self.spec.kv_heads, total, self.spec.head_dim];
        for ((_, name), kept) in self.names.iter().zip(&outputs.kept) {
            if kept.shape() != expected {
                return Err(contract(format!("`{name}` {expected:?}"), format!("{:?}", kept.shape())));
            }
        }
        let states = outputs.kept.iter().skip(self.names.len()).zip(self.states.zeros());
        for ((_, name), (kept, zeros)) in self.states.names().iter().zip(states) {
            if kept.shape() != zeros.shape() {
                let expected = format!("`{name}` {:?}", zeros.shape());
                return Err(contract(expected, format!("{:?}", kept.shape())));
            }
        }
        let logits = outputs.returned.iter().find(|(name, _)| name == tensor::LOGITS);
        let (_, logits) =
            logits.ok_or_else(|| contract("an output `logits`".into(), "none of that name".into()))?;
        Logits::new(logits, 0, 1, self.spec.vocab_size)
    }
}

impl Decoder for Portable {
    fn slots(&self) -> &Slots {
        &self.slots
    }

    fn slots_mut(&mut self) -> &mut Slots {
        &mut self.slots
    }

    fn prefill(&mut self, slot: usize, rows: &Rows) -> Result<Logits, DecoderError> {
        let seq = sequence_length(rows, &self.spec)?;
        self.slots.check_room(slot, seq)?;
        let before = self.held(slot);
        let mut last = None;
        for rows in rows.runs(longest_run(&self.spec))? {
            match self.run(slot, &rows) {
                Ok(logits) => last = Some(logits),
                Err(error) => {
                    self.put_back(before);
                    return Err(error);
                }
            }
        }
        self.states.keep(slot, self.slots.mark(slot));
        last.ok_or_else(|| super::not_rows(&self.spec, &rows.embeds))
    }

    fn step(&mut self, slots: &[usize], embeds: &Tensor) -> Result<Vec<Logits>, DecoderError> {
        let width = self.spec.hidden_size;
        let rows = embeds.as_slice::<f32>()?.chunks_exact(width);
        let mut stepped: Vec<Held> = Vec::new();
        let mut logits = Vec::new();
        for (slot, row) in slots.iter().zip(rows) {
            let before = self.held(*slot);
            let run = Tensor::from_vec(&[1, 1, width], row.to_vec())
                .map_err(DecoderError::from)
                .and_then(|row| self.run(*slot, &Rows::plain(row)));
            match run {
                Ok(row) => logits.push(row),
                Err(error) => {
                    // All slots or none: put back those that had gone ahead.
                    stepped.into_iter().for_each(|held| self.put_back(held));
                    return Err(error);
                }
            }
            stepped.push(before);
        }
        Ok(logits)
    }

    fn fork(&mut self, from: usize, mark: Mark) -> Result<Option<usize>, DecoderError> {
        let past = self.prefix(from, mark.length)?;
        let state = self.states.at(from, self.slots.mark(from), mark)?;
        let Some(to) = self.slots.allocate() else { return Ok(None) };
        self.past[to] = past;
        self.states.set(to, state);
        self.states.keep(to, mark);
        self.slots.set(to, mark);
        Ok(Some(to))
    }

    fn rewind(&mut self, slot: usize, mark: Mark) -> Result<(), DecoderError> {
        let state = self.states.at(slot, self.slots.mark(slot), mark)?;
        self.past[slot] = self.prefix(slot, mark.length)?;
        self.states.set(slot, state);
        self.slots.set(slot, mark);
        Ok(())
    }

    fn free(&mut self, slot: usize) {
        self.past[slot] = Vec::new();
        self.states.free(slot);
        self.slots.free(slot);
    }
}

/// The first `length` positions of `[1, heads, total, head_dim]`; on the host, unless that is all of them.
fn prefix(kept: &Kept, length: usize) -> Result<Kept, DecoderError> {
    let [batch, heads, total, width] = *kept.shape() else {
        return Err(DecoderError::Contract {
            graph: "decoder",
            expected: "past tensors of 4 axes".into(),
            found: format!("{:?}", kept.shape()),
        });
    };
    if length == total {
        return Ok(kept.clone());
    }
    let (shape, tensor) = ([batch, heads, length, width], kept.to_host()?);
    let first = match tensor.element() {
        ElementType::F16 => Tensor::from_vec(&shape, heads_of::<f16>(&tensor, total, length, width)?)?,
        _ => Tensor::from_vec(&shape, heads_of::<f32>(&tensor, total, length, width)?)?,
    };
    Ok(Kept::host(first))
}

/// The first `length` of `total` positions of every head.
fn heads_of<T: Element>(
    tensor: &Tensor,
    total: usize,
    length: usize,
    width: usize,
) -> Result<Vec<T>, DecoderError> {
    let heads = tensor.as_slice::<T>()?.chunks_exact(total * width);
    let mut first = try_with_capacity(heads.len() * length * width)?;
    heads.for_each(|head| first.extend_from_slice(&head[..length * width]));
    Ok(first)
}
