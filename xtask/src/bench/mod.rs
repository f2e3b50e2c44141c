//! `cargo xtask bench`: our figures beside those of other programs for the same work, taken in the same run.

mod decoder;
mod evaluations;
mod export;
mod perplexity;
mod photograph;
mod precisions;
mod profile;
mod relevance;
pub(crate) mod report;
mod selection;
mod selectors;
pub(crate) mod stages;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Seconds and peak memory of an export, beside `cp` of the same bytes and torch.onnx.export
    Export(export::Args),
    /// Seconds per stage of an answer, beside PyTorch
    Stages(stages::Args),
    /// Seconds of the decoder alone, beside onnxruntime-genai and llama.cpp
    Decoder(decoder::Args),
    /// Where the time to the first token goes, operator by operator
    Profile(profile::Args),
    /// How far every precision is from fp32 at real width, and its size
    Precisions(precisions::Args),
    /// What every precision loses on real weights, beside llama.cpp
    Perplexity(perplexity::Args),
    /// One large photograph at the shape of SmolVLM-256M or Qwen3-VL-2B, beside transformers and llama.cpp
    Photograph(photograph::Args),
    /// Some of a photograph's tokens instead of all, at the shape of Qwen3-VL-2B; and the selectors by
    /// themselves
    Selection(selection::Args),
    /// Right answers by visual tokens, for every way to choose them
    Relevance(relevance::Args),
    /// Right answers of a stock checkpoint by visual tokens, for every selector
    Selectors(selectors::Args),
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Export(args) => export::run(args),
        Command::Stages(args) => stages::run(args),
        Command::Decoder(args) => decoder::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Precisions(args) => precisions::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Photograph(args) => photograph::run(args),
        Command::Selection(args) => selection::run(args),
        Command::Relevance(args) => relevance::run(args),
        Command::Selectors(args) => selectors::run(args),
    }
}
