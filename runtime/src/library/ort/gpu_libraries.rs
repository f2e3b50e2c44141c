//! The dynamic libraries that a GPU provider needs: which are missing, and which TensorRT it is.

use std::path::Path;

use libloading::Library;

/// The NVIDIA driver's own library, which no package brings along.
const DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// TensorRT and its ONNX parser.
const TENSORRT: [&str; 2] = if cfg!(windows) {
    ["nvinfer_10.dll", "nvonnxparser_10.dll"]
} else {
    ["libnvinfer.so.10", "libnvonnxparser.so.10"]
};

/// A provider that runs on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GpuProvider {
    /// CUDA's.
    Cuda,
    /// TensorRT's.
    TensorRt,
}

/// What of a provider's libraries the system does not find, by file name.
pub(super) fn missing(provider: GpuProvider, onnxruntime: &Path) -> Vec<String> {
    let (own, tensorrt): (&[&str], &[&str]) = match provider {
        GpuProvider::Cuda => (&["shared", "cuda"], &[]),
        GpuProvider::TensorRt => (&["shared", "tensorrt"], &TENSORRT),
    };
    let beside = onnxruntime.parent().unwrap_or(Path::new("."));
    let file = |part: &&str| {
        if cfg!(windows) {
            format!("onnxruntime_providers_{part}.dll")
        } else {
            format!("libonnxruntime_providers_{part}.so")
        }
    };
    let own = own.iter().map(file).filter(|name| !beside.join(name).is_file());
    let (cuda, cudnn) = (::ort::ep::cuda::CUDA_DYLIBS, &::ort::ep::cuda::CUDNN_DYLIBS[..1]);
    let system = [DRIVER].into_iter().chain(cuda.iter().chain(cudnn).chain(tensorrt).copied());
    own.chain(system.filter(|name| open(name).is_err()).map(str::to_owned)).collect()
}

/// The version of the TensorRT that the system finds, such as `10.15.1`.
///
/// # Errors
/// Why there is none.
pub(super) fn tensorrt_version() -> Result<String, String> {
    let library = open(TENSORRT[0]).map_err(|error| format!("cannot load {}: {error}", TENSORRT[0]))?;
    // SAFETY: `NvInferRuntime.h` declares `int32_t getInferLibVersion()`, which only returns a constant; the
    // library stays loaded until after the call.
    let code = unsafe {
        library
            .get::<unsafe extern "C" fn() -> i32>(b"getInferLibVersion\0")
            .map(|version| version())
            .map_err(|error| format!("{} is not TensorRT: {error}", TENSORRT[0]))?
    };
    Ok(version(code))
}

/// TensorRT 10 counts `10000 * major + 100 * minor + patch` (`NvInferVersion.h`).
fn version(code: i32) -> String {
    format!("{}.{}.{}", code / 10_000, code / 100 % 100, code % 100)
}

fn open(name: &str) -> Result<Library, libloading::Error> {
    // SAFETY: loading runs the initialisers of NVIDIA's libraries, the same that ONNX Runtime runs when it
    // loads them.
    unsafe { Library::new(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_tensorrt_writes_them() {
        assert_eq!(version(101_501), "10.15.1");
        assert_eq!(version(100_300), "10.3.0");
    }

    #[test]
    fn the_providers_own_libraries_lie_beside_onnx_runtime() {
        let nowhere = Path::new("nowhere").join("libonnxruntime.so");
        let missing_for = |provider| missing(provider, &nowhere).join(" ");
        let cuda = missing_for(GpuProvider::Cuda);
        assert!(cuda.contains("onnxruntime_providers_cuda") && !cuda.contains("tensorrt"), "{cuda}");
        let tensorrt = missing_for(GpuProvider::TensorRt);
        assert!(tensorrt.contains("onnxruntime_providers_tensorrt"), "{tensorrt}");
    }
}
