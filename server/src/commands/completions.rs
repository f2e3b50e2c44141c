//! `arrcoc-serve completions SHELL`.

use std::io::Write;

use clap::CommandFactory;

use super::Failure;
use crate::cli::Cli;

pub(crate) fn run(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "arrcoc-serve", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
