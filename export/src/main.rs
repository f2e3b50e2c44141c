//! `arrcoc-export`: parses the command line, runs the command, and is the one place that says fatal errors.

mod cli;

use std::process::ExitCode;

use arrcoc_runtime::console;
use clap::Parser;

fn main() -> ExitCode {
    let _flush = console::FlushAtEnd;
    console::survive_full_files();
    console::note_panics();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let text = usage.render();
            return console::usage(&text, &text.ansi(), usage.exit_code());
        }
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
