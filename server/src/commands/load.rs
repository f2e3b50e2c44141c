//! Bundles and logs, for all commands.

use std::sync::Arc;

use anyhow::Context;
use arrcoc_runtime::bundle::Bundle;
use arrcoc_runtime::generate::NoObserver;
use arrcoc_runtime::model::Model;
use arrcoc_server::config::{Config, ConfigError, LOG_FILTER, LogFormat};
use arrcoc_server::engines::{Bundles, first};
use tracing_subscriber::EnvFilter;

/// Logs warnings only, unless the configuration asks for more: for commands whose output is something else.
pub(crate) fn start_quiet_logging(config: &Config) {
    let quiet = config.log.filter == LOG_FILTER;
    start_logging(config, if quiet { "warn" } else { &config.log.filter });
}

/// Logs go to standard error: standard output is for answers.
pub(crate) fn start_logging(config: &Config, filter: &str) {
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(EnvFilter::new(filter));
    match config.log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Where the configuration has its engines.
pub(crate) fn source(config: &Config) -> Result<Bundles, ConfigError> {
    Ok(Bundles::new(config.root()?, config.options()))
}

/// Opens the bundle that the configuration names, or the one to begin with: its manifest and hashes are checked.
pub(crate) fn open(config: &Config) -> anyhow::Result<Bundle> {
    let dir = match &config.bundle {
        Some(dir) => dir.clone(),
        None => first(&source(config)?, config.precision)?.dir,
    };
    Bundle::open(&dir).with_context(|| format!("cannot open the bundle {}", dir.display()))
}

/// Loads and warms up, for the commands that need no server.
pub(crate) fn model(config: &Config, bundle: Bundle) -> anyhow::Result<Model> {
    let dir = bundle.dir().to_owned();
    Model::load(bundle, &config.options(), Arc::new(NoObserver))
        .with_context(|| format!("cannot load {}", dir.display()))
}
