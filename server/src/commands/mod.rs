//! One file per command.

use std::process::ExitCode;

use arrcoc_server::config::{Config, ConfigError};

use crate::cli::{Command, ConfigCommand, Configured};

mod ask;
mod completions;
mod config_check;
mod eval;
mod load;
mod picture;
mod serve;
mod swap;
mod try_engine;

/// Why a command failed.
pub(crate) struct Failure {
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// The one place where exit codes are chosen. clap itself ends with 2 on a wrong command line.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(if self.error.is::<ConfigError>() { 2 } else { 1 })
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into() }
    }
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(configured) => serve::run(&configure(&configured)?),
        Command::Ask(ask) => ask::run(&ask, &configure(&ask.configured)?),
        Command::Eval(eval) => eval::run(&eval, configure(&eval.configured)?),
        Command::Swap(args) => swap::run(&args),
        Command::TryEngine { memory } => try_engine::run(memory),
        Command::Config(ConfigCommand::Check { file, overrides }) => config_check::run(&file, &overrides),
        Command::Completions { shell } => completions::run(shell),
    }
}

fn configure(configured: &Configured) -> Result<Config, ConfigError> {
    Config::load(configured.config.as_deref(), &configured.overrides)
}
