//! `arrcoc-export plan`.

use std::path::PathBuf;

use anyhow::bail;
use arrcoc_export::plan::{self, Attention, Device, ModelSource, Options, Precision};
use arrcoc_export::progress::Progress;
use arrcoc_models::families::Preset;

use super::preset::preset;
use super::source::source;

const EXAMPLES: &str = "\
Examples:
  arrcoc-export plan ./my-checkpoint
  arrcoc-export plan ./my-checkpoint --precision fp16 --device T4 --batch 16 --context 8192
  arrcoc-export plan --preset arr-coc-ovis-base --image-size 1280 --json

Computes weights, KV cache and activations from config.json and the headers of the weight files; no
weight is read. Where it does not fit, it says what to change first: precision, context, answers at
a time, image size. With both --precision and --device the exit status is 1 when that pair does not
fit or is refused.

A plan says what would fit, not what `build` can write: see `arrcoc-export build --help` for that.";

/// Compute whether a model fits a GPU, and what to change if not
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Directory of the checkpoint, or ORG/NAME on the hub
    #[arg(required_unless_present = "preset", conflicts_with = "preset")]
    checkpoint: Option<PathBuf>,
    /// A configuration of `init` instead of a checkpoint
    #[arg(long, value_parser = preset())]
    preset: Option<&'static Preset>,
    /// One precision [default: all]
    #[arg(long, value_enum, ignore_case = true)]
    precision: Option<Precision>,
    /// One GPU [default: all]
    #[arg(long, value_enum, ignore_case = true)]
    device: Option<Device>,
    /// Answers generated at the same time
    #[arg(long, value_name = "SLOTS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Longest prompt plus answer [default: 4096, or the model's own limit if that is smaller]
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Side of the encoder's input [default: the one that it was trained for]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Prompt tokens processed per step
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    prefill_chunk: u32,
    /// How attention is computed
    #[arg(long, value_enum, default_value = "materialized")]
    attention: Attention,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { precision, device, context, image_size, attention, json, .. } = self;
        let source = match (self.checkpoint, self.preset) {
            (_, Some(preset)) => ModelSource::Preset(preset),
            (Some(given), None) => {
                let progress = if json { Progress::Silent } else { Progress::detect(false) };
                ModelSource::Checkpoint(source(&given, progress)?.dir)
            }
            (None, None) => bail!("expected a checkpoint's directory or --preset, found neither"),
        };
        let (slots, prefill_chunk) = (self.batch.into(), self.prefill_chunk as usize);
        let options =
            Options { source, precision, device, slots, context, image_size, prefill_chunk, attention };
        let report = plan::plan(&options)?;
        let text = if json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
        super::print(&text)?;
        match (precision, device) {
            (Some(precision), Some(device)) if !report.all_fit() => {
                bail!(
                    "{precision} on {device} is not possible as asked: the plan says why, and what to change"
                )
            }
            _ => Ok(()),
        }
    }
}
