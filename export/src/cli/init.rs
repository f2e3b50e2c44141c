//! `arrcoc-export init`.

use std::path::PathBuf;

use arrcoc_export::init::{self, Options, SHARD_BYTES, WeightType};
use arrcoc_export::progress::{Progress, human_bytes};
use arrcoc_models::families::Preset;
use serde_json::json;

use super::preset::preset;

const EXAMPLES: &str = "\
Examples:
  arrcoc-export init --preset arr-coc-ovis-tiny --out tiny
  arrcoc-export init --preset arr-coc-ovis-base --dtype bfloat16 --seed 7 --out base

The same preset, dtype and seed give the same bytes on every machine. The model answers
gibberish, at its true speed.";

/// Write a random checkpoint in Hugging Face form
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Which configuration
    #[arg(long, value_parser = preset())]
    preset: &'static Preset,
    /// Seed of the random weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Element type of the weights
    #[arg(long, value_enum, default_value = "bfloat16")]
    dtype: WeightType,
    /// Directory to create
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Largest weight file, bytes; more becomes several files with an index
    #[arg(long, value_name = "BYTES", default_value_t = SHARD_BYTES, value_parser = clap::value_parser!(u64).range(1..))]
    shard_size: u64,
    /// Replace the directory if it exists
    #[arg(long)]
    force: bool,
    /// Report in JSON, one object a line, on standard output
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let progress = Progress::detect(self.json);
        let Self { preset, seed, dtype, out, shard_size: shard_bytes, force, .. } = self;
        let options = Options { preset, seed, dtype, shard_bytes, out, force };
        let summary = init::init(&options, progress)?;
        let out = options.out.display();
        if self.json {
            let result = json!({
                "event": "result",
                "checkpoint": out.to_string(),
                "parameters": summary.parameters,
                "bytes": summary.bytes,
                "shards": summary.shards,
            });
            super::report(progress, &result)?;
        } else {
            let (parameters, bytes) = (summary.parameters as f64 / 1e6, human_bytes(summary.bytes));
            progress.note(&format!("{out}: {parameters:.1} M parameters, {bytes}"));
        }
        Ok(())
    }
}
