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
mod perplexity;
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

/// An error and its causes on one line. Many errors say their cause themselves: what was said already is not
/// said again.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
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
        Command::Perplexity(args) => perplexity::run(&args, configure(&args.configured)?),
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
    if config.bundle.is_none() && config.engines.is_none() {
        config.engines = Some(load::engines_here(&config)?);
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn config(words: &[&str]) -> Config {
        let Command::Serve(args) =
            Cli::try_parse_from([&["arrcoc-serve", "serve"], words].concat()).unwrap().command
        else {
            panic!("not `serve`")
        };
        configure_server(args).map_err(|failure| failure.error).unwrap()
    }

    #[test]
    fn host_and_port_are_short_for_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("fp32-cpu");
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join("manifest.yaml"), "").unwrap();
        let (one, all) = (bundle.to_str().unwrap(), dir.path().to_str().unwrap());
        for (words, address, reached) in [
            (&[one, "--port", "9"][..], "127.0.0.1:9", "127.0.0.1:9"),
            (&[one, "--host", "localhost", "--port", "0"], "127.0.0.1:0", "127.0.0.1:0"),
            (&[all, "--listen", "9"], "127.0.0.1:9", "127.0.0.1:9"),
            // No browser finds 0.0.0.0 on every system.
            (&["--model", one, "--host", "0.0.0.0"], "0.0.0.0:8080", "127.0.0.1:8080"),
            (&[one, "--host", "::"], "[::]:8080", "[::1]:8080"),
        ] {
            let config = config(words);
            assert_eq!(config.listen.to_string(), address, "{words:?}");
            assert_eq!(reachable(config.listen).to_string(), reached, "{words:?}");
            assert_eq!(config.bundle.is_some(), words.contains(&one), "{words:?}");
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let io = || std::io::Error::from_raw_os_error(2);
        let says_it = ConfigError::Read { path: "x".into(), source: io() };
        let text = causes(&anyhow::Error::from(says_it).context("no server"));
        assert_eq!(text.matches("os error 2").count(), 1, "{text}");
        assert!(text.starts_with("no server: cannot read") && text.contains("x: "), "{text}");
        assert_eq!(causes(&anyhow::Error::from(io()).context("no bundle")).matches("os error").count(), 1);
    }
}
