//! How to load and run a model, for whoever loads one. The server's table of settings fills these structs
//! itself.

use std::time::Duration;

use crate::error::LoadError;
use crate::library::{DEFAULT_CONTEXT_LENGTH, LibraryKind, LibraryOptions, PlanLengths};
use crate::vision::VisionOptions;
use arrcoc_bundle::{Precision, Target};

/// How to load and run a model.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which inference library; `None` takes ONNX Runtime, and tract for a portable bundle where ONNX Runtime
    /// is not to be had (with a warning in the log).
    pub runtime: Option<LibraryKind>,
    /// How the inference library is to run. Here 0 threads means one per processor.
    pub library: LibraryOptions,
    /// How to run the vision side.
    pub vision: VisionOptions,
    /// KV slots: answers that decode at the same time, at least 1.
    pub slots: usize,
    /// Positions per slot, prompt and answer together; `None` takes [`DEFAULT_CONTEXT_LENGTH`] or the model's
    /// own limit, whichever is smaller.
    pub context_length: Option<usize>,
    /// Most prompt tokens that go through the decoder between two decode steps, at least 1; twice as many on
    /// the CPU while nobody else is in work.
    pub prefill_chunk: usize,
    /// Requests that may wait for a slot, at least 1; further ones are refused.
    pub queue_limit: usize,
    /// Longest time from submission to the last token.
    pub timeout: Duration,
    /// How far the first run goes.
    pub warm_up: WarmUp,
}

/// How far the run goes that proves a model before it serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WarmUp {
    /// One image and one token on the CPU. On a GPU, which makes itself ready for lengths, the shortest and
    /// the longest of everything.
    #[default]
    Short,
    /// The shortest and the longest of everything: to see what a model takes.
    Longest,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            runtime: None,
            library: LibraryOptions::default(),
            vision: VisionOptions::default(),
            slots: 4,
            context_length: None,
            prefill_chunk: 256,
            queue_limit: 64,
            timeout: Duration::from_secs(600),
            warm_up: WarmUp::Short,
        }
    }
}

impl Options {
    /// Whether the inference library that was asked for runs bundles of a target and a precision.
    ///
    /// # Errors
    /// [`LoadError::Options`].
    pub fn check_target(&self, target: Target, precision: Precision) -> Result<(), LoadError> {
        let Some(kind) = self.runtime.filter(|kind| !kind.runs(target, precision)) else { return Ok(()) };
        let others = match kind {
            // Of another precision it would run it.
            LibraryKind::Cuda if kind.runs(target, Precision::Fp16) => {
                "; CUDA's attention over a shared cache has 16-bit floats only: build fp16, int4 or fp8"
                    .to_owned()
            }
            LibraryKind::Cuda => " (`cuda` runs `cuda` and `portable` bundles)".to_owned(),
            other => format!(" (`{}` runs `portable` bundles)", other.name()),
        };
        let all =
            [LibraryKind::Ort, LibraryKind::Cuda].into_iter().filter(|kind| kind.runs(target, precision));
        let able = all.map(|kind| format!("`{}`", kind.name())).collect::<Vec<_>>().join(" or ");
        Err(LoadError::Options {
            what: "runtime",
            expected: format!("{able} for an {precision} bundle of target `{target}`{others}"),
            found: format!("`{}`", kind.name()),
        })
    }

    /// Whether graphs are to run on a GPU.
    pub(super) fn on_gpu(&self) -> bool {
        self.runtime.is_some_and(LibraryKind::is_gpu)
    }

    /// What the inference library is opened with: nothing is left open, and what depends on the model's own
    /// options follows from them.
    pub(crate) fn resolved_library(&self) -> LibraryOptions {
        let mut library = self.library.clone();
        if library.threads == 0 {
            library.threads = std::thread::available_parallelism().map_or(1, usize::from);
        }
        library.tensorrt.device = library.cuda.device;
        library.tensorrt.lengths = PlanLengths {
            context_length: self.context_length.unwrap_or(DEFAULT_CONTEXT_LENGTH),
            prefill_chunk: self.prefill_chunk,
        };
        library
    }
}
