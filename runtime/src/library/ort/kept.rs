//! Runs whose inputs and outputs may stay in a GPU's memory.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use ::ort::memory::{AllocationDevice, MemoryInfo};
use ::ort::session::Session;
use ::ort::value::{DynTensorValueType, DynValue, Value};

use super::values::{adopt, bind_inputs, failed, shape_of};
use crate::library::kept::LibraryMemory;
use crate::library::{Kept, LibraryError, RunOutputs};
use crate::tensor::Tensor;

/// An output in whatever memory the provider computes in.
struct OrtMemory(Value<DynTensorValueType>);

impl LibraryMemory for OrtMemory {
    fn to_host(&self) -> Result<Tensor, LibraryError> {
        let copied = self.0.to(AllocationDevice::CPU, 0).and_then(|value| adopt(value.into_dyn()));
        copied.map_err(|reason| failed("(an output kept on the device)", reason))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Runs a session; the outputs called `keep` stay in `memory`, all others come to the host.
pub(super) fn run_keeping(
    session: &mut Session,
    memory: &MemoryInfo,
    (outputs, keep): (&[String], &[&str]),
    inputs: &[(&str, Tensor)],
    kept: &[(&str, Kept)],
) -> Result<RunOutputs, ::ort::Error> {
    let mut binding = session.create_binding()?;
    // SAFETY: the caller's tensors outlive the binding, which dies with this function.
    unsafe { bind_inputs(&mut binding, session, inputs) }?;
    // What is of the host after all has to outlive the run.
    let mut hosted = Vec::new();
    for (name, kept) in kept {
        match kept.of_library::<OrtMemory>() {
            Some(memory) => binding.bind_input(*name, &memory.0)?,
            None => hosted.push((*name, kept.to_host().map_err(::ort::Error::wrap)?)),
        }
    }
    // SAFETY: as above, until `hosted` is dropped behind the run.
    unsafe { bind_inputs(&mut binding, session, &hosted) }?;
    let host = MemoryInfo::default();
    for name in outputs {
        let stays = keep.contains(&name.as_str());
        binding.bind_output_to_device(name.as_str(), if stays { memory } else { &host })?;
    }
    let mut made: HashMap<String, DynValue> =
        session.run_binding(&binding)?.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    drop(hosted);
    let kept = keep.iter().map(|name| {
        let value =
            made.remove(*name).ok_or_else(|| ::ort::Error::new(format!("expected an output `{name}`")))?;
        let value = value.downcast::<DynTensorValueType>()?;
        let (element, shape) = shape_of(&value)?;
        Ok(Kept::library(element, &shape, Arc::new(OrtMemory(value))))
    });
    let kept = kept.collect::<Result<_, ::ort::Error>>()?;
    let returned = made.into_iter().map(|(name, value)| Ok((name, adopt(value)?)));
    Ok(RunOutputs { returned: returned.collect::<Result<_, ::ort::Error>>()?, kept })
}
