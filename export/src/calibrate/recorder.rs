//! Takes note of what instrumented graphs say, and hands on the rest.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use arrcoc_runtime::library::LibraryError;
use arrcoc_runtime::tensor::Tensor;

use super::histogram::Histogram;
use super::instrument::{LARGEST, SMALLEST, WHOLE};
use crate::tap::{Listener, Named, Run};

/// What the graphs said, by graph.
pub(super) type Observations = BTreeMap<String, GraphObservations>;

/// What one graph said of its tensors, by name.
#[derive(Debug, Default)]
pub(super) struct GraphObservations {
    /// The first tensor that held NaN or infinity.
    pub(super) not_finite: Option<String>,
    /// Largest magnitude; a mask's may be infinite.
    pub(super) magnitudes: BTreeMap<String, f32>,
    /// What linear layers multiply.
    pub(super) activations: BTreeMap<String, Activation>,
}

/// What linear layers multiply, `[rows, channels]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activation {
    /// Largest magnitude per channel.
    pub channels: Vec<f32>,
    /// All of it.
    pub histogram: Histogram,
}

/// Takes note, and takes the outputs away that only notes are made of.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Observations>);

impl Recorder {
    /// What was noted so far; notes begin anew.
    pub(super) fn take(&self) -> Observations {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Listener for Recorder {
    fn ran(&self, run: &Run<'_>, outputs: Named) -> Result<Named, LibraryError> {
        let mut observations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = observations.entry(run.graph.to_owned()).or_default();
        let mut contract = Vec::new();
        for (name, tensor) in outputs {
            noted.look_for_nan(&name, &tensor);
            if !noted.take(&name, &tensor)? {
                contract.push((name, tensor));
            }
        }
        Ok(contract)
    }
}

impl GraphObservations {
    /// Notes the first tensor that holds NaN or infinity. The largest and the smallest element cannot tell:
    /// ONNX Runtime's reductions skip NaN in some places (microsoft/onnxruntime#10514). But whatever is
    /// computed ends in a linear layer or an output.
    fn look_for_nan(&mut self, output: &str, tensor: &Tensor) {
        let whole = output.ends_with(WHOLE) || !(output.ends_with(LARGEST) || output.ends_with(SMALLEST));
        let is_wild = || tensor.as_slice::<f32>().is_ok_and(|values| values.iter().any(|x| !x.is_finite()));
        if self.not_finite.is_none() && whole && is_wild() {
            self.not_finite = Some(output.trim_end_matches(WHOLE).to_owned());
        }
    }

    /// Notes an output that instruments a tensor; false for any other.
    fn take(&mut self, output: &str, tensor: &Tensor) -> Result<bool, LibraryError> {
        if let Some(name) = output.strip_suffix(LARGEST).or(output.strip_suffix(SMALLEST)) {
            let found = tensor.as_slice::<f32>()?.first().copied().unwrap_or(0.0).abs();
            let magnitude = self.magnitudes.entry(name.to_owned()).or_default();
            *magnitude = magnitude.max(found);
            return Ok(true);
        }
        let Some(name) = output.strip_suffix(WHOLE) else { return Ok(false) };
        let values = tensor.as_slice::<f32>()?;
        let width = tensor.shape().last().copied().unwrap_or(0).max(1);
        let activation = self.activations.entry(name.to_owned()).or_default();
        activation.channels.resize(width, 0.0);
        for row in values.chunks_exact(width) {
            for (largest, x) in activation.channels.iter_mut().zip(row) {
                *largest = largest.max(x.abs());
            }
        }
        activation.histogram.add(values);
        Ok(true)
    }
}
