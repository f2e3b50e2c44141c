//! The engines: which there are, which are loaded, and how one takes another's place.
//!
//! ```text
//! Source ── list ──> Available ── load, warm up ──> Serving ── App's slot: new requests
//!                                                      └── retire: its last answer ends, then it is unloaded
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use arrcoc_bundle::{Precision, Statistics, Target};
use arrcoc_runtime::generate::Observer;
use arrcoc_runtime::library::has_int8_products;
use arrcoc_runtime::model::{MemoryNeed, ModelInfo, copies_of};

use crate::engine::Engine;

mod bundles;
pub mod swap;
pub mod trial;

pub use bundles::Bundles;

/// Where engines come from: bundles on disk, and scripts in tests.
pub trait Source: Send + Sync + 'static {
    /// Every engine that was found, also the ones that cannot be used.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn list(&self) -> Result<Vec<Found>, LoadFailure>;

    /// What one needs at the worst request; nothing of it is loaded.
    ///
    /// # Errors
    /// A file of the bundle cannot be read.
    fn need(&self, engine: &Available) -> Result<MemoryNeed, LoadFailure>;

    /// Loads one where it can do no harm, before it is loaded here: `need` is what is expected of it, and
    /// what is returned was measured. Engines that were loaded or tried before are believed.
    ///
    /// # Errors
    /// Whatever is wrong with the bundle or happened to it.
    fn try_out(&self, engine: &Available, need: &MemoryNeed) -> Result<MemoryNeed, LoadFailure>;

    /// Loads one and warms it up.
    ///
    /// # Errors
    /// Whatever is wrong with the bundle or the inference library; nothing stays loaded then.
    fn load(&self, engine: &Available, observer: Arc<dyn Observer>) -> Result<Arc<dyn Engine>, LoadFailure>;

    /// Free memory of the GPU that its engines run on, bytes; `None` where they run on the CPU.
    ///
    /// # Errors
    /// The driver does not tell.
    fn free_gpu_memory(&self) -> Result<Option<u64>, LoadFailure>;
}

/// The engine to begin with: of the precision that is asked for, or the best for this CPU.
///
/// # Errors
/// [`FirstError`].
pub fn first(source: &dyn Source, precision: Option<Precision>) -> Result<Available, FirstError> {
    let found = source.list().map_err(FirstError::List)?;
    let mut reasons = Vec::new();
    let mut usable = Vec::new();
    for Found { dir, engine } in found {
        match engine {
            Ok(engine) => usable.push(engine),
            Err(reason) => reasons.push(format!("{}: {reason}", dir.display())),
        }
    }
    usable.sort_by_key(Available::rank);
    let mut models: Vec<&str> = usable.iter().map(|engine| engine.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    if models.len() > 1 {
        return Err(FirstError::SeveralModels { models: models.join(", ") });
    }
    let wanted = usable.iter().find(|engine| precision.is_none_or(|precision| engine.precision == precision));
    let others = usable.iter().map(|engine| format!("one in {}", engine.variant()));
    wanted.cloned().ok_or_else(|| FirstError::None { precision, found: others.chain(reasons).collect() })
}

/// There is no engine to begin with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirstError {
    /// The directory cannot be read.
    #[error("cannot list the engines: {0}")]
    List(LoadFailure),
    /// A server has one model.
    #[error(
        "expected bundles of one model, found {models}; give --bundle, or --engines with the directory of one of them"
    )]
    SeveralModels {
        /// Their names.
        models: String,
    },
    /// Nothing fits.
    #[error(
        "expected a{} bundle that can be used, found {}; `arrcoc-export build` makes one",
        precision.map(|precision| format!("n {precision}")).unwrap_or_default(),
        if found.is_empty() { "none".to_owned() } else { found.join("; ") }
    )]
    None {
        /// What was asked for.
        precision: Option<Precision>,
        /// What there is, and why it could not be used.
        found: Vec<String>,
    },
}

/// Why an engine could not be listed or loaded, with its causes.
pub type LoadFailure = Box<dyn std::error::Error + Send + Sync>;

/// A place where an engine should be.
#[derive(Debug, Clone)]
pub struct Found {
    /// The place.
    pub dir: PathBuf,
    /// The engine, or why it is none.
    pub engine: Result<Available, String>,
}

/// An engine that can be loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Available {
    /// Its bundle.
    pub dir: PathBuf,
    /// Model name.
    pub model: String,
    /// Numeric precision.
    pub precision: Precision,
    /// What its graphs are written for.
    pub target: Target,
    /// Whether it would run on a GPU.
    pub on_gpu: bool,
    /// Size of the weight files, bytes.
    pub weight_bytes: u64,
    /// Size of the KV cache that the configuration asks for, bytes.
    pub kv_bytes: u64,
    /// Positions per slot, tokens.
    pub context_length: usize,
    /// Its tiers.
    pub token_budgets: Vec<usize>,
    /// What its adapter aims at.
    pub embeds_target: Option<Statistics>,
}

/// Memory of a loaded engine, bytes: weights, what the library makes of them, the KV cache, and what a worst
/// request needs.
pub(crate) fn takes(info: &ModelInfo) -> u64 {
    let parts = [info.weight_bytes, copies_of(info.weight_bytes), info.kv_bytes, info.working_bytes];
    parts.into_iter().fold(0, u64::saturating_add)
}

impl Available {
    /// Precision and target, as bundles are named after them: `fp32-cpu`.
    pub fn variant(&self) -> String {
        format!("{}-{}", self.precision, self.target.name())
    }

    /// Whether a loaded engine is this one.
    pub fn is(&self, info: &ModelInfo) -> bool {
        (&self.model, self.precision, self.target) == (&info.name, info.precision, info.target)
    }

    /// The order of preference, the best first: on a GPU what shares a cache there before what does not, on a
    /// CPU what has operators for it before what any library runs, and what is for CUDA last. Of precisions
    /// on this CPU int8 where it multiplies bytes, the reference where it does not. fp16, fp8 and int4
    /// without operators for CPUs are for GPUs, where `--precision` chooses.
    pub fn rank(&self) -> (usize, usize) {
        let target = match (self.target.has_own_operators(), self.target.shares_cache()) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) if self.on_gpu => 0,
            (false, true) => 2,
        };
        let place = match (self.precision, has_int8_products()) {
            (Precision::Int4, _) if self.target.has_small_floats() => 5,
            (Precision::Int8, true) | (Precision::Fp32, false) => 0,
            (Precision::Int4, true) | (Precision::Int8, false) => 1,
            (Precision::Fp32, true) | (Precision::Int4, false) => 2,
            (Precision::Fp16, _) => 3,
            (Precision::Fp8, _) => 4,
        };
        (target, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(precision: Precision, target: Target, on_gpu: bool) -> Available {
        Available {
            dir: PathBuf::new(),
            model: String::new(),
            precision,
            target,
            on_gpu,
            weight_bytes: 0,
            kv_bytes: 0,
            context_length: 2,
            token_budgets: Vec::new(),
            embeds_target: None,
        }
    }

    #[test]
    fn a_gpu_takes_the_cache_that_is_shared_there_and_a_cpu_takes_it_last() {
        let first = |on_gpu, targets: &[Target]| {
            let of = |&target| [Precision::Int4, Precision::Fp16].map(|of| engine(of, target, on_gpu));
            let first = targets.iter().flat_map(of).min_by_key(Available::rank);
            first.map(|engine| (engine.precision, engine.target))
        };
        let gpus = [Target::Portable, Target::Cuda];
        assert_eq!(first(true, &gpus), Some((Precision::Fp16, Target::Cuda)));
        assert_eq!(first(false, &gpus), Some((Precision::Fp16, Target::Portable)));
        assert_eq!(first(false, &Target::ALL).map(|(_, target)| target), Some(Target::Cpu));
    }
}
