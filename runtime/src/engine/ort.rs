//! ONNX Runtime, loaded as a dynamic library through the `ort` crate.
//!
//! Inputs are views of the caller's memory and outputs stay in ONNX Runtime's: nothing is copied on the way in or out.
//! Every session has its own thread pool, which stops spinning when a run ends: seven graphs then do not spin against each
//! other. (One pool for the whole process looked better on paper and ran SAM-base at half the speed.) Denormals are left
//! alone: ONNX Runtime would flush them on its own threads only, and results would then depend on which thread computed what.
//! On a GPU, inputs and outputs are copied from and to the host, the KV cache with every step.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use ::ort::environment::Environment;
use ::ort::memory::MemoryInfo;
use ::ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ::ort::session::{Session, SessionInputValue};
use ::ort::value::{DynTensorValueType, DynValue, Outlet, TensorElementType, Value, ValueType};
use ::ort::{AsPointer as _, LoadDynamicError};

use super::port::{Axis, Offer, Port, check, check_ranges};
use super::{BundledGraph, EngineError, Graph, InPlace, Kept, RunOutputs, Runtime, has_int8_products};
use crate::tensor::{ElementType, Tensor, TensorBytes};

mod assignment;
mod kept;
mod libraries;
mod library;
#[cfg(target_arch = "x86_64")]
mod operators;
mod provider;
pub mod tensorrt;

pub use provider::{Provider, ProviderOption, cuda_options};

const NAME: &str = "ONNX Runtime";

/// ONNX Runtime on one provider.
pub struct OrtRuntime {
    shared: Shared,
    provider: Provider,
    /// What TensorRT's engines are bound to.
    machine: Option<tensorrt::Machine>,
    /// Threads per session, the calling one among them; 0 leaves it to the library.
    threads: usize,
    /// Where profiles go.
    profile: Option<PathBuf>,
}

/// What all runtimes of the process share, since ONNX Runtime has one environment per process.
#[derive(Clone)]
struct Shared {
    environment: Environment,
    /// The library's version, or its build where the file name tells none.
    version: String,
    /// The library's file.
    path: PathBuf,
}

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

impl OrtRuntime {
    /// Finds and loads the library; `threads` counts the calling thread too, and 0 means one per physical core.
    ///
    /// The first call in a process decides the library.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when there is no library, it is too old, or the provider cannot be registered.
    pub fn open(threads: usize, provider: Provider) -> Result<Self, EngineError> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = match &mut *shared {
            Some(shared) => shared,
            none => none.insert(load_library()?),
        };
        let mut runtime = Self { shared: shared.clone(), provider, machine: None, threads, profile: None };
        let builder = runtime
            .session(false)
            .map_err(|error| EngineError::Unavailable { runtime: NAME, reason: error.to_string() })?;
        runtime.provider.check(&runtime.shared, builder)?;
        if let Provider::TensorRt(options) = &runtime.provider {
            runtime.machine = Some(tensorrt::Machine::detect(options.device, &runtime.shared.version)?);
        }
        Ok(runtime)
    }

    /// The same, which writes a profile of every graph into a directory.
    pub fn profiled(self, profile: Option<PathBuf>) -> Self {
        Self { profile, ..self }
    }

    /// Makes a session of a graph on the CPU or with CUDA.
    fn load_graph(
        &self,
        name: &str,
        model: &Path,
        dequantizes_blocks: bool,
    ) -> Result<Box<dyn Graph>, EngineError> {
        let error = |reason: String| EngineError::Load { graph: name.to_owned(), reason };
        let on_gpu = matches!(self.provider, Provider::Cuda(_));
        let session = self
            .session(dequantizes_blocks)
            .and_then(|builder| self.provider.register(builder, &[]))
            .and_then(|builder| {
                Ok(builder.with_config_entry(assignment::RECORD, if on_gpu { "1" } else { "0" })?)
            })
            .and_then(|builder| match &self.profile {
                Some(directory) => {
                    std::fs::create_dir_all(directory).map_err(::ort::Error::wrap)?;
                    Ok(builder.with_profiling(directory.join(name))?)
                }
                None => Ok(builder),
            })
            .and_then(|mut builder| first_alone(|| builder.commit_from_file(model)))
            .map_err(|reason| error(reason.to_string()))?;
        if on_gpu {
            let nodes = assignment::of(&session).map_err(|reason| error(reason.to_string()))?;
            assignment::check(&nodes).map_err(error)?;
        }
        Ok(Box::new(OrtGraph::new(name, session, tensorrt::Ranges::new(), &self.provider)?))
    }

    /// The version of ONNX Runtime.
    pub fn version(&self) -> &str {
        &self.shared.version
    }

    /// What TensorRT's engines are bound to; `None` on other providers.
    pub fn machine(&self) -> Option<&tensorrt::Machine> {
        self.machine.as_ref()
    }

    /// Session options, without a provider: the CPU's. `dequantizes_blocks` is what it is of a [`BundledGraph`].
    fn session(&self, dequantizes_blocks: bool) -> Result<SessionBuilder, ::ort::Error> {
        Ok(Session::builder(&self.shared.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_memory_pattern(true)?
            .with_intra_threads(self.threads)?
            .with_config_entry("session.force_spinning_stop", "1")?
            // Our own passes say what is multiplied in 8 bits. ONNX Runtime 1.31's would make integer products of fp8's rounded factors, which its
            // own type check then refuses. Blocks of 4 bits need them: without, their weights are unpacked for good when the graph is loaded.
            .with_config_entry("session.disable_quant_qdq", if dequantizes_blocks { "0" } else { "1" })?
            // What `MatMulNBits` multiplies such blocks with is not rounded to 8 bits (as 4, the default, would have it).
            .with_config_entry("session.qdq_matmulnbits_accuracy_level", "1")?
            .with_config_entry("session.x64quantprecision", if has_int8_products() { "0" } else { "1" })?)
    }
}

/// Whether a session has been made.
static SESSION_MADE: Mutex<bool> = Mutex::new(false);

/// Makes a session; the process's first one while no other is made. ONNX Runtime enters the domain of our operators into a table of the process
/// with the first session that brings it, and takes no lock between looking for it and entering it: two first ones would both try, and one fail.
fn first_alone<T>(make: impl FnOnce() -> Result<T, ::ort::Error>) -> Result<T, ::ort::Error> {
    let mut made = SESSION_MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if *made {
        drop(made);
        return make();
    }
    let session = make()?;
    *made = true;
    Ok(session)
}

/// Finds and loads the library and makes the environment.
fn load_library() -> Result<Shared, EngineError> {
    let unavailable = |reason| EngineError::Unavailable { runtime: NAME, reason };
    let advice = format!(
        "run `cargo xtask onnxruntime`, or set {} to the library of onnxruntime 1.{} or newer",
        library::VARIABLE,
        ::ort::MINOR_VERSION
    );
    let path = library::find().map_err(|reason| unavailable(format!("{reason}; {advice}")))?;
    let builder = ::ort::init_from(&path).map_err(|error| {
        let reason = match error {
            LoadDynamicError::BadVersion { version_str, path } => {
                let path = path.display();
                format!("expected 1.{} or newer, found {version_str} at `{path}`", ::ort::MINOR_VERSION)
            }
            other => other.to_string(),
        };
        unavailable(format!("{reason}; {advice}"))
    })?;
    let environment = builder.with_name("arrcoc").with_telemetry(false).build();
    let environment = environment.map_err(|error| unavailable(error.to_string()))?;
    Ok(Shared { environment, version: library::version(&path), path })
}

impl Runtime for OrtRuntime {
    fn describe(&self) -> String {
        let version = &self.shared.version;
        match &self.machine {
            Some(machine) => format!("{NAME} {version}, TensorRT {} on {}", machine.tensorrt, machine.gpu),
            None => format!("{NAME} {version}, {}", self.provider.name()),
        }
    }

    fn load(&self, name: &str, model: &Path) -> Result<Box<dyn Graph>, EngineError> {
        if self.machine.is_some() {
            return Err(EngineError::Unsupported {
                runtime: "TensorRT",
                what: "graphs outside a bundle: its manifest says which lengths an engine takes",
            });
        }
        self.load_graph(name, model, false)
    }

    fn load_bundled(&self, graph: &BundledGraph<'_>) -> Result<Box<dyn Graph>, EngineError> {
        let (Provider::TensorRt(options), Some(machine)) = (&self.provider, &self.machine) else {
            return self.load_graph(graph.name, &graph.file.path, graph.dequantizes_blocks);
        };
        let ranges = tensorrt::ranges(&graph.file.axes, options.workload);
        let place = tensorrt::Place::of(graph, &ranges, options, &machine.slug());
        let session = tensorrt::load(self, graph, &place, options)?;
        Ok(Box::new(OrtGraph::new(graph.name, session, ranges, &self.provider)?))
    }
}

/// A session.
struct OrtGraph {
    name: String,
    session: Session,
    inputs: Vec<Port>,
    outputs: Vec<String>,
    /// Lengths that the engine was built for; empty where any will do.
    ranges: tensorrt::Ranges,
    /// Where outputs stay that only a later run reads.
    memory: MemoryInfo<'static>,
}

impl OrtGraph {
    fn new(
        name: &str,
        session: Session,
        ranges: tensorrt::Ranges,
        provider: &Provider,
    ) -> Result<Self, EngineError> {
        let error = |reason| EngineError::Load { graph: name.to_owned(), reason };
        let memory = provider.memory().map_err(|reason| error(reason.to_string()))?;
        let inputs = session.inputs().iter().map(port).collect::<Result<_, _>>().map_err(error)?;
        let outputs = session.outputs().iter().map(|outlet| outlet.name().to_owned()).collect();
        Ok(Self { name: name.to_owned(), session, inputs, outputs, ranges, memory })
    }
}

impl Graph for OrtGraph {
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, EngineError> {
        let offers: Vec<_> = inputs.iter().map(|(name, tensor)| Offer::new(name, tensor)).collect();
        check(&self.name, &self.inputs, &offers)?;
        check_ranges(&self.name, &self.inputs, &offers, &self.ranges)?;
        run(&mut self.session, inputs).map_err(|reason| failed(&self.name, reason))
    }

    fn run_keeping(
        &mut self,
        inputs: &[(&str, Tensor)],
        kept: &[(&str, Kept)],
        keep: &[&str],
    ) -> Result<RunOutputs, EngineError> {
        let mut offers: Vec<_> = inputs.iter().map(|(name, tensor)| Offer::new(name, tensor)).collect();
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

    fn run_in_place(
        &mut self,
        inputs: &[(&str, Tensor)],
        in_place: &mut [InPlace<'_>],
    ) -> Result<Vec<(String, Tensor)>, EngineError> {
        let mut offers: Vec<_> = inputs.iter().map(|(name, tensor)| Offer::new(name, tensor)).collect();
        for buffer in in_place.iter() {
            offers.push(Offer { name: buffer.input, element: buffer.element, shape: buffer.shape });
            check_buffer(&self.name, &self.outputs, buffer)?;
        }
        check(&self.name, &self.inputs, &offers)?;
        run_bound(&mut self.session, &self.outputs, inputs, in_place)
            .map_err(|reason| failed(&self.name, reason))
    }
}

fn failed(graph: &str, reason: impl ToString) -> EngineError {
    EngineError::Run { graph: graph.to_owned(), reason: reason.to_string() }
}

/// The buffer has the size that its shape needs, its alignment, and an output to go with it.
fn check_buffer(graph: &str, outputs: &[String], buffer: &InPlace<'_>) -> Result<(), EngineError> {
    let InPlace { input, output, shape, element, bytes } = buffer;
    if !outputs.iter().any(|name| name == output) {
        return Err(failed(graph, format!("there is no output `{output}`; expected {}", outputs.join(", "))));
    }
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

fn run(session: &mut Session, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, ::ort::Error> {
    let values = inputs
        .iter()
        .map(|(name, tensor)| {
            // SAFETY: `inputs` outlives the run, ONNX Runtime only reads inputs, and the values die with this function.
            let value = unsafe { view(tensor.bytes().as_ptr(), tensor.element(), tensor.shape(), session) }?;
            Ok((Cow::Borrowed(*name), SessionInputValue::Owned(value)))
        })
        .collect::<Result<Vec<_>, ::ort::Error>>()?;
    let outputs = session.run(values)?;
    outputs.into_iter().map(|(name, value)| Ok((name.to_owned(), adopt(value)?))).collect()
}

fn run_bound(
    session: &mut Session,
    outputs: &[String],
    inputs: &[(&str, Tensor)],
    in_place: &mut [InPlace<'_>],
) -> Result<Vec<(String, Tensor)>, ::ort::Error> {
    let mut binding = session.create_binding()?;
    for (name, tensor) in inputs {
        // SAFETY: as in `run`; the binding dies with this function.
        let value = unsafe { view(tensor.bytes().as_ptr(), tensor.element(), tensor.shape(), session) }?;
        binding.bind_input(*name, &value)?;
    }
    for buffer in in_place.iter_mut() {
        let data = buffer.bytes.as_mut_ptr();
        // SAFETY: the memory is borrowed mutably until this function returns, `check_buffer` compared its size, and the
        // two values over it are what the operator asks for: it reads the past and writes behind it.
        let (input, output) = unsafe {
            (
                view(data, buffer.element, buffer.shape, session)?,
                view(data, buffer.element, buffer.shape, session)?,
            )
        };
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

/// A value over memory that stays the caller's. (`ort`'s own borrowed tensors are copied when they are bound.)
///
/// # Safety
/// `data` must hold a tensor of that type and shape, outlive the value and every binding that it is put into, and be
/// writable wherever the value is bound as an output.
unsafe fn view(
    data: *const u8,
    element: ElementType,
    shape: &[usize],
    session: &Session,
) -> Result<DynValue, ::ort::Error> {
    let memory = MemoryInfo::default();
    let bytes = shape.iter().product::<usize>() * element.size();
    // Lengths of memory that exists fit an `i64`.
    let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
    let mut value = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call; the caller vouches for `data`.
    unsafe {
        let status = (::ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            data.cast_mut().cast(),
            bytes,
            shape.as_ptr(),
            shape.len(),
            to_ort(element).into(),
            &raw mut value,
        );
        ::ort::Error::result_from_status(status)?;
    }
    let value = NonNull::new(value).ok_or_else(|| ::ort::Error::new("no value was created"))?;
    // SAFETY: the value was just created and is owned by nobody else.
    Ok(unsafe { Value::from_ptr(value, Some(session.allocator())) })
}

/// Takes over an output: the tensor keeps ONNX Runtime's memory alive.
fn adopt(value: DynValue) -> Result<Tensor, ::ort::Error> {
    let value = value.downcast::<DynTensorValueType>()?;
    if !value.memory_info().is_cpu_accessible() {
        return Err(::ort::Error::new("an output was left in the GPU's memory"));
    }
    let (element, shape) = shape_of(&value)?;
    let len = shape.iter().product::<usize>() * element.size();
    Tensor::from_bytes(element, &shape, Arc::new(OrtBytes { value, len })).map_err(::ort::Error::wrap)
}

fn shape_of(value: &Value<DynTensorValueType>) -> Result<(ElementType, Vec<usize>), ::ort::Error> {
    let element = from_ort(*value.data_type())
        .ok_or_else(|| ::ort::Error::new(format!("an output has elements of type {}", value.data_type())))?;
    Ok((element, value.shape().iter().map(|&length| length.unsigned_abs() as usize).collect()))
}

/// Memory that ONNX Runtime allocated for an output.
struct OrtBytes {
    value: Value<DynTensorValueType>,
    len: usize,
}

// SAFETY: the value is private, and ONNX Runtime does not write to an output after the run that made it.
unsafe impl TensorBytes for OrtBytes {
    fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            // ONNX Runtime may give no memory at all for an empty tensor.
            return &[];
        }
        // SAFETY: the value is on the CPU, holds `len` bytes, is never written again and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.value.data_ptr().cast(), self.len) }
    }
}

/// What an input asks for.
fn port(outlet: &Outlet) -> Result<Port, String> {
    let name = outlet.name().to_owned();
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
        return Err(format!("input `{name}`: expected a tensor, found {}", outlet.dtype()));
    };
    let element = from_ort(*ty).ok_or_else(|| format!("input `{name}` has elements of type {ty}"))?;
    let axis = |(&length, symbol): (&i64, &String)| match usize::try_from(length) {
        Ok(length) => Axis::Fixed(length),
        Err(_) => Axis::Named(symbol.clone()),
    };
    let shape = shape.iter().zip(dimension_symbols.iter()).map(axis).collect();
    Ok(Port { name, element, shape })
}

fn to_ort(element: ElementType) -> TensorElementType {
    match element {
        ElementType::F32 => TensorElementType::Float32,
        ElementType::F16 => TensorElementType::Float16,
        ElementType::I64 => TensorElementType::Int64,
        ElementType::I32 => TensorElementType::Int32,
    }
}

fn from_ort(element: TensorElementType) -> Option<ElementType> {
    match element {
        TensorElementType::Float32 => Some(ElementType::F32),
        TensorElementType::Float16 => Some(ElementType::F16),
        TensorElementType::Int64 => Some(ElementType::I64),
        TensorElementType::Int32 => Some(ElementType::I32),
        _ => None,
    }
}
