//! tract: inference in pure Rust, for `portable` bundles where ONNX Runtime is not to be had, and as a second
//! witness.
//!
//! Two kinds of graphs, told apart by their axes. Those with a `seq` axis (the decoder, the embedding) change
//! their shapes with every step: they are optimised once, symbolically. All others see few shapes, and some
//! of their arithmetic (SAM's window padding, its interpolated tables) does not simplify symbolically: they
//! are specialised to the shapes of the call, and the last few plans are kept.

use arrcoc_bundle::names::axis;
use std::path::Path;
use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::{DimFact, Factoid as _, InferenceFact};
use tract_onnx::tract_hir::internal::DimLike as _;
use tract_onnx::tract_hir::internal::bail;

use super::port::{Axis, Offer, Port, check};
use super::{BundledGraph, Graph, InPlace, LibraryError};
use crate::tensor::{ElementType, Tensor, TensorBytes};

const NAME: &str = "tract";

/// How many specialised plans a graph keeps: five budgets and a few lengths of questions.
const PLANS: usize = 8;

/// tract, on the calling thread.
#[derive(Debug, Default)]
pub struct TractLibrary {}

impl super::Library for TractLibrary {
    fn describe(&self) -> String {
        format!("{NAME} 0.23.9, CPU")
    }

    fn load(&self, name: &str, model: &Path) -> Result<Box<dyn Graph>, LibraryError> {
        loaded(name, onnx().model_for_path(model))
    }

    fn load_bundled(&self, graph: &BundledGraph<'_>) -> Result<Box<dyn Graph>, LibraryError> {
        loaded(graph.name, read_bundled(graph))
    }
}

/// Declared shapes of inner values name symbols, which would contradict a specialised input.
fn onnx() -> tract_onnx::Onnx {
    tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true)
}

fn loaded(name: &str, model: TractResult<InferenceModel>) -> Result<Box<dyn Graph>, LibraryError> {
    match model.and_then(|model| TractGraph::new(name, model)) {
        Ok(graph) => Ok(Box::new(graph)),
        Err(reason) => Err(LibraryError::Load { graph: name.to_owned(), reason: format!("{reason:#}") }),
    }
}

/// Reads a graph of a bundle. Its weights may lie behind links that lead out of the bundle, where tract does
/// not follow: it is told where they are, from the root of the file system.
fn read_bundled(graph: &BundledGraph<'_>) -> TractResult<InferenceModel> {
    const ROOT: &str = "/";
    let onnx = onnx();
    let mut model = onnx.proto_model_for_path(&graph.file.path)?;
    let tensors = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    for entry in tensors.flat_map(|tensor| &mut tensor.external_data).filter(|entry| entry.key == "location")
    {
        let Some(path) = graph.file.external.get(&entry.value) else {
            bail!("`{}` is no file of the bundle", entry.value)
        };
        let path = path.canonicalize()?;
        let Some(path) = path.strip_prefix(ROOT)?.to_str() else {
            bail!("`{}`: expected a path in UTF-8", path.display())
        };
        entry.value = path.to_owned();
    }
    let parsed = onnx.parse(&model, Some(ROOT))?;
    match parsed.unresolved_inputs.as_slice() {
        [] => Ok(parsed.model),
        inputs => bail!("inputs that nothing makes: {inputs:?}"),
    }
}

type Plan = Arc<TypedRunnableModel>;

/// Tells tract that `past = total - seq`, without which it cannot follow the attention's shapes. That way
/// round, because what it computes with is `total`: sizes like `seq * total` stay simple enough to be
/// divided.
fn relate_past(model: &mut InferenceModel, inputs: &[Port]) -> TractResult<()> {
    let past = Axis::Named(axis::PAST.to_owned());
    let symbol = |model: &InferenceModel, name: &str| model.symbols.sym(name).to_dim();
    for (at, port) in inputs.iter().enumerate().filter(|(_, port)| port.shape.contains(&past)) {
        let dim = |axis: &Axis| match axis {
            Axis::Fixed(length) => length.to_dim(),
            axis if *axis == past => symbol(model, axis::TOTAL) - symbol(model, axis::SEQ),
            Axis::Named(name) => symbol(model, name),
        };
        let shape: TVec<TDim> = port.shape.iter().map(dim).collect();
        model.set_input_fact(at, InferenceFact::dt_shape(datum_type(port.element), shape))?;
    }
    Ok(())
}

/// A loaded graph.
struct TractGraph {
    name: String,
    inputs: Vec<Port>,
    outputs: Vec<String>,
    plans: Plans,
}

/// How a graph gets its executable form.
enum Plans {
    /// One plan for all shapes.
    Symbolic(Plan),
    /// A plan per shape, least recently used first.
    Specialised { model: Box<InferenceModel>, recent: Vec<(Vec<Vec<usize>>, Plan)> },
}

impl TractGraph {
    fn new(name: &str, mut model: InferenceModel) -> TractResult<Self> {
        let inputs = (0..model.inputs.len()).map(|at| port(&model, at)).collect::<TractResult<Vec<_>>>()?;
        let label = |outlet: &OutletId| {
            let label = model.outlet_label(*outlet);
            label.unwrap_or(&model.nodes[outlet.node].name).to_owned()
        };
        let outputs = model.outputs.iter().map(label).collect();
        let steps = Axis::Named(axis::SEQ.to_owned());
        let plans = if inputs.iter().any(|port| port.shape.contains(&steps)) {
            relate_past(&mut model, &inputs)?;
            Plans::Symbolic(model.into_optimized()?.into_runnable()?)
        } else {
            Plans::Specialised { model: Box::new(model), recent: Vec::new() }
        };
        Ok(Self { name: name.to_owned(), inputs, outputs, plans })
    }

    fn run_checked(&mut self, inputs: &[(&str, Tensor)]) -> TractResult<Vec<(String, Tensor)>> {
        let mut ordered = Vec::with_capacity(inputs.len());
        for port in &self.inputs {
            ordered.extend(inputs.iter().filter(|(name, _)| *name == port.name).map(|(_, tensor)| tensor));
        }
        let plan = self.plans.get(&ordered)?;
        let values = ordered.iter().map(|tensor| to_tract(tensor)).collect::<TractResult<_>>()?;
        let outputs = plan.run(values)?;
        self.outputs.iter().zip(outputs).map(|(name, value)| Ok((name.clone(), from_tract(value)?))).collect()
    }
}

impl Plans {
    /// The plan for these inputs; makes it first, where there is none yet.
    fn get(&mut self, inputs: &[&Tensor]) -> TractResult<Plan> {
        let (model, recent) = match self {
            Self::Symbolic(plan) => return Ok(Arc::clone(plan)),
            Self::Specialised { model, recent } => (model, recent),
        };
        let shapes: Vec<_> = inputs.iter().map(|tensor| tensor.shape().to_vec()).collect();
        let entry = match recent.iter().position(|(known, _)| *known == shapes) {
            Some(at) => recent.remove(at),
            None => {
                let plan = specialise(model, inputs)?;
                recent.drain(..(recent.len() + 1).saturating_sub(PLANS));
                (shapes, plan)
            }
        };
        let plan = Arc::clone(&entry.1);
        recent.push(entry);
        Ok(plan)
    }
}

fn specialise(model: &InferenceModel, inputs: &[&Tensor]) -> TractResult<Plan> {
    let mut model = model.clone();
    for (at, tensor) in inputs.iter().enumerate() {
        let fact = InferenceFact::dt_shape(datum_type(tensor.element()), tensor.shape());
        model.set_input_fact(at, fact)?;
    }
    model.into_optimized()?.into_runnable()
}

impl Graph for TractGraph {
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, LibraryError> {
        let offers: Vec<_> = inputs.iter().map(|(name, tensor)| Offer::new(name, tensor)).collect();
        check(&self.name, &self.inputs, &offers)?;
        self.run_checked(inputs)
            .map_err(|reason| LibraryError::Run { graph: self.name.clone(), reason: format!("{reason:#}") })
    }

    fn run_in_place(
        &mut self,
        _inputs: &[(&str, Tensor)],
        _in_place: &mut [InPlace<'_>],
    ) -> Result<Vec<(String, Tensor)>, LibraryError> {
        Err(LibraryError::Unsupported {
            runtime: NAME,
            what: "updating a KV cache in place; use a `portable` bundle",
        })
    }
}

/// What the input at a position asks for.
fn port(model: &InferenceModel, at: usize) -> TractResult<Port> {
    let name = model.nodes[model.inputs[at].node].name.clone();
    let fact = model.input_fact(at)?;
    let datum = fact.datum_type.concretize();
    let element = match datum {
        Some(DatumType::F32) => ElementType::F32,
        Some(DatumType::F16) => ElementType::F16,
        Some(DatumType::I64) => ElementType::I64,
        Some(DatumType::I32) => ElementType::I32,
        other => bail!("input `{name}` has elements of type {other:?}"),
    };
    let axis = |dim: &DimFact| match dim.concretize() {
        Some(dim) => dim.to_usize().map_or_else(|_| Axis::Named(dim.to_string()), Axis::Fixed),
        None => Axis::Named(String::new()),
    };
    Ok(Port { name, element, shape: fact.shape.dims().map(axis).collect() })
}

fn datum_type(element: ElementType) -> DatumType {
    match element {
        ElementType::F32 => DatumType::F32,
        ElementType::F16 => DatumType::F16,
        ElementType::I64 => DatumType::I64,
        ElementType::I32 => DatumType::I32,
    }
}

/// Copies a tensor into tract, which can only compute on memory of its own.
fn to_tract(tensor: &Tensor) -> TractResult<TValue> {
    let datum = datum_type(tensor.element());
    // SAFETY: `Tensor` guarantees that the bytes are as many plain numbers of that type as the shape has
    // elements.
    let value = unsafe { tract_onnx::prelude::Tensor::from_raw_dt(datum, tensor.shape(), tensor.bytes()) }?;
    Ok(value.into())
}

/// Takes over an output without copying.
fn from_tract(value: TValue) -> TractResult<Tensor> {
    let mut value = value.into_arc_tensor();
    // tract computes shapes, and what is derived from them, in a type of its own.
    if value.datum_type() == DatumType::TDim {
        value = Arc::new(value.cast_to::<i64>()?.into_owned());
    }
    let element = match value.datum_type() {
        DatumType::F32 => ElementType::F32,
        DatumType::F16 => ElementType::F16,
        DatumType::I64 => ElementType::I64,
        DatumType::I32 => ElementType::I32,
        other => bail!("an output has elements of type {other:?}"),
    };
    let shape = value.shape().to_vec();
    Ok(Tensor::from_bytes(element, &shape, Arc::new(TractBytes(value)))?)
}

/// Memory of a tract tensor.
struct TractBytes(Arc<tract_onnx::prelude::Tensor>);

// SAFETY: a shared tract tensor cannot be written to.
unsafe impl TensorBytes for TractBytes {
    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
