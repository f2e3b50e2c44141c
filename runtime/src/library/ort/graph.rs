//! A session as a [`Graph`]: what is asked of a run is compared with what the session takes, then bound.

use std::borrow::Cow;
use std::sync::Arc;

use ::ort::memory::MemoryInfo;
use ::ort::session::{RunOptions, Session, SessionInputValue};

use super::blocks::OrtBlocks;
use super::linked::Mapped;
use super::values::{adopt, bind_inputs, failed, port, view, view_of};
use super::{Provider, kept, tensorrt};
use crate::library::port::{Offer, Port, check, check_ranges};
use crate::library::{Blocks, Cancel, Graph, InPlace, InPlaceMemory, Kept, LibraryError, RunOutputs};
use crate::tensor::{ElementType, Tensor};

/// A session.
pub(super) struct OrtGraph {
    name: String,
    session: Session,
    /// Weights that the session reads: behind it, so that they are dropped after it.
    _weights: Mapped,
    inputs: Vec<Port>,
    outputs: Vec<String>,
    /// Lengths that the plan was compiled for; empty where any will do.
    ranges: tensorrt::Ranges,
    /// Where outputs stay that only a later run reads, and what is extended in place.
    memory: MemoryInfo<'static>,
}

impl OrtGraph {
    pub(super) fn new(
        name: &str,
        session: Session,
        weights: Mapped,
        ranges: tensorrt::Ranges,
        provider: &Provider,
    ) -> Result<Self, LibraryError> {
        let error = |reason| LibraryError::Load { graph: name.to_owned(), reason };
        let memory = provider.memory().map_err(|reason| error(reason.to_string()))?;
        let inputs = session.inputs().iter().map(port).collect::<Result<_, _>>().map_err(error)?;
        let outputs = session.outputs().iter().map(|outlet| outlet.name().to_owned()).collect();
        Ok(Self { name: name.to_owned(), session, _weights: weights, inputs, outputs, ranges, memory })
    }

    fn check(&self, inputs: &[(&str, Tensor)]) -> Result<(), LibraryError> {
        let offers = offers(inputs);
        check(&self.name, &self.inputs, &offers)?;
        check_ranges(&self.name, &self.inputs, &offers, &self.ranges)
    }
}

impl Graph for OrtGraph {
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, LibraryError> {
        self.check(inputs)?;
        run(&mut self.session, inputs, None).map_err(|reason| failed(&self.name, reason))
    }

    /// ONNX Runtime looks between two operators whether it is to go on.
    fn run_until(
        &mut self,
        inputs: &[(&str, Tensor)],
        cancel: &Cancel,
    ) -> Result<Vec<(String, Tensor)>, LibraryError> {
        self.check(inputs)?;
        let name = &self.name;
        let options = Arc::new(RunOptions::new().map_err(|reason| failed(name, reason))?);
        let ended = Arc::clone(&options);
        let end = move || {
            if let Err(error) = ended.terminate() {
                tracing::warn!(%error, "a run of ONNX Runtime cannot be ended early");
            }
        };
        let session = &mut self.session;
        cancel.during(end, || run(session, inputs, Some(&options))).map_err(|reason| failed(name, reason))
    }

    fn run_keeping(
        &mut self,
        inputs: &[(&str, Tensor)],
        kept: &[(&str, Kept)],
        keep: &[&str],
    ) -> Result<RunOutputs, LibraryError> {
        let mut offers = offers(inputs);
        offers.extend(kept.iter().map(|(name, kept)| Offer {
            name,
            element: kept.element(),
            shape: kept.shape(),
        }));
        check(&self.name, &self.inputs, &offers)?;
        check_ranges(&self.name, &self.inputs, &offers, &self.ranges)?;
        let outputs = (&self.outputs[..], keep);
        kept::run_keeping(&mut self.session, &self.memory, outputs, inputs, kept)
            .map_err(|reason| failed(&self.name, reason))
    }

    fn blocks(&self, element: ElementType, count: usize, shape: &[usize]) -> Result<Blocks, LibraryError> {
        if self.memory.is_cpu_accessible() {
            return Ok(Blocks::host(element, count, shape)?);
        }
        let blocks = OrtBlocks::new(&self.session, &self.memory, element, (count, shape));
        let blocks = blocks.map_err(|reason| {
            let bytes = Blocks::bytes(element, count, shape);
            LibraryError::Blocks { graph: self.name.clone(), bytes, reason: reason.to_string() }
        })?;
        Ok(Blocks::library(element, shape, Box::new(blocks)))
    }

    fn run_in_place(
        &mut self,
        inputs: &[(&str, Tensor)],
        in_place: &mut [InPlace<'_>],
    ) -> Result<Vec<(String, Tensor)>, LibraryError> {
        let mut offers = offers(inputs);
        for buffer in in_place.iter() {
            offers.push(Offer { name: buffer.input, element: buffer.element, shape: buffer.shape });
            check_buffer(&self.name, &self.outputs, buffer)?;
        }
        check(&self.name, &self.inputs, &offers)?;
        run_bound(&mut self.session, &self.outputs, inputs, in_place)
            .map_err(|reason| failed(&self.name, reason))
    }
}

fn offers<'a>(inputs: &'a [(&'a str, Tensor)]) -> Vec<Offer<'a>> {
    inputs.iter().map(|(name, tensor)| Offer::new(name, tensor)).collect()
}

/// The buffer has the size that its shape needs, its alignment, and an output to go with it. Blocks of the
/// library's own are compared when they are bound.
fn check_buffer(graph: &str, outputs: &[String], buffer: &InPlace<'_>) -> Result<(), LibraryError> {
    let InPlace { input, output, shape, element, memory } = buffer;
    if !outputs.iter().any(|name| name == output) {
        return Err(failed(graph, format!("there is no output `{output}`; expected {}", outputs.join(", "))));
    }
    let InPlaceMemory::Host(bytes) = memory else { return Ok(()) };
    let expected = shape.iter().product::<usize>() * element.size();
    if bytes.len() != expected || !bytes.as_ptr().addr().is_multiple_of(element.size()) {
        let found = bytes.len();
        return Err(failed(
            graph,
            format!(
                "buffer of `{input}`: expected {expected} aligned bytes for shape {shape:?}, found {found}"
            ),
        ));
    }
    Ok(())
}

fn run(
    session: &mut Session,
    inputs: &[(&str, Tensor)],
    options: Option<&RunOptions>,
) -> Result<Vec<(String, Tensor)>, ::ort::Error> {
    let values = inputs
        .iter()
        .map(|(name, tensor)| {
            // SAFETY: `inputs` outlives the run, ONNX Runtime only reads inputs, and the values die with this
            // function.
            let value = unsafe { view_of(tensor, session) }?;
            Ok((Cow::Borrowed(*name), SessionInputValue::Owned(value)))
        })
        .collect::<Result<Vec<_>, ::ort::Error>>()?;
    let outputs = match options {
        Some(options) => session.run_with_options(values, options)?,
        None => session.run(values)?,
    };
    outputs.into_iter().map(|(name, value)| Ok((name.to_owned(), adopt(value)?))).collect()
}

fn run_bound(
    session: &mut Session,
    outputs: &[String],
    inputs: &[(&str, Tensor)],
    in_place: &mut [InPlace<'_>],
) -> Result<Vec<(String, Tensor)>, ::ort::Error> {
    let mut binding = session.create_binding()?;
    // SAFETY: as in `run`; the binding dies with this function.
    unsafe { bind_inputs(&mut binding, session, inputs) }?;
    for buffer in in_place.iter_mut() {
        let host = MemoryInfo::default();
        let (data, memory) = match &mut buffer.memory {
            InPlaceMemory::Host(bytes) => (bytes.as_mut_ptr(), &host),
            InPlaceMemory::Library(part) => {
                let (blocks, first) = (part.blocks.as_any_mut(), part.first);
                let blocks = blocks.downcast_mut::<OrtBlocks>();
                let blocks = blocks.ok_or_else(|| ::ort::Error::new("blocks of another library"))?;
                blocks.part(first, buffer.element, buffer.shape)?
            }
        };
        // SAFETY: the memory is borrowed mutably until this function returns, `check_buffer` or
        // `OrtBlocks::part` compared its size, and the two values over it are what the operator asks for: it
        // reads the past and writes behind it.
        let [input, output] = unsafe {
            [(); 2].map(|()| view(data, buffer.element, buffer.shape, memory, session.allocator()))
        };
        let (input, output) = (input?, output?);
        binding.bind_input(buffer.input, &input)?;
        binding.bind_output(buffer.output, output)?;
    }
    let memory = MemoryInfo::default();
    let is_free = |name: &&String| !in_place.iter().any(|buffer| buffer.output == name.as_str());
    for name in outputs.iter().filter(is_free) {
        binding.bind_output_to_device(name.as_str(), &memory)?;
    }
    let bound = session.run_binding(&binding)?;
    let free = bound.into_iter().filter(|(name, _)| outputs.iter().filter(is_free).any(|free| free == name));
    free.map(|(name, value)| Ok((name.to_owned(), adopt(value)?))).collect()
}
