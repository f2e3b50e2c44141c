//! Configuration in two stages: `file` is what was written, [`Config`] what was checked. Only the latter
//! travels. [`settings`] has a row for each setting; a row also says which of the runtime's options it fills.
//!
//! Precedence, setting by setting: command-line flag, then `ARRCOC_*` environment variable, then file, then
//! default.

use std::path::Path;

use serde::Serialize;

mod checks;
mod engine_units;
mod environment;
mod file;
mod load;
mod overrides;
mod places;
mod settings;
mod table;
mod units;

pub use engine_units::RuntimeChoice;
pub use load::ConfigError;
pub use overrides::Overrides;
pub use settings::{
    Auth, Config, Cors, EngineConfig, KEYS, LOG_FILTER, Limits, Log, RemoteImages, Server, Timeouts,
};
pub use table::{Key, Problem};
pub use units::{Count, Keys, LogFormat, Setting, Size, Span};

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
}
