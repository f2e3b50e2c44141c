//! `cargo xtask`: the one door to everything that is done with this repository besides writing code.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool of the people who work on this")]

mod abuse;
mod bench;
mod bundles;
mod demo;
mod fuzz;
mod goldens;
mod gpu_check;
mod onnxruntime;
mod promtool;
mod python;
mod reference;
mod sanitize;
mod shell;
mod smollm2;
mod soak;
mod test;
mod tidy;
mod traffic;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Demo, tests, reference and benchmarks of arrcoc"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From nothing to an answer about a photograph: build, make a model, export it, serve it, ask it
    Demo(demo::Args),
    /// Everything that must pass, in order, without PyTorch
    Test(test::Args),
    /// The PyTorch reference: its own tests, and the committed goldens made again and compared
    Reference(reference::Args),
    /// Make the committed goldens again from PyTorch
    Goldens(goldens::Args),
    /// Train the reference checkpoint anew (hours)
    Train(train::Args),
    /// Measure against what others do; writes docs/benchmarks
    #[command(subcommand)]
    Bench(bench::Command),
    /// Everything that only an NVIDIA GPU can show: every precision on CUDA and TensorRT, beside PyTorch
    GpuCheck(gpu_check::Args),
    /// Tens of thousands of requests, a quarter of them abusive: nothing may be lost or mixed, and memory
    /// stays flat
    Soak(soak::Args),
    /// Known attacks on a server and its exporter, each with what it costs: a table
    Abuse(abuse::Args),
    /// Every parser against mutated input, in a release build
    Fuzz(fuzz::Args),
    /// The kernels under AddressSanitizer and Miri, which need a nightly toolchain
    Sanitize,
    /// Check the rules of the code that no compiler checks
    Tidy,
    /// Fetch ONNX Runtime into target/onnxruntime and print where it is
    Onnxruntime,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Reference(args) => reference::run(&args),
        Command::Goldens(args) => goldens::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Bench(command) => bench::run(&command),
        Command::GpuCheck(args) => gpu_check::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Abuse(args) => abuse::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Sanitize => sanitize::run(),
        Command::Tidy => tidy::run(),
        Command::Onnxruntime => onnxruntime::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
