//! How an inference library is to run: what a configuration may set of it.

use std::path::PathBuf;

/// Longest prompt plus answer where neither the user nor a smaller model says otherwise, tokens.
pub const DEFAULT_CONTEXT_LENGTH: usize = 4096;

/// Everything that can be set of a library.
#[derive(Debug, Clone, Default)]
pub struct LibraryOptions {
    /// Threads per session, the calling one among them; 0 leaves it to the library.
    pub threads: usize,
    /// ONNX Runtime on the CPU.
    pub cpu: CpuOptions,
    /// The CUDA provider.
    pub cuda: CudaOptions,
    /// The TensorRT provider.
    pub tensorrt: TensorRtOptions,
    /// Directory for ONNX Runtime's profiles: a file for each graph, with the time of every operator of every
    /// run, for chrome://tracing or <https://ui.perfetto.dev>. Costs a little time and grows while the graph
    /// is loaded.
    pub profile: Option<PathBuf>,
}

/// Options of ONNX Runtime on the CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Who computes linear layers in 8 and 4 bits, the encoders' attention behind them, and the decoder's.
    pub kernels: Kernels,
}

/// Who computes what there are kernels of our own for (`arrcoc-kernels`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernels {
    /// Those, where the CPU has the instructions; else ONNX Runtime.
    #[default]
    Own,
    /// ONNX Runtime's operators, on every CPU.
    Library,
}

/// The CUDA provider's options
/// (<https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html>).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Number of the GPU, as CUDA counts.
    pub device: u32,
    /// Most memory that the arena of one graph may take, bytes (`gpu_mem_limit`); `None` sets no limit. Every
    /// graph is a session with an arena of its own, and workspaces of cuBLAS and cuDNN come on top.
    pub arena_limit: Option<usize>,
    /// How an arena grows.
    pub arena_growth: ArenaGrowth,
}

/// How an arena on the GPU grows (`arena_extend_strategy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ArenaGrowth {
    /// By what was asked for: seven graphs share the GPU, and none may hold what it does not use.
    #[default]
    Requested,
    /// By powers of two: fewer allocations, and up to twice the memory.
    Doubling,
}

/// The TensorRT provider's options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorRtOptions {
    /// Number of the GPU, as CUDA counts.
    pub device: u32,
    /// Where plans lie; `None` for [`crate::library::ort::tensorrt::PLANS`] beside the bundle.
    pub plans: Option<PathBuf>,
    /// What the plans are for.
    pub lengths: PlanLengths,
}

/// The lengths that a plan must take: the bundle's ranges are as wide as the model, and TensorRT sets memory
/// aside for the largest length of every axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanLengths {
    /// Longest prompt plus answer, tokens; the model's own limit, where that is smaller.
    pub context_length: usize,
    /// Most prompt tokens that go through the decoder at once.
    pub prefill_chunk: usize,
}

impl Default for PlanLengths {
    fn default() -> Self {
        Self { context_length: DEFAULT_CONTEXT_LENGTH, prefill_chunk: 256 }
    }
}
