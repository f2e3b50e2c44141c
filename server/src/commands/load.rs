//! Bundles and logs, for all commands.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use arrcoc_bundle::Bundle;
use arrcoc_runtime::console;
use arrcoc_runtime::generate::NoObserver;
use arrcoc_runtime::model::Model;
use arrcoc_server::config::{Config, ConfigError, LOG_FILTER, LogFormat};
use arrcoc_server::engines::{Bundles, Found, Source as _, first};
use tracing_subscriber::EnvFilter;

/// Logs warnings only, unless the configuration asks for more: for commands whose output is something else.
pub(crate) fn start_quiet_logging(config: &Config) {
    let quiet = config.log.filter == LOG_FILTER;
    start_logging(config, if quiet { "warn" } else { &config.log.filter });
}

/// Logs go to standard error: standard output is for answers. They pass through [`console::Log`], which waits
/// for nobody, and whatever goes wrong with a line stays with that line. Panics are logged like everything
/// else.
pub(crate) fn start_logging(config: &Config, filter: &str) {
    let builder = tracing_subscriber::fmt()
        .with_writer(|| console::Log)
        .with_ansi(colours())
        .log_internal_errors(false)
        .with_env_filter(EnvFilter::new(filter));
    match config.log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tracing::error!(thread = thread.name(), "{panic}");
    }));
}

/// Whether log lines may hold escape sequences: on terminals whose user has not set `NO_COLOR`.
fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Where the configuration has its engines.
pub(crate) fn source(config: &Config) -> Result<Bundles, ConfigError> {
    Ok(Bundles::new(config.root()?, config.options()))
}

/// The directory that `serve` takes where no setting names one: there `arrcoc-export build` puts its bundles.
const HERE: &str = "engines";

/// [`HERE`], where it holds bundles of one model. Bundles that cannot be used are no reason against it:
/// choosing the first engine says what is wrong with them.
pub(crate) fn engines_here(config: &Config) -> Result<PathBuf, ConfigError> {
    let found = match Bundles::new(Path::new(HERE), config.options()).list() {
        Err(_) if !Path::new(HERE).exists() => format!("no directory `{HERE}` here"),
        Err(error) => format!("a directory `{HERE}` that cannot be read ({error})"),
        Ok(found) if found.is_empty() => format!("no bundle in the directory `{HERE}`"),
        Ok(found) => {
            let usable =
                found.iter().filter_map(|Found { dir, engine }| Some((&engine.as_ref().ok()?.model, dir)));
            let models: BTreeMap<&String, &PathBuf> = usable.collect();
            if models.len() <= 1 {
                return Ok(HERE.into());
            }
            let places = models.iter().map(|(model, dir)| format!("{model} ({})", dir.display()));
            format!("several models in the directory `{HERE}`: {}", places.collect::<Vec<_>>().join(", "))
        }
    };
    Err(ConfigError::NothingToServe { found })
}

/// Opens the bundle that the configuration names, or the one to begin with: its manifest and hashes are
/// checked.
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
