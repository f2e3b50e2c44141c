//! `arrcoc-serve`: parses the command line, runs the command, says a failure once, chooses the exit code.

use std::process::ExitCode;

use arrcoc_runtime::console;
use clap::Parser;

mod cli;
mod commands;

fn main() -> ExitCode {
    console::survive_full_files();
    let _flush = console::FlushAtEnd;
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let text = usage.render();
            return console::usage(&text, &text.ansi(), usage.exit_code());
        }
    };
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console::note(&format!("error: {}", commands::causes(&failure.error)));
            failure.code()
        }
    }
}
