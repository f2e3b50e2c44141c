//! One file per command.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context;
use arrcoc_runtime::console;
use arrcoc_server::config::{Config, ConfigError};

use crate::cli::{Command, ConfigCommand, Configured, Serve};

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
        Command::Serve(args) => serve::run(&configure_server(args)?),
        Command::Ask(ask) => ask::run(&ask, &configure(&ask.configured)?),
        Command::Eval(eval) => eval::run(&eval, configure(&eval.configured)?),
        Command::Swap(args) => swap::run(&args),
        Command::TryEngine { memory } => try_engine::run(memory),
        Command::Config(ConfigCommand::Check { file, overrides }) => config_check::run(&file, &overrides),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// Writes a command's result to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    console::print(text).context("cannot write to standard output")
}

fn configure(configured: &Configured) -> Result<Config, ConfigError> {
    Config::load(configured.config.as_deref(), &configured.overrides)
}

/// The server's configuration: what `serve` takes beside the settings is short for some of them.
fn configure_server(args: Serve) -> Result<Config, Failure> {
    let Serve { dir, model, host, port, mut configured } = args;
    if let Some(dir) = dir.or(model)
        && let Err(flag) = configured.overrides.serve_from(&dir)
    {
        let message = format!("expected one place to serve from, found `{}` beside {flag}", dir.display());
        clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, message + "\n").exit();
    }
    let mut config = configure(&configured)?;
    if let Some(host) = host {
        config.listen.set_ip(host);
    }
    if let Some(port) = port {
        config.listen.set_port(port);
    }
    Ok(config)
}

/// Where this machine finds a listener: one on all addresses is on its own, too.
fn reachable(mut listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listener.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listener.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listener
}
