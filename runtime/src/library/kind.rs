//! Which inference libraries there are, for configurations and whoever loads a model.

use arrcoc_bundle::{Precision, Target};

use super::{Library, LibraryError, LibraryOptions, ort, tract};

/// Which inference library runs the graphs, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LibraryKind {
    /// ONNX Runtime on the CPU, loaded as a dynamic library.
    Ort,
    /// ONNX Runtime with its CUDA provider; `cuda` and `portable` bundles.
    Cuda,
    /// ONNX Runtime with its TensorRT provider, on plans that `arrcoc-export compile` made; `portable`
    /// bundles.
    TensorRt,
    /// tract, in pure Rust; `portable` bundles only.
    Tract,
}

impl LibraryKind {
    /// Makes the library ready. `threads` counts the calling thread too; with 0 the library chooses.
    ///
    /// # Errors
    /// [`LibraryError::Unavailable`] when the library is not to be had.
    pub fn open(self, threads: usize) -> Result<Box<dyn Library>, LibraryError> {
        self.open_with(&LibraryOptions { threads, ..LibraryOptions::default() })
    }

    /// As [`LibraryKind::open`], with everything that can be set; a library ignores what concerns another.
    ///
    /// # Errors
    /// [`LibraryError::Unavailable`] when the library, or one that it needs for the GPU, is not to be had.
    pub fn open_with(self, options: &LibraryOptions) -> Result<Box<dyn Library>, LibraryError> {
        let provider = match self {
            Self::Ort => ort::Provider::Cpu(options.cpu),
            Self::Cuda => ort::Provider::Cuda(options.cuda),
            Self::TensorRt => ort::Provider::TensorRt(options.tensorrt.clone()),
            Self::Tract => return Ok(Box::new(tract::TractLibrary::default())),
        };
        let runtime = ort::OrtLibrary::open(options.threads, provider)?;
        Ok(Box::new(runtime.profiled(options.profile.clone())))
    }

    /// Whether it runs bundles of a target and a precision.
    pub fn runs(self, target: Target, precision: Precision) -> bool {
        match self {
            Self::Ort => true,
            // Its attention over a shared cache has 16-bit floats only.
            Self::Cuda if target.shares_cache() => {
                !target.has_own_operators() && precision != Precision::Fp32
            }
            Self::Cuda | Self::TensorRt | Self::Tract => target.is_standard(),
        }
    }

    /// Whether it runs graphs on a GPU.
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt)
    }

    /// The library's name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ort => "ort",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::Tract => "tract",
        }
    }
}
