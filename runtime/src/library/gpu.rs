//! What CUDA tells of the GPU that graphs run on.

use libloading::Library;

use super::LibraryError;

/// CUDA's runtime library, which ONNX Runtime's CUDA provider and TensorRT load too.
const CUDART: &str = if cfg!(windows) { "cudart64_13.dll" } else { "libcudart.so.13" };

/// Memory of a GPU that nobody has taken, bytes. `device` counts as it does for the providers: CUDA is asked,
/// not the driver's tools, which count in another order.
///
/// # Errors
/// [`LibraryError::Unavailable`] when CUDA is not there or does not tell.
pub fn free_memory(device: u32) -> Result<u64, LibraryError> {
    let unavailable = |reason| LibraryError::Unavailable { runtime: "CUDA", reason };
    let number = i32::try_from(device).map_err(|_| unavailable(format!("there is no GPU {device}")))?;
    // SAFETY: loading runs the initialisers of NVIDIA's library, the same that ONNX Runtime runs when it
    // loads it.
    let library = unsafe { Library::new(CUDART) };
    let library = library.map_err(|error| unavailable(format!("cannot load {CUDART}: {error}")))?;
    // SAFETY: `cuda_runtime_api.h` declares `cudaError_t cudaSetDevice(int)` and
    // `cudaError_t cudaMemGetInfo(size_t *, size_t *)`, of which the first changes this thread's device only;
    // an error is an enumeration of the size of an `int`. Both numbers outlive the call, and the library does
    // too.
    let (status, free) = unsafe {
        let set = library.get::<unsafe extern "C" fn(i32) -> i32>(b"cudaSetDevice\0");
        let ask = library.get::<unsafe extern "C" fn(*mut usize, *mut usize) -> i32>(b"cudaMemGetInfo\0");
        let missing = |error| unavailable(format!("{CUDART} is not CUDA's runtime: {error}"));
        let (set, ask) = (set.map_err(missing)?, ask.map_err(missing)?);
        let (mut free, mut total) = (0usize, 0usize);
        let status = match set(number) {
            0 => ask(&raw mut free, &raw mut total),
            failed => failed,
        };
        (status, free)
    };
    match status {
        0 => Ok(free as u64),
        _ => Err(unavailable(format!("error {status} when GPU {device} was asked for its free memory"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_can_be_asked_the_reason_is_said() {
        // A machine with CUDA has no GPU of this number.
        let error = free_memory(1 << 20).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("CUDA")), "{error:?}");
    }
}
