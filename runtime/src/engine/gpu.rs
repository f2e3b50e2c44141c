//! What NVIDIA's driver tells of its GPUs.

use std::process::Command;

use super::EngineError;

/// The tool that comes with the driver.
const NVIDIA_SMI: &str = "nvidia-smi";
/// What is wrong where it does not answer.
const ADVICE: &str = "expected an NVIDIA GPU with a driver of 580 or newer";

/// One line for each GPU, or for `only` one (its number along the bus, or its UUID), with these fields between commas
/// (`nvidia-smi --help-query-gpu`).
///
/// # Errors
/// What is missing, in words.
pub(super) fn query(fields: &str, only: Option<&str>) -> Result<String, String> {
    let mut smi = Command::new(NVIDIA_SMI);
    smi.arg(format!("--query-gpu={fields}")).arg("--format=csv,noheader,nounits");
    if let Some(gpu) = only {
        smi.args(["--id", gpu]);
    }
    let output =
        smi.output().map_err(|error| format!("{ADVICE}, and `{NVIDIA_SMI}` does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.success() && !text.is_empty() {
        true => Ok(text),
        false => Err(unexpected(&text)),
    }
}

/// The driver's answer is not what was asked for.
pub(super) fn unexpected(text: &str) -> String {
    format!("{ADVICE}, and `{NVIDIA_SMI}` says: {text}")
}

/// Memory of a GPU that nobody has taken, bytes. `device` counts as CUDA does: among those that `CUDA_VISIBLE_DEVICES` names, where it is set.
///
/// # Errors
/// [`EngineError::Unavailable`] when the driver does not tell.
pub fn free_memory(device: u32) -> Result<u64, EngineError> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let free = identifier(device, visible.as_deref())
        .and_then(|gpu| query("memory.free", Some(&gpu)))
        .and_then(|text| bytes(&text).ok_or_else(|| unexpected(&text)));
    free.map_err(|reason| EngineError::Unavailable { runtime: "the GPU's memory", reason })
}

/// How `nvidia-smi` calls CUDA's `device`.
fn identifier(device: u32, visible: Option<&str>) -> Result<String, String> {
    let Some(visible) = visible else { return Ok(device.to_string()) };
    let named = visible.split(',').map(str::trim).filter(|name| !name.is_empty()).nth(device as usize);
    named.map(str::to_owned).ok_or_else(|| {
        format!("expected a GPU of CUDA_VISIBLE_DEVICES=`{visible}`, found number {device} to be used")
    })
}

/// Reads a number of MiB.
fn bytes(text: &str) -> Option<u64> {
    text.parse::<u64>().ok()?.checked_mul(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_told_in_mebibytes() {
        assert_eq!(bytes("14913"), Some(14913 << 20));
        for text in ["", "[N/A]", "14913 MiB", "1\n2"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn cuda_counts_the_gpus_that_it_sees() {
        assert_eq!(identifier(1, None), Ok("1".to_owned()));
        assert_eq!(identifier(1, Some("3, GPU-8a4b")), Ok("GPU-8a4b".to_owned()));
        for visible in ["", "3"] {
            let error = identifier(1, Some(visible)).err();
            assert!(error.is_some_and(|error| error.contains("CUDA_VISIBLE_DEVICES")), "{visible}");
        }
    }
}
