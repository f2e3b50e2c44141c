//! The portable flavour: past tensors go in, present tensors come out and are kept without a copy. One slot per run,
//! since rows of different lengths cannot share a past tensor.

use half::f16;

use crate::bundle::manifest::{CacheElement, DecoderSpec};
use crate::engine::Graph;
use crate::tensor::{Element, ElementType, Tensor};

use super::{Decoder, DecoderError, Logits, Mark, Slots, sequence_length};

/// A decoder whose graph takes and returns its KV cache as tensors.
pub struct Portable {
    graph: Box<dyn Graph>,
    spec: DecoderSpec,
    slots: Slots,
    /// Names of a past input and of the present output that follows it, two per layer.
    names: Vec<(String, String)>,
    /// Per slot: one `[1, kv_heads, length, head_dim]` per name.
    past: Vec<Vec<Tensor>>,
}

impl Portable {
    /// Wraps a loaded `decoder` graph.
    pub fn new(graph: Box<dyn Graph>, spec: &DecoderSpec, slots: usize, capacity: usize) -> Self {
        let names = (0..spec.layers)
            .flat_map(|layer| {
                ["key", "value"].map(|part| {
                    (format!("past_key_values.{layer}.{part}"), format!("present.{layer}.{part}"))
                })
            })
            .collect();
        Self {
            graph,
            spec: spec.clone(),
            slots: Slots::new(slots, capacity),
            names,
            past: vec![Vec::new(); slots],
        }
    }

    fn empty(&self) -> Result<Vec<Tensor>, DecoderError> {
        let shape = [1, self.spec.kv_heads, 0, self.spec.head_dim];
        let empty = match self.spec.cache_element {
            CacheElement::Fp32 => Tensor::from_vec::<f32>(&shape, Vec::new())?,
            CacheElement::Fp16 => Tensor::from_vec::<f16>(&shape, Vec::new())?,
        };
        Ok(vec![empty; self.names.len()])
    }

    /// The first `length` positions of every tensor of a slot; no copy where that is all of them.
    fn prefix(&self, slot: usize, length: usize) -> Result<Vec<Tensor>, DecoderError> {
        if length == 0 {
            return self.empty();
        }
        self.past[slot].iter().map(|tensor| prefix(tensor, length)).collect()
    }

    /// Takes `logits` and the present tensors out of the outputs, in whatever order they come.
    fn take_outputs(
        &self,
        outputs: Vec<(String, Tensor)>,
        total: usize,
    ) -> Result<(Logits, Vec<Tensor>), DecoderError> {
        let expected = [1, self.spec.kv_heads, total, self.spec.head_dim];
        let find = |name: &str| {
            let found = outputs.iter().find(|(candidate, _)| candidate == name);
            found.map(|(_, tensor)| tensor).ok_or_else(|| DecoderError::Contract {
                graph: "decoder",
                expected: format!("an output `{name}`"),
                found: "none of that name".into(),
            })
        };
        let present = self.names.iter().map(|(_, name)| {
            let tensor = find(name)?;
            if tensor.shape() != expected {
                return Err(DecoderError::Contract {
                    graph: "decoder",
                    expected: format!("`{name}` {expected:?}"),
                    found: format!("{:?}", tensor.shape()),
                });
            }
            Ok(tensor.clone())
        });
        let present = present.collect::<Result<_, _>>()?;
        Ok((Logits::new(find("logits")?, 0, 1, self.spec.vocab_size)?, present))
    }
}

impl Decoder for Portable {
    fn slots(&self) -> &Slots {
        &self.slots
    }

    fn slots_mut(&mut self) -> &mut Slots {
        &mut self.slots
    }

    fn prefill(&mut self, slot: usize, embeds: &Tensor) -> Result<Logits, DecoderError> {
        let seq = sequence_length(embeds, self.spec.hidden_size)?;
        let mark = self.slots.check_room(slot, seq)?;
        let total = mark.length + seq;
        let positions = (mark.position..mark.position + seq).map(|p| p as i64).collect();
        let past = self.prefix(slot, mark.length)?;
        let mut inputs = vec![
            ("inputs_embeds", embeds.clone()),
            ("attention_mask", Tensor::from_vec::<i64>(&[1, total], vec![1; total])?),
            ("position_ids", Tensor::from_vec::<i64>(&[1, seq], positions)?),
        ];
        inputs.extend(self.names.iter().map(|(name, _)| name.as_str()).zip(past));
        let outputs = self.graph.run(&inputs)?;
        let (logits, present) = self.take_outputs(outputs, total)?;
        self.past[slot] = present;
        self.slots.advance(slot, seq);
        Ok(logits)
    }

    fn step(&mut self, slots: &[usize], embeds: &Tensor) -> Result<Vec<Logits>, DecoderError> {
        let width = self.spec.hidden_size;
        let rows = embeds.as_slice::<f32>()?.chunks_exact(width);
        let mut stepped: Vec<(usize, Mark, Vec<Tensor>)> = Vec::new();
        let mut logits = Vec::new();
        for (slot, row) in slots.iter().zip(rows) {
            let before = (*slot, self.slots.mark(*slot), self.past[*slot].clone());
            let run = Tensor::from_vec(&[1, 1, width], row.to_vec())
                .map_err(DecoderError::from)
                .and_then(|row| self.prefill(*slot, &row));
            match run {
                Ok(row) => logits.push(row),
                Err(error) => {
                    // All slots or none: put back those that had gone ahead.
                    for (slot, mark, past) in stepped {
                        self.slots.set(slot, mark);
                        self.past[slot] = past;
                    }
                    return Err(error);
                }
            }
            stepped.push(before);
        }
        Ok(logits)
    }

    fn fork(&mut self, from: usize, mark: Mark) -> Result<Option<usize>, DecoderError> {
        let past = self.prefix(from, mark.length)?;
        let Some(to) = self.slots.allocate() else { return Ok(None) };
        self.past[to] = past;
        self.slots.set(to, mark);
        Ok(Some(to))
    }

    fn rewind(&mut self, slot: usize, mark: Mark) -> Result<(), DecoderError> {
        self.past[slot] = self.prefix(slot, mark.length)?;
        self.slots.set(slot, mark);
        Ok(())
    }

    fn free(&mut self, slot: usize) {
        self.past[slot] = Vec::new();
        self.slots.free(slot);
    }
}

/// The first `length` positions of `[1, heads, total, head_dim]`.
fn prefix(tensor: &Tensor, length: usize) -> Result<Tensor, DecoderError> {
    let [batch, heads, total, width] = *tensor.shape() else {
        return Err(DecoderError::Contract {
            graph: "decoder",
            expected: "past tensors of 4 axes".into(),
            found: format!("{:?}", tensor.shape()),
        });
    };
    if length == total {
        return Ok(tensor.clone());
    }
    let shape = [batch, heads, length, width];
    match tensor.element() {
        ElementType::F16 => Ok(Tensor::from_vec(&shape, heads_of::<f16>(tensor, total, length, width)?)?),
        _ => Ok(Tensor::from_vec(&shape, heads_of::<f32>(tensor, total, length, width)?)?),
    }
}

/// The first `length` of `total` positions of every head.
fn heads_of<T: Element>(
    tensor: &Tensor,
    total: usize,
    length: usize,
    width: usize,
) -> Result<Vec<T>, DecoderError> {
    let heads = tensor.as_slice::<T>()?.chunks_exact(total * width);
    Ok(heads.flat_map(|head| &head[..length * width]).copied().collect())
}
