//! What a TensorRT plan is bound to: the GPU, its driver, TensorRT and ONNX Runtime.

use std::process::Command;

use super::super::gpu_libraries;
use crate::library::LibraryError;

/// The tool that comes with NVIDIA's driver.
const NVIDIA_SMI: &str = "nvidia-smi";

/// A machine as far as a plan depends on it: TensorRT loads a plan where all of this is the same.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Machine {
    /// The GPU's name, such as `Tesla T4`.
    pub gpu: String,
    /// Its compute capability, such as `7.5`.
    pub compute_capability: String,
    /// The driver's version.
    pub driver: String,
    /// TensorRT's version.
    pub tensorrt: String,
    /// ONNX Runtime's version.
    pub onnxruntime: String,
}

/// One line of what `nvidia-smi` says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gpu {
    name: String,
    compute_capability: String,
    driver: String,
}

impl Machine {
    /// Asks the driver and TensorRT.
    ///
    /// # Errors
    /// [`LibraryError::Unavailable`] when there is no GPU, no TensorRT, or GPUs of several kinds and no
    /// telling which one `device` is.
    pub fn detect(device: u32, onnxruntime: &str) -> Result<Self, LibraryError> {
        let unavailable = |reason| LibraryError::Unavailable { runtime: "TensorRT", reason };
        let by_bus = std::env::var("CUDA_DEVICE_ORDER").is_ok_and(|order| order == "PCI_BUS_ID")
            && std::env::var_os("CUDA_VISIBLE_DEVICES").is_none();
        let listed = list().map_err(unavailable)?;
        let gpu = choose(&listed, device, by_bus).map_err(unavailable)?;
        let tensorrt = gpu_libraries::tensorrt_version().map_err(unavailable)?;
        Ok(Self {
            gpu: gpu.name,
            compute_capability: gpu.compute_capability,
            driver: gpu.driver,
            tensorrt,
            onnxruntime: onnxruntime.to_owned(),
        })
    }

    /// The machine as a directory's name, such as
    /// `tesla-t4-sm75-driver580.95.05-tensorrt10.15.1-onnxruntime1.31.1`.
    pub fn slug(&self) -> String {
        let Self { gpu, compute_capability, driver, tensorrt, onnxruntime } = self;
        let text = format!(
            "{gpu}-sm{}-driver{driver}-tensorrt{tensorrt}-onnxruntime{onnxruntime}",
            compute_capability.replace('.', "")
        );
        let plain =
            |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
        text.chars().map(plain).collect()
    }

    /// What stands for [`Machine::slug`] where there is no GPU to ask.
    pub fn placeholder(onnxruntime: Option<&str>) -> String {
        format!(
            "<gpu>-sm<nn>-driver<version>-tensorrt<version>-onnxruntime{}",
            onnxruntime.unwrap_or("<version>")
        )
    }
}

/// Every GPU that the driver shows.
fn list() -> Result<Vec<Gpu>, String> {
    let advice = "expected an NVIDIA GPU with a driver of 580 or newer";
    let output = Command::new(NVIDIA_SMI)
        .args(["--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"])
        .output()
        .map_err(|error| format!("{advice}, and `{NVIDIA_SMI}` does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{advice}, and `{NVIDIA_SMI}` says: {}", text.trim()));
    }
    parse(&text).ok_or_else(|| format!("{advice}, and `{NVIDIA_SMI}` lists: {}", text.trim()))
}

/// Reads `Tesla T4, 7.5, 580.95.05`, a line per GPU; `None` where a line has another form or there is none.
fn parse(text: &str) -> Option<Vec<Gpu>> {
    let gpu = |line: &str| {
        let mut fields = line.rsplitn(3, ',').map(|field| field.trim().to_owned());
        let (driver, compute_capability, name) = (fields.next()?, fields.next()?, fields.next()?);
        let number = |text: &str| text.split('.').all(|part| part.parse::<u32>().is_ok());
        (number(&driver) && number(&compute_capability) && !name.is_empty()).then_some(Gpu {
            name,
            compute_capability,
            driver,
        })
    };
    let gpus: Option<Vec<_>> = text.lines().filter(|line| !line.trim().is_empty()).map(gpu).collect();
    gpus.filter(|gpus| !gpus.is_empty())
}

/// The GPU that CUDA calls `device`. `nvidia-smi` counts along the bus and CUDA from the fastest on, so where
/// they are not all alike, CUDA must have been told to count along the bus too.
fn choose(gpus: &[Gpu], device: u32, by_bus: bool) -> Result<Gpu, String> {
    let found = gpus.len();
    let gpu = gpus
        .get(device as usize)
        .ok_or_else(|| format!("expected a GPU number below {found}, found {device}"))?;
    if by_bus || gpus.iter().all(|other| other == gpu) {
        return Ok(gpu.clone());
    }
    let names: Vec<_> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
    Err(format!(
        "the GPUs differ ({}), so their order matters: set CUDA_DEVICE_ORDER=PCI_BUS_ID, leave CUDA_VISIBLE_DEVICES unset and \
         choose one by number",
        names.join(", ")
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_list_is_read_line_by_line() {
        let gpus = parse("Tesla T4, 7.5, 580.95.05\nNVIDIA H200, 9.0, 580.95.05\n").unwrap();
        assert_eq!(
            gpus[0],
            Gpu { name: "Tesla T4".into(), compute_capability: "7.5".into(), driver: "580.95.05".into() }
        );
        assert_eq!(gpus[1].name, "NVIDIA H200");
        for text in ["", "No devices were found", "Tesla T4, [N/A], 580.95.05"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn gpus_of_two_kinds_are_told_apart_by_the_bus_only() {
        let gpus = parse("Tesla T4, 7.5, 580.95.05\nNVIDIA L4, 8.9, 580.95.05").unwrap();
        assert!(choose(&gpus, 0, false).unwrap_err().contains("CUDA_DEVICE_ORDER"));
        assert_eq!(choose(&gpus, 1, true).unwrap().name, "NVIDIA L4");
        assert!(choose(&gpus, 2, true).unwrap_err().contains("below 2, found 2"));
        let twins = [gpus[0].clone(), gpus[0].clone()];
        assert_eq!(choose(&twins, 1, false).unwrap().name, "Tesla T4");
    }

    #[test]
    fn a_slug_names_all_that_a_plan_depends_on() {
        let machine = Machine {
            gpu: "Tesla T4".into(),
            compute_capability: "7.5".into(),
            driver: "580.95.05".into(),
            tensorrt: "10.15.1".into(),
            onnxruntime: "1.31.1".into(),
        };
        assert_eq!(machine.slug(), "tesla-t4-sm75-driver580.95.05-tensorrt10.15.1-onnxruntime1.31.1");
    }
}
