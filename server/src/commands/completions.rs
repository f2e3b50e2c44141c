//! `arrcoc-serve completions SHELL`.

use clap::CommandFactory;

use super::{Failure, print};
use crate::cli::Cli;

pub(crate) fn run(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "arrcoc-serve", &mut script);
    Ok(print(&String::from_utf8_lossy(&script))?)
}
