//! What is asked of whom: one description per model's shape.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::bundles::Programs;
use crate::smollm2::SmolLm2;

/// A model's shape, and what its page says.
pub(super) struct Shape {
    /// Name of the page below docs/benchmarks.
    pub(super) page: &'static str,
    /// The model's, in the paths of its bundles.
    pub(super) model: &'static str,
    /// As `bench_vision_peers.py` calls it.
    pub(super) family: &'static str,
    /// Directory of the peers' files below target/bench.
    pub(super) peers: &'static str,
    pub(super) precisions: &'static [&'static str],
    pub(super) max_context: Option<u32>,
    /// Has the checkpoint made where it is missing. The directory is that of the benchmarks' checkpoints.
    pub(super) checkpoint: fn(&Programs, &SmolLm2, &Path) -> Result<PathBuf>,
    pub(super) title: &'static str,
    /// "One picture of ..., which becomes ...".
    pub(super) picture: &'static str,
    /// "... weights ...".
    pub(super) weights: &'static str,
    /// Which files llama.cpp gets.
    pub(super) llama_cpp: &'static str,
    pub(super) columns: &'static [Column],
}

/// A figure of a side on the page.
pub(super) enum Column {
    /// A figure, as `bench_vision_peers.py` calls it: its title, what it is multiplied by, and digits.
    Figure(&'static str, &'static str, f64, usize),
    /// The best peer's time to the first token in multiples of the row's.
    Ratio,
}

impl Column {
    pub(super) fn title(&self) -> &'static str {
        match self {
            Self::Figure(_, title, ..) => title,
            Self::Ratio => "best peer, times as long",
        }
    }
}

const MIB: f64 = (1 << 20) as f64;

pub(super) const PREPARATION: Column = Column::Figure("preprocess", "preparation", 1.0, 2);
pub(super) const VISION: Column = Column::Figure("vision", "vision", 1.0, 2);
pub(super) const PREFILL: Column = Column::Figure("prefill", "prefill", 1.0, 2);
pub(super) const FIRST_TOKEN: Column = Column::Figure("first_token", "first token", 1.0, 2);
pub(super) const STEP: Column = Column::Figure("step", "ms per token", 1e3, 1);
pub(super) const PEAK: Column = Column::Figure("peak_rss", "peak MiB", 1.0 / MIB, 0);
