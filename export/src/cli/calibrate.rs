//! `arrcoc-export calibrate`.

use std::path::PathBuf;

use arrcoc_export::calibrate::{self, Calibration, Options};
use arrcoc_export::progress::Progress;
use arrcoc_export::table::Table;
use serde_json::json;

use super::source::source;

const EXAMPLES: &str = "\
Example:
  arrcoc-export calibrate ./my-checkpoint --data questions.json --output calibration.json
  arrcoc-export build ./my-checkpoint --out engines --precision fp16 --target portable \\
      --calibration calibration.json

FILE is a JSON list, or JSON Lines, of objects with `image` (a path, from the file's directory), `query`
and `answer`. The questions run through the checkpoint in 32-bit floats; how large every tensor gets decides
what fp16 leaves in 32 bits (and fp8 and int4 for GPUs), how int8 smooths outliers, and the scales of fp8. A few dozen questions of the
kind that will be asked are enough. Images that cannot be used are named, left out and counted.";

/// See how large a checkpoint's tensors get on your own images and questions
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Hugging Face checkpoint directory, or ORG/NAME on the hub
    checkpoint: PathBuf,
    /// Images and questions, in JSON
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The calibration to write
    #[arg(long, value_name = "FILE", default_value = "calibration.json")]
    output: PathBuf,
    /// Questions to ask at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    limit: usize,
    /// Side of the encoder's input, pixels; the native one unless given
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Tokens to answer with at most
    #[arg(long, value_name = "N", default_value_t = 16)]
    tokens: usize,
    /// Threads of ONNX Runtime; 0 takes one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Report in JSON, one object a line, on standard output
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { checkpoint, data, output, limit, image_size, tokens, threads, json } = self;
        let progress = Progress::detect(json);
        let options = Options { data, output, limit: Some(limit), image_size, tokens, threads };
        let calibration = calibrate::calibrate(&source(&checkpoint, progress)?.dir, &options, progress)?;
        if json {
            let result = json!({
                "event": "result",
                "output": options.output,
                "circumstances": calibration.circumstances,
                "adapter": calibration.adapter,
            });
            super::report(progress, &result)?;
        } else {
            progress.note(&report(&calibration));
            progress.note(&format!("wrote {}", options.output.display()));
        }
        Ok(())
    }
}

fn report(calibration: &Calibration) -> String {
    let circumstances = &calibration.circumstances;
    let mut table = Table::new(&["graph", ">tensors", ">largest into a linear layer", "where"]);
    for (graph, ranges) in &calibration.graphs {
        let inputs = ranges.activations.iter().map(|(name, of)| (name.as_str(), of.histogram.largest()));
        let (name, x) = inputs.max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or_default();
        table.row([graph.clone(), ranges.magnitudes.len().to_string(), format!("{x:.3e}"), name.to_owned()]);
    }
    let mut tiers = Table::new(&["visual tokens", ">mean", ">std", ">zeros"]);
    for tier in &calibration.adapter {
        let of = tier.statistics;
        tiers.row([
            format!("{} tokens", tier.tokens),
            format!("{:.5}", of.mean),
            format!("{:.5}", of.std),
            format!("{:.3}", of.sparsity),
        ]);
    }
    let size = circumstances.image_size.map(|size| format!(" at {size} pixels")).unwrap_or_default();
    format!(
        "{} questions about {} images{size}, {} images left out\n\n{table}\n{tiers}",
        circumstances.questions,
        circumstances.images,
        circumstances.skipped.len(),
    )
}
