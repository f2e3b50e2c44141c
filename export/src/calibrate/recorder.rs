//! An inference library that takes note of what instrumented graphs say, and hands on the rest.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrcoc_runtime::engine::{EngineError, Graph, InPlace, Runtime};
use arrcoc_runtime::tensor::Tensor;

use super::histogram::Histogram;
use super::instrument::{LARGEST, SMALLEST, WHOLE};

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

/// A library, and what its graphs said.
pub(super) struct Recorder {
    library: Box<dyn Runtime>,
    observations: Arc<Mutex<Observations>>,
}

impl Recorder {
    pub(super) fn new(library: Box<dyn Runtime>) -> Self {
        Self { library, observations: Arc::default() }
    }

    /// What was noted so far; notes begin anew.
    pub(super) fn take(&self) -> Observations {
        std::mem::take(&mut *self.observations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Runtime for Recorder {
    fn describe(&self) -> String {
        self.library.describe()
    }

    fn load(&self, name: &str, model: &Path) -> Result<Box<dyn Graph>, EngineError> {
        let graph = self.library.load(name, model)?;
        let observations = Arc::clone(&self.observations);
        Ok(Box::new(Recorded { name: name.to_owned(), graph, observations }))
    }
}

struct Recorded {
    name: String,
    graph: Box<dyn Graph>,
    observations: Arc<Mutex<Observations>>,
}

impl Graph for Recorded {
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, EngineError> {
        let outputs = self.graph.run(inputs)?;
        let mut observations = self.observations.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = observations.entry(self.name.clone()).or_default();
        let mut contract = Vec::new();
        for (name, tensor) in outputs {
            noted.look_for_nan(&name, &tensor);
            if !noted.take(&name, &tensor)? {
                contract.push((name, tensor));
            }
        }
        Ok(contract)
    }

    fn run_in_place(
        &mut self,
        _: &[(&str, Tensor)],
        _: &mut [InPlace<'_>],
    ) -> Result<Vec<(String, Tensor)>, EngineError> {
        Err(EngineError::Unsupported { runtime: "calibration", what: "graphs that update memory in place" })
    }
}

impl GraphObservations {
    /// Notes the first tensor that holds NaN or infinity. The largest and the smallest element cannot tell: ONNX Runtime's reductions
    /// skip NaN in some places (microsoft/onnxruntime#10514). But whatever is computed ends in a linear layer or an output.
    fn look_for_nan(&mut self, output: &str, tensor: &Tensor) {
        let whole = output.ends_with(WHOLE) || !(output.ends_with(LARGEST) || output.ends_with(SMALLEST));
        let is_wild = || tensor.as_slice::<f32>().is_ok_and(|values| values.iter().any(|x| !x.is_finite()));
        if self.not_finite.is_none() && whole && is_wild() {
            self.not_finite = Some(output.trim_end_matches(WHOLE).to_owned());
        }
    }

    /// Notes an output that instruments a tensor; false for any other.
    fn take(&mut self, output: &str, tensor: &Tensor) -> Result<bool, EngineError> {
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
