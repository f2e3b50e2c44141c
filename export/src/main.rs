//! `arrcoc-export`: parses the command line, runs the command, and is the one place that says fatal errors.

mod cli;

use std::process::ExitCode;

use arrcoc_runtime::console;
use clap::Parser;

fn main() -> ExitCode {
    let _flush = console::FlushAtEnd;
    console::note_panics();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return explain(&usage),
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::note(&format!("error: {error}"));
            for cause in error.chain().skip(1) {
                console::note(&format!("  because: {cause}"));
            }
            ExitCode::FAILURE
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
