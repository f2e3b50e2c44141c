//! Loading a bundle, for `serve` and `ask` alike.

use std::sync::Arc;

use anyhow::Context;
use arrcoc_runtime::bundle::Bundle;
use arrcoc_runtime::generate::Observer;
use arrcoc_runtime::model::{DEFAULT_CONTEXT_LENGTH, Model};
use arrcoc_server::config::{Config, LogFormat};
use arrcoc_server::metrics::EngineMetrics;
use tracing_subscriber::EnvFilter;

/// Logs go to standard error: standard output is for answers.
pub(crate) fn start_logging(config: &Config, default_filter: Option<&str>) {
    let filter = default_filter.unwrap_or(&config.log.filter);
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(EnvFilter::new(filter));
    match config.log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Opens a bundle: its manifest and hashes are checked.
pub(crate) fn open(config: &Config) -> anyhow::Result<Bundle> {
    let dir = config.bundle()?;
    Bundle::open(dir).with_context(|| format!("cannot open the bundle {}", dir.display()))
}

/// Metrics for the model of a bundle.
pub(crate) fn metrics(config: &Config, bundle: &Bundle) -> EngineMetrics {
    let manifest = bundle.manifest();
    let name = config.model_name.as_deref().unwrap_or(&manifest.model);
    let own = manifest.decoder.context_length;
    let context = config.engine.context_length.map_or(own.min(DEFAULT_CONTEXT_LENGTH), |n| n.0);
    EngineMetrics::new(name, context, &manifest.vision.token_budgets, manifest.vision.adapter_target)
}

/// Loads and warms up.
pub(crate) fn model(config: &Config, bundle: Bundle, observer: Arc<dyn Observer>) -> anyhow::Result<Model> {
    let dir = config.bundle()?;
    Model::load(bundle, &config.options(), observer).with_context(|| format!("cannot load {}", dir.display()))
}
