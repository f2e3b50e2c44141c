//! ONNX Runtime, loaded as a dynamic library through the `ort` crate.
//!
//! Inputs are views of the caller's memory and outputs stay in ONNX Runtime's: nothing is copied on the way
//! in or out. Every session has its own thread pool, which stops spinning when a run ends: seven graphs then
//! do not spin against each other. (One pool for the whole process looked better on paper and ran SAM-base at
//! half the speed.) Denormals are left alone: ONNX Runtime would flush them on its own threads only, and
//! results would then depend on which thread computed what. On a GPU, inputs and outputs are copied from and
//! to the host; the KV cache stays there (`kept.rs`).
//!
//! Opening the library and loading TensorRT's plans need each other: this file, `graph.rs` and `tensorrt/`
//! are one thought.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ::ort::LoadDynamicError;
use ::ort::environment::Environment;
use ::ort::session::Session;
use ::ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::{BundledGraph, CpuOptions, Graph, Kernels, Library, LibraryError, has_int8_products};
use graph::OrtGraph;

mod assignment;
mod blocks;
mod gpu_libraries;
mod graph;
mod kept;
mod linked;
mod locate;
#[cfg(target_arch = "x86_64")]
mod operators;
mod provider;
pub mod tensorrt;
mod values;

pub use provider::{Provider, ProviderOption, RELEASE, cuda_options};

const NAME: &str = "ONNX Runtime";

/// The oldest release that is taken: the one whose functions are called.
fn oldest() -> String {
    format!("1.{}", ::ort::MINOR_VERSION)
}

/// ONNX Runtime on one provider.
pub struct OrtLibrary {
    shared: Shared,
    provider: Provider,
    /// What TensorRT plans are bound to.
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

impl OrtLibrary {
    /// Finds and loads the library; `threads` counts the calling thread too, and 0 means one per physical
    /// core.
    ///
    /// The first call in a process decides the library.
    ///
    /// # Errors
    /// [`LibraryError::Unavailable`] when there is no library, it is too old, or the provider cannot be
    /// registered.
    pub fn open(threads: usize, provider: Provider) -> Result<Self, LibraryError> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = match &mut *shared {
            Some(shared) => shared,
            none => none.insert(load_library()?),
        };
        let mut runtime = Self { shared: shared.clone(), provider, machine: None, threads, profile: None };
        let builder = runtime
            .session(false)
            .map_err(|error| LibraryError::Unavailable { runtime: NAME, reason: error.to_string() })?;
        runtime.provider.check(&runtime.shared.path, &runtime.shared.version, builder)?;
        if let Provider::TensorRt(options) = &runtime.provider {
            runtime.machine = Some(tensorrt::Machine::detect(options.device, &runtime.shared.version)?);
        }
        Ok(runtime)
    }

    /// The same, which writes a profile of every graph into a directory.
    pub fn profiled(self, profile: Option<PathBuf>) -> Self {
        Self { profile, ..self }
    }

    /// Makes a session of a graph on the CPU or with CUDA. `bundled` is the graph, where it is one of a
    /// bundle's.
    fn load_graph(
        &self,
        name: &str,
        model: &Path,
        bundled: Option<&BundledGraph<'_>>,
    ) -> Result<Box<dyn Graph>, LibraryError> {
        let error = |reason: String| LibraryError::Load { graph: name.to_owned(), reason };
        let on_gpu = matches!(self.provider, Provider::Cuda(_));
        let mut mapped = linked::Mapped::default();
        let session = self
            .session(bundled.is_some_and(|graph| graph.dequantizes_blocks))
            .and_then(|builder| match bundled {
                Some(graph) => {
                    let (builder, files) = linked::hand_over(builder, graph.file)?;
                    mapped = files;
                    Ok(builder)
                }
                None => Ok(builder),
            })
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
            .and_then(|mut builder| match self.provider {
                Provider::Cpu(CpuOptions { kernels: Kernels::Own }) => {
                    first_alone(|| builder.commit_from_file(model))
                }
                _ => builder.commit_from_file(model),
            })
            .map_err(|reason| error(reason.to_string()))?;
        if on_gpu {
            let nodes = assignment::of(&session).map_err(|reason| error(reason.to_string()))?;
            assignment::check(&nodes).map_err(error)?;
        }
        mapped.forget_pages();
        Ok(Box::new(OrtGraph::new(name, session, mapped, tensorrt::Ranges::new(), &self.provider)?))
    }

    /// The version of ONNX Runtime.
    pub fn version(&self) -> &str {
        &self.shared.version
    }

    /// What TensorRT plans are bound to; `None` on other providers.
    pub fn machine(&self) -> Option<&tensorrt::Machine> {
        self.machine.as_ref()
    }

    /// Session options, without a provider: the CPU's. `dequantizes_blocks` is what it is of a
    /// [`BundledGraph`].
    fn session(&self, dequantizes_blocks: bool) -> Result<SessionBuilder, ::ort::Error> {
        Ok(Session::builder(&self.shared.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_memory_pattern(true)?
            .with_intra_threads(self.threads)?
            .with_config_entry("session.force_spinning_stop", "1")?
            // Our own passes say what is multiplied in 8 bits. ONNX Runtime 1.31's would make integer
            // products of fp8's rounded factors, which its own type check then refuses. Blocks of 4 bits need
            // them: without, their weights are unpacked for good when the graph is loaded.
            .with_config_entry("session.disable_quant_qdq", if dequantizes_blocks { "0" } else { "1" })?
            // What `MatMulNBits` multiplies such blocks with is not rounded to 8 bits (as 4, the default,
            // would have it).
            .with_config_entry("session.qdq_matmulnbits_accuracy_level", "1")?
            .with_config_entry("session.x64quantprecision", if has_int8_products() { "0" } else { "1" })?)
    }
}

/// Whether a session with our operators has been made.
static SESSION_MADE: Mutex<bool> = Mutex::new(false);

/// Makes a session with our operators; the process's first one while no other is made. ONNX Runtime enters
/// the domain of our operators into a table of the process with the first session that brings it, and takes
/// no lock between looking for it and entering it: two first ones would both try, and one fail.
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
fn load_library() -> Result<Shared, LibraryError> {
    let unavailable = |reason| LibraryError::Unavailable { runtime: NAME, reason };
    let advice = format!(
        "run `cargo xtask onnxruntime`, or set {} to the library (libonnxruntime.so.{RELEASE}.x) in the Python package \
         onnxruntime {RELEASE}; {} is the oldest that is taken",
        locate::VARIABLE,
        oldest()
    );
    let path = locate::find().map_err(|reason| unavailable(format!("{reason}; {advice}")))?;
    let builder = ::ort::init_from(&path).map_err(|error| {
        let reason = match error {
            LoadDynamicError::BadVersion { version_str, path } => {
                let path = path.display();
                format!("expected {RELEASE}, or {} at the least, found {version_str} at `{path}`", oldest())
            }
            other => other.to_string(),
        };
        unavailable(format!("{reason}; {advice}"))
    })?;
    let environment = builder.with_name("arrcoc").with_telemetry(false).build();
    let environment = environment.map_err(|error| unavailable(error.to_string()))?;
    Ok(Shared { environment, version: locate::version(&path), path })
}

impl Library for OrtLibrary {
    fn describe(&self) -> String {
        let version = &self.shared.version;
        match &self.machine {
            Some(machine) => format!("{NAME} {version}, TensorRT {} on {}", machine.tensorrt, machine.gpu),
            None => format!("{NAME} {version}, {}", self.provider.name()),
        }
    }

    fn load(&self, name: &str, model: &Path) -> Result<Box<dyn Graph>, LibraryError> {
        if self.machine.is_some() {
            return Err(LibraryError::Unsupported {
                runtime: "TensorRT",
                what: "graphs outside a bundle: its manifest says which lengths a plan takes",
            });
        }
        self.load_graph(name, model, None)
    }

    fn load_bundled(&self, graph: &BundledGraph<'_>) -> Result<Box<dyn Graph>, LibraryError> {
        let (Provider::TensorRt(options), Some(machine)) = (&self.provider, &self.machine) else {
            return self.load_graph(graph.name, &graph.file.path, Some(graph));
        };
        let ranges = tensorrt::ranges(&graph.file.axes, options.lengths);
        let place = tensorrt::PlanDir::of(graph, &ranges, options, &machine.slug());
        let session = tensorrt::load(self, graph, &place, options)?;
        let none = linked::Mapped::default();
        Ok(Box::new(OrtGraph::new(graph.name, session, none, ranges, &self.provider)?))
    }
}
