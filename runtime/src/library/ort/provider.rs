//! Where ONNX Runtime runs graphs, and what it takes to get there.
//!
//! A provider is tried when the runtime is opened: what is missing is named then, and nothing runs on the CPU
//! because a GPU was not to be had.

use std::path::Path;

use ::ort::ep::{ArbitrarilyConfigurableExecutionProvider as _, ExecutionProvider as _};
use ::ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ::ort::session::builder::SessionBuilder;

use super::gpu_libraries::{self, GpuProvider};
use super::locate::VARIABLE;
#[cfg(target_arch = "x86_64")]
use crate::library::Kernels;
use crate::library::{ArenaGrowth, CpuOptions, CudaOptions, LibraryError, TensorRtOptions};

/// The release that all of this was tried with, and the one to install; the library's own `oldest` says what
/// else is taken.
pub const RELEASE: &str = "1.31";

/// What fits this release of ONNX Runtime, as its release on PyPI links it.
fn versions() -> String {
    format!(
        "ONNX Runtime {RELEASE} goes with CUDA 13, cuDNN 9, TensorRT 10 (10.13 or newer, not 11) and a driver of 580 or newer"
    )
}

/// An option of a provider: its documented key, and the value as text.
pub type ProviderOption = (&'static str, String);

/// What runs the graphs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// The CPU.
    Cpu(CpuOptions),
    /// The CUDA provider; operators on shapes alone run on the CPU, as it wants them to.
    Cuda(CudaOptions),
    /// The TensorRT provider, on plans compiled ahead of time, and nothing beside it.
    TensorRt(TensorRtOptions),
}

impl Provider {
    /// The provider's name for people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "CPU",
            Self::Cuda(_) => "CUDA",
            Self::TensorRt(_) => "TensorRT",
        }
    }

    /// Where it computes, and leaves what is not to come to the host.
    pub(super) fn memory(&self) -> Result<MemoryInfo<'static>, ::ort::Error> {
        let device = match self {
            Self::Cpu(_) => return Ok(MemoryInfo::default()),
            Self::Cuda(CudaOptions { device, .. }) | Self::TensorRt(TensorRtOptions { device, .. }) => {
                *device
            }
        };
        let device = i32::try_from(device).map_err(::ort::Error::wrap)?;
        MemoryInfo::new(AllocationDevice::CUDA, device, AllocatorType::Device, MemoryType::Default)
    }

    /// Registers the provider once, to see whether it can be.
    ///
    /// # Errors
    /// [`LibraryError::Unavailable`] with the reason, the libraries that are missing and the versions that
    /// fit.
    pub(super) fn check(
        &self,
        onnxruntime: &Path,
        version: &str,
        builder: SessionBuilder,
    ) -> Result<(), LibraryError> {
        let (built_in, runtime, gpu) = match self {
            Self::Cpu(_) => return Ok(()),
            Self::Cuda(_) => (::ort::ep::CUDA::is_available(), "ONNX Runtime on CUDA", GpuProvider::Cuda),
            Self::TensorRt(_) => {
                (::ort::ep::TensorRT::is_available(), "ONNX Runtime on TensorRT", GpuProvider::TensorRt)
            }
        };
        let unavailable = |reason| LibraryError::Unavailable { runtime, reason };
        if !built_in.map_err(|error| unavailable(error.to_string()))? {
            return Err(unavailable(not_built_in(self.name(), onnxruntime, version)));
        }
        match self.register(builder, &[]) {
            Ok(_) => Ok(()),
            Err(error) => {
                let missing = gpu_libraries::missing(gpu, onnxruntime);
                Err(unavailable(explain(&error.to_string(), &missing)))
            }
        }
    }

    /// Registers the provider with its own options and `more`, on the CPU our own operators; a failure is an
    /// error, never another provider.
    pub(super) fn register(
        &self,
        builder: SessionBuilder,
        more: &[ProviderOption],
    ) -> Result<SessionBuilder, ::ort::Error> {
        let provider = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Cpu(CpuOptions { kernels: Kernels::Own }) => return super::operators::register(builder),
            Self::Cpu(_) => return Ok(builder),
            Self::Cuda(options) => cuda_options(options)
                .into_iter()
                .chain(more.iter().cloned())
                .fold(::ort::ep::CUDA::default(), |provider, (key, value)| {
                    provider.with_arbitrary_config(key, value)
                })
                .build(),
            Self::TensorRt(options) => more
                .iter()
                .cloned()
                .fold(
                    ::ort::ep::TensorRT::default().with_arbitrary_config("device_id", options.device),
                    |provider, (key, value)| provider.with_arbitrary_config(key, value),
                )
                .build(),
        };
        Ok(builder.with_execution_providers([provider.error_on_failure()])?)
    }
}

/// The CUDA provider's options, as it takes them.
pub fn cuda_options(options: &CudaOptions) -> Vec<ProviderOption> {
    let growth = match options.arena_growth {
        ArenaGrowth::Requested => "kSameAsRequested",
        ArenaGrowth::Doubling => "kNextPowerOfTwo",
    };
    let mut list = vec![
        ("device_id", options.device.to_string()),
        ("arena_extend_strategy", growth.to_owned()),
        // The exhaustive search would try every algorithm at each new shape, while a request waits.
        ("cudnn_conv_algo_search", "HEURISTIC".to_owned()),
        // An fp32 bundle is computed in fp32: TensorFloat-32 keeps ten bits of a mantissa.
        ("use_tf32", "0".to_owned()),
    ];
    if let Some(limit) = options.arena_limit {
        list.push(("gpu_mem_limit", limit.to_string()));
    }
    list
}

fn not_built_in(provider: &str, library: &Path, version: &str) -> String {
    format!(
        "expected an ONNX Runtime with the {provider} provider, found {version} at `{}`, which was built without it, as the \
         package `onnxruntime` is; install `onnxruntime-gpu` {RELEASE} and set {VARIABLE} to its libonnxruntime.so. {}",
        library.display(),
        versions()
    )
}

fn explain(reason: &str, missing: &[String]) -> String {
    let missing = match missing {
        // What is there may still be of another version, or the driver too old.
        [] => "every library that it names is there, so compare versions".to_owned(),
        missing => format!("the system does not find {}", missing.join(", ")),
    };
    format!("{reason}; {missing}. {}; libraries of pip packages must be on LD_LIBRARY_PATH", versions())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arena_is_limited_only_where_asked() {
        let found = |options| cuda_options(&options).into_iter().map(|(key, value)| format!("{key}={value}"));
        let plain: Vec<_> = found(CudaOptions::default()).collect();
        assert_eq!(plain[..2], ["device_id=0", "arena_extend_strategy=kSameAsRequested"]);
        assert!(!plain.iter().any(|option| option.starts_with("gpu_mem_limit")), "{plain:?}");
        let options =
            CudaOptions { device: 1, arena_limit: Some(1 << 30), arena_growth: ArenaGrowth::Doubling };
        let limited: Vec<_> = found(options).collect();
        for option in ["device_id=1", "arena_extend_strategy=kNextPowerOfTwo", "gpu_mem_limit=1073741824"] {
            assert!(limited.iter().any(|found| found == option), "{option}: {limited:?}");
        }
    }

    /// The guide, the program that fetches the library and every message name one release.
    #[test]
    fn one_release_is_named_everywhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let message = not_built_in("CUDA", Path::new("x"), "1.31.1");
        assert!(message.contains(&format!("`onnxruntime-gpu` {RELEASE}")), "{message}");
        assert!(read("xtask/src/onnxruntime.rs").contains(&format!("VERSION: &str = \"{RELEASE}.")));
        let guide = read("docs/user-guide.md");
        for part in [format!("onnxruntime-gpu=={RELEASE}."), format!("onnxruntime=={RELEASE}.")] {
            assert!(guide.contains(&part), "the guide does not say {part}");
        }
    }

    #[test]
    fn a_failure_names_what_is_missing_and_what_fits() {
        let text =
            explain("Failed to load shared library", &["libcudnn.so.9".into(), "libnvinfer.so.10".into()]);
        for part in ["Failed to load", "does not find libcudnn.so.9, libnvinfer.so.10", "cuDNN 9", "580"] {
            assert!(text.contains(part), "`{part}` is missing in: {text}");
        }
        assert!(explain("x", &[]).contains("compare versions"));
    }
}
