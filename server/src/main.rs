//! `arrcoc-serve`: parses the command line, runs the command, says a failure once, chooses the exit code.

use std::process::ExitCode;

use arrcoc_runtime::console;
use clap::Parser;

mod cli;
mod commands;

fn main() -> ExitCode {
    let _flush = console::FlushAtEnd;
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return explain(&usage),
    };
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console::note(&format!("error: {:#}", failure.error));
            failure.code()
        }
    }
}

/// What clap says: help and version are results, everything else is about a wrong command line.
fn explain(usage: &clap::Error) -> ExitCode {
    let printed = console::finished(usage.print());
    match printed {
        Err(error) if !usage.use_stderr() => {
            console::note(&format!("error: cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2)),
    }
}
