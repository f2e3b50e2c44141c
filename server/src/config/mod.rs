//! Configuration in two stages: `file` is what was written, [`Config`] what was checked. Only the latter
//! travels. [`settings`] has a row for each setting; what the runtime needs to know of them is in
//! [`Config::options`].
//!
//! Precedence, setting by setting: command-line flag, then `ARRCOC_*` environment variable, then file, then
//! default.

use std::path::Path;

use arrcoc_runtime::image::ImageLimits;
use arrcoc_runtime::library::{CpuOptions, CudaOptions};
use arrcoc_runtime::model::{Options, WarmUp};
use serde::Serialize;

mod checks;
mod environment;
mod file;
mod load;
mod overrides;
mod places;
mod settings;
mod table;
mod units;

pub use load::ConfigError;
pub use overrides::Overrides;
pub use settings::{
    Auth, Config, Cors, EngineConfig, KEYS, LOG_FILTER, Limits, Log, RemoteImages, Server, Timeouts,
};
pub use table::{Key, Problem};
pub use units::{Count, Keys, LogFormat, RuntimeChoice, Setting, Size, Span};

/// Bodies of the largest size that `limits.body_memory` has room for unless it is set.
const BODIES: usize = 8;

/// What is counted for a byte of a body is twice that: a budget has room for one body at least.
pub(crate) const LEAST_BODIES: usize = 2;

impl Limits {
    /// Memory of all request bodies while they are read and parsed, bytes.
    pub fn body_memory(&self) -> usize {
        self.body_memory.map_or(self.body.0.saturating_mul(BODIES), |size| size.0)
    }
}

impl Config {
    /// Where the engines are: one bundle, or a directory of them.
    ///
    /// # Errors
    /// [`ConfigError::NoBundle`].
    pub fn root(&self) -> Result<&Path, ConfigError> {
        self.bundle.as_deref().or(self.engines.as_deref()).ok_or(ConfigError::NoBundle)
    }

    /// What a process needs that only tries out the engine of the bundle at `bundle`. Sections are named one
    /// by one, so that none with a secret is ever among them by accident; the others have their defaults
    /// there.
    pub fn for_trial<'a>(&'a self, bundle: &'a Path) -> impl Serialize + 'a {
        #[derive(Serialize)]
        struct ForTrial<'a> {
            bundle: &'a Path,
            engine: &'a EngineConfig,
            limits: &'a Limits,
            timeouts: &'a Timeouts,
            log: &'a Log,
        }
        ForTrial {
            bundle,
            engine: &self.engine,
            limits: &self.limits,
            timeouts: &self.timeouts,
            log: &self.log,
        }
    }

    /// What the runtime needs to know of it.
    pub fn options(&self) -> Options {
        let (engine, limits) = (&self.engine, &self.limits);
        Options {
            runtime: engine.runtime.kind(),
            threads: engine.threads,
            cpu: CpuOptions { kernels: engine.kernels },
            profile: engine.profile.clone(),
            cuda: CudaOptions {
                device: engine.gpu,
                arena_limit: engine.gpu_arena.map(|size| size.0),
                arena_growth: engine.gpu_arena_growth,
            },
            tensorrt_plans: engine.tensorrt_plans.clone(),
            slots: engine.slots.0,
            context_length: engine.context_length.map(|n| n.0),
            prefill_chunk: engine.prefill_chunk.0,
            queue_limit: limits.queue.0,
            feature_cache_bytes: engine.feature_cache.0,
            token_cache_bytes: engine.token_cache.0,
            image_size: engine.image_size.map(|n| n.0),
            limits: ImageLimits {
                max_pixels: limits.image_pixels.0 as u64,
                max_side: u32::try_from(limits.image_side.0).unwrap_or(u32::MAX),
                max_aspect: u32::try_from(limits.image_aspect.0).unwrap_or(u32::MAX),
                max_bytes: limits.image_bytes.0,
            },
            timeout: self.timeouts.request.0,
            warm_up: WarmUp::Short,
        }
    }
}
