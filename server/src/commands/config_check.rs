//! `arrcoc-serve config check FILE`.

use std::io::Write;
use std::path::Path;

use arrcoc_server::config::{Config, Overrides};

use super::Failure;

pub(crate) fn run(file: &Path, overrides: &Overrides) -> Result<(), Failure> {
    let config = Config::load(Some(file), overrides)?;
    let text = serde_yaml::to_string(&config)?;
    writeln!(std::io::stdout(), "# effective configuration: {} is valid\n{text}", file.display())?;
    Ok(())
}
