//! `arrcoc-serve config check FILE`.

use std::path::Path;

use arrcoc_server::config::{Config, Overrides};

use super::{Failure, print};

pub(crate) fn run(file: &Path, overrides: &Overrides) -> Result<(), Failure> {
    let config = Config::load(Some(file), overrides)?;
    let text = serde_yaml::to_string(&config)?;
    Ok(print(&format!("# effective configuration: {} is valid\n{text}\n", file.display()))?)
}
