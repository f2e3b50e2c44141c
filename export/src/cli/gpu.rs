//! Options shared by the commands that compile plans for a GPU and load them: both must be given the same
//! values.

use std::path::PathBuf;

use arrcoc_runtime::library::{PlanLengths, TensorRtOptions};
use arrcoc_runtime::model::DEFAULT_CONTEXT_LENGTH;

/// Which GPU, and the lengths that TensorRT plans take on it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Gpu {
    /// Number of the GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) device: u32,
    /// Longest prompt plus answer that TensorRT plans take; the model's own limit if that is smaller
    #[arg(long, value_name = "TOKENS", default_value_t = DEFAULT_CONTEXT_LENGTH, value_parser = tokens)]
    context: usize,
    /// Prompt tokens processed per step
    #[arg(long, value_name = "TOKENS", default_value_t = PlanLengths::default().prefill_chunk, value_parser = tokens)]
    prefill_chunk: usize,
}

impl Gpu {
    /// Options of TensorRT, with plans in a directory or beside the bundle.
    pub(super) fn tensorrt(self, plans: Option<PathBuf>) -> TensorRtOptions {
        let lengths = PlanLengths { context_length: self.context, prefill_chunk: self.prefill_chunk };
        TensorRtOptions { device: self.device, plans, lengths }
    }
}

fn tokens(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a whole number of at least 1".into())
}
