//! The contract with inference libraries: what one must do to run a bundle. One file per library beside this
//! one.
//!
//! A [`Library`] loads graphs; a [`Graph`] runs one. All that arrcoc knows of ONNX Runtime or tract stands
//! behind these two traits: a library is one file here, a provider of ONNX Runtime one below [`ort`], and
//! either a variant of [`LibraryKind`].

use std::path::Path;

use crate::tensor::{ElementType, Tensor};
use arrcoc_bundle::{Bundle, BundleError, GraphFile, Manifest, Precision};

use crate::error::LoadError;

mod blocks;
mod cancel;
pub(crate) mod error;
pub mod gpu;
mod kept;
mod kind;
pub mod options;
pub mod ort;
mod port;
#[cfg(test)]
mod tests;
pub mod tract;

pub use blocks::{Blocks, InLibrary, InPlaceMemory};
pub use cancel::Cancel;
pub use error::LibraryError;
pub use kept::{Kept, RunOutputs};
pub use kind::LibraryKind;
pub use options::{
    ArenaGrowth, CpuOptions, CudaOptions, DEFAULT_CONTEXT_LENGTH, Kernels, LibraryOptions, PlanLengths,
    TensorRtOptions,
};
pub use port::Axis;

/// An inference library, ready to load graphs.
pub trait Library: Send + Sync {
    /// The library's name and version, for logs and `arrcoc_engine_info`.
    fn describe(&self) -> String;

    /// Loads one ONNX file (its external data lies beside it).
    ///
    /// # Errors
    /// [`LibraryError::Load`] with the library's own reason.
    fn load(&self, name: &str, model: &Path) -> Result<Box<dyn Graph>, LibraryError>;

    /// Loads a graph of a bundle; a library that has plans compiled ahead of time finds them by what the
    /// bundle says.
    ///
    /// # Errors
    /// As [`Library::load`], and [`LibraryError::NoPlan`] where a plan is needed and not there.
    fn load_bundled(&self, graph: &BundledGraph<'_>) -> Result<Box<dyn Graph>, LibraryError> {
        self.load(graph.name, &graph.file.path)
    }
}

impl dyn Library + '_ {
    /// Loads a graph of a bundle by its name.
    ///
    /// # Errors
    /// [`LoadError`]: the bundle has no such graph, or the library's own error.
    pub fn load_from(&self, bundle: &Bundle, name: &str) -> Result<Box<dyn Graph>, LoadError> {
        Ok(self.load_bundled(&BundledGraph::of(bundle, name)?)?)
    }
}

/// A graph as its bundle describes it.
#[derive(Debug, Clone, Copy)]
pub struct BundledGraph<'a> {
    /// Name in the bundle.
    pub name: &'a str,
    /// The bundle's directory.
    pub bundle: &'a Path,
    /// The file, its hash and the ranges of its axes.
    pub file: &'a GraphFile,
    /// Digest of all the bundle's files: weights of one graph may lie with another.
    pub bundle_digest: [u8; 32],
    /// Whether products read weights in blocks of 4 bits behind a `DequantizeLinear`, which is to become one
    /// operator with them.
    pub dequantizes_blocks: bool,
}

impl<'a> BundledGraph<'a> {
    /// A graph with all that a library may want to know of it.
    ///
    /// # Errors
    /// [`BundleError::NoGraph`].
    pub fn of(bundle: &'a Bundle, name: &'a str) -> Result<Self, BundleError> {
        let Manifest { precision, target, .. } = *bundle.manifest();
        let dequantizes_blocks = precision == Precision::Int4 && target.dequantizes_blocks();
        let (bundle_digest, file) = (bundle.digest(), bundle.graph(name)?);
        Ok(Self { name, bundle: bundle.dir(), file, bundle_digest, dequantizes_blocks })
    }
}

/// A loaded graph. `run` takes `&mut self` because ONNX Runtime's sessions do.
pub trait Graph: Send {
    /// Runs the graph; returns every output in graph order.
    ///
    /// # Errors
    /// [`LibraryError::Run`] when an input is missing, of another shape or type, or the library fails.
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, LibraryError>;

    /// The same, but a run that `cancel` ends may fail early. A library that cannot end runs finishes them.
    ///
    /// # Errors
    /// As [`Self::run`].
    fn run_until(
        &mut self,
        inputs: &[(&str, Tensor)],
        _cancel: &Cancel,
    ) -> Result<Vec<(String, Tensor)>, LibraryError> {
        self.run(inputs)
    }

    /// Runs the graph with `in_place` pairs (an input and an output over the same memory, as the fused
    /// attention's KV cache is) bound to the caller's memory or to that of [`Self::blocks`]; returns the
    /// other outputs.
    ///
    /// # Errors
    /// [`LibraryError::Unsupported`] where the library cannot share memory between input and output.
    fn run_in_place(
        &mut self,
        inputs: &[(&str, Tensor)],
        in_place: &mut [InPlace<'_>],
    ) -> Result<Vec<(String, Tensor)>, LibraryError>;

    /// Memory for [`Self::run_in_place`] where the library computes: `count` blocks of `shape`, zeros at
    /// first. By default it is the host's.
    ///
    /// # Errors
    /// [`LibraryError::Tensor`] or [`LibraryError::Blocks`] where there is not as much.
    fn blocks(&self, element: ElementType, count: usize, shape: &[usize]) -> Result<Blocks, LibraryError> {
        Ok(Blocks::host(element, count, shape)?)
    }

    /// Runs the graph with inputs that earlier runs kept besides; the outputs called `keep` are kept in turn,
    /// in that order, and all others returned. Where a library computes on a GPU what is kept stays there; by
    /// default it is the host's.
    ///
    /// # Errors
    /// As [`Self::run`].
    fn run_keeping(
        &mut self,
        inputs: &[(&str, Tensor)],
        kept: &[(&str, Kept)],
        keep: &[&str],
    ) -> Result<RunOutputs, LibraryError> {
        let mut inputs = inputs.to_vec();
        for (name, kept) in kept {
            inputs.push((name, kept.to_host()?));
        }
        let mut returned = self.run(&inputs)?;
        let kept = keep.iter().map(|name| {
            let found = returned.iter().position(|(output, _)| output == name);
            found
                .map(|at| Kept::host(returned.swap_remove(at).1))
                .ok_or_else(|| LibraryError::NoOutput { output: (*name).to_owned() })
        });
        let kept = kept.collect::<Result<_, _>>()?;
        Ok(RunOutputs { returned, kept })
    }
}

/// One buffer that a graph reads as `input` and extends as `output`.
pub struct InPlace<'a> {
    /// Name of the graph input.
    pub input: &'a str,
    /// Name of the graph output.
    pub output: &'a str,
    /// Shape of both.
    pub shape: &'a [usize],
    /// Element type of both.
    pub element: ElementType,
    /// The memory.
    pub memory: InPlaceMemory<'a>,
}

/// Whether the CPU adds products of signed and unsigned bytes in 32 bits. Older x86 ones saturate at 16 bits
/// on the way, silently; ONNX Runtime then has to be asked for its exact and slower kernels
/// (`onnxruntime_session_options_config_keys.h`).
pub fn has_int8_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        true
    }
}
