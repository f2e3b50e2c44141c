//! GPUs that plans are made for.

use std::fmt;

use serde::Serialize;

/// NVIDIA's compute capability, major times ten plus minor: 75 is sm_75.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ComputeCapability(
    /// The number behind `sm_`.
    pub u16,
);

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.0)
    }
}

/// A GPU by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the products' own; their facts are in `facts`")]
pub enum Device {
    T4,
    L4,
    #[value(name = "rtx4090")]
    Rtx4090,
    A10,
    #[value(name = "rtx5090")]
    Rtx5090,
    V100,
    L40s,
    A6000,
    A100,
    H100,
}

/// What planning needs to know of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Name as people write it.
    pub name: &'static str,
    /// Size class, GB, as it is sold.
    pub class_gb: u16,
    /// Memory that the driver offers, MiB. It is less than the class: GB are not GiB, and ECC takes its
    /// share.
    pub memory_mib: u64,
    /// Compute capability.
    pub compute: ComputeCapability,
}

impl Device {
    /// All of them, by class.
    pub const ALL: [Self; 10] = [
        Self::T4,
        Self::L4,
        Self::Rtx4090,
        Self::A10,
        Self::Rtx5090,
        Self::V100,
        Self::L40s,
        Self::A6000,
        Self::A100,
        Self::H100,
    ];

    /// Its facts: memory as `nvidia-smi` reports it in the factory setting of ECC, capability as
    /// <https://developer.nvidia.com/cuda-gpus> lists it.
    pub const fn facts(self) -> Facts {
        let (name, class_gb, memory_mib, compute) = match self {
            Self::T4 => ("T4", 16, 15_360, 75),
            Self::L4 => ("L4", 24, 23_034, 89),
            Self::Rtx4090 => ("RTX 4090", 24, 24_564, 89),
            Self::A10 => ("A10", 24, 23_028, 86),
            Self::Rtx5090 => ("RTX 5090", 32, 32_607, 120),
            Self::V100 => ("V100", 32, 32_510, 70),
            Self::L40s => ("L40S", 48, 46_068, 89),
            Self::A6000 => ("RTX A6000", 48, 49_140, 86),
            Self::A100 => ("A100", 80, 81_920, 80),
            Self::H100 => ("H100", 80, 81_559, 90),
        };
        Facts { name, class_gb, memory_mib, compute: ComputeCapability(compute) }
    }

    /// Memory that the driver offers, bytes.
    pub const fn memory(self) -> u64 {
        self.facts().memory_mib << 20
    }

    /// Compute capability.
    pub const fn compute(self) -> ComputeCapability {
        self.facts().compute
    }

    /// What to know before choosing this GPU at all.
    pub fn caveat(self) -> Option<&'static str> {
        // Seen in the wheel's fat binaries: sm_75, 80, 86, 89, 90 and 120, and no PTX to compile for others.
        (self.compute() < ComputeCapability(75)).then_some(
            "ONNX Runtime's released CUDA builds begin at sm_75; for an older GPU it must be built from source",
        )
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().name)
    }
}
