//! The command line: one file per command, each a set of arguments and what it does with them.

mod build;
mod calibrate;
mod compile;
mod gpu;
mod init;
mod inspect;
mod plan;
mod preset;
mod pull;
mod source;
mod verify;

use anyhow::Context as _;
use arrcoc_export::progress::Progress;
use arrcoc_runtime::console;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::Value;

const ABOUT: &str = "Turns Hugging Face checkpoints into engine bundles for arrcoc-serve";

const GUIDE: &str = "\
A bundle is a directory of ONNX graphs, weights, tokenizer and manifest. From a checkpoint to a
proven bundle, and its portable twin to prove it against:

  arrcoc-export inspect ./my-checkpoint
  arrcoc-export build ./my-checkpoint
  arrcoc-export build ./my-checkpoint --target portable
  arrcoc-export verify engines/my-checkpoint/fp32-cpu
  arrcoc-serve serve

For a directory, ORG/NAME will do: `pull` fetches that checkpoint from the Hugging Face hub.
Will it fit a GPU, and in which precision? `arrcoc-export plan` computes that from the shapes.
TensorRT runs plans that were compiled for its GPU: `arrcoc-export compile` makes them.
No checkpoint at hand? `arrcoc-export init` makes a random one of any supported shape.
Exit status: 0 done, 1 failed (the reason is on standard error), 2 the command line is wrong.";

/// `arrcoc-export`.
#[derive(Debug, Parser)]
#[command(name = "arrcoc-export", version, about = ABOUT, after_help = GUIDE, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Pull(pull::Args),
    Build(build::Args),
    Calibrate(calibrate::Args),
    Inspect(inspect::Args),
    Plan(plan::Args),
    Verify(verify::Args),
    Compile(compile::Args),
    /// Print a shell's completion script
    #[command(
        after_help = "Example: arrcoc-export completions bash > ~/.local/share/bash-completion/completions/arrcoc-export"
    )]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// The command's own error; the chain of causes says what to do.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Init(args) => args.run(),
            Command::Pull(args) => args.run(),
            Command::Build(args) => args.run(),
            Command::Calibrate(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Plan(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Compile(args) => args.run(),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "arrcoc-export", &mut script);
                print(&String::from_utf8_lossy(&script))
            }
        }
    }
}

/// Writes a command's result to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    console::print(text).context("cannot write to standard output")
}

/// The same for machines, where JSON was asked for.
fn report(progress: Progress, result: &Value) -> anyhow::Result<()> {
    progress.result(result).context("cannot write to standard output")
}
