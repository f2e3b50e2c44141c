//! `arrcoc-export build`.

use std::path::PathBuf;

use arrcoc_export::build::{self, Options, Summary};
use arrcoc_export::progress::{Progress, human_bytes};
use arrcoc_runtime::bundle::manifest::{Precision, Target};
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  arrcoc-export build ./my-checkpoint --out engines
  arrcoc-export build ./my-checkpoint --out engines --target portable --max-context 8192

Targets:
  cpu       ONNX Runtime on the CPU: fused attention, KV cache updated in place
  portable  standard operators only, opset 18: tract, and the second witness of `verify`

The bundle is written beside its place and moved there when it is complete: a build that is
killed leaves nothing that loads, and one that replaces a bundle does so in one step. A bundle
that is up to date is left alone.";

/// Build an engine bundle from a checkpoint
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Hugging Face checkpoint directory (config.json, safetensors, tokenizer)
    checkpoint: PathBuf,
    /// Directory of bundles; this one becomes DIR/NAME/PRECISION-TARGET
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Numeric precision of weights and compute [possible values: fp32]
    #[arg(long, default_value = "fp32", value_parser = precision)]
    precision: Precision,
    /// What the graphs are written for [possible values: cpu, portable]
    #[arg(long, default_value = "cpu", value_parser = target)]
    target: Target,
    /// Name of the model; the checkpoint directory's unless given
    #[arg(long)]
    name: Option<String>,
    /// Longest sequence, tokens; the model's own limit unless given
    #[arg(long, value_name = "TOKENS")]
    max_context: Option<usize>,
    /// Build even where the same bundle stands already
    #[arg(long)]
    force: bool,
    /// Report in JSON, one object a line, on standard output
    #[arg(long)]
    json: bool,
}

/// Parses a precision; those that the design names and this version lacks are refused with the reason.
fn precision(name: &str) -> Result<Precision, String> {
    match name {
        "fp32" => Ok(Precision::Fp32),
        "fp16" | "int8" | "int4" | "fp8" => {
            Err(format!("{name} bundles are not implemented in this version; fp32 is the only precision"))
        }
        _ => Err("expected fp32".to_owned()),
    }
}

/// Parses a target; likewise.
fn target(name: &str) -> Result<Target, String> {
    match name {
        "cpu" => Ok(Target::Cpu),
        "portable" => Ok(Target::Portable),
        "cuda" | "tensorrt" | "gpu" => {
            Err("bundles for GPUs need a precision below fp32, which this version does not build; use cpu or portable"
                .to_owned())
        }
        _ => Err("expected cpu or portable".to_owned()),
    }
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let progress = Progress::detect(self.json);
        let Self { checkpoint, out, precision, target, name, max_context, force, json } = self;
        let options = Options { out, precision, target, name, max_context, force };
        let summary = build::build(&checkpoint, &options, progress)?;
        if json {
            let mut result = json!({ "event": "result" });
            if let (Some(result), serde_json::Value::Object(summary)) =
                (result.as_object_mut(), serde_json::to_value(&summary)?)
            {
                result.extend(summary);
            }
            progress.result(&result);
        } else {
            progress.note(&sentence(&summary));
        }
        Ok(())
    }
}

fn sentence(summary: &Summary) -> String {
    let bundle = summary.bundle.display();
    if summary.up_to_date {
        return format!("{bundle} is up to date (--force builds it again)");
    }
    let (files, bytes, seconds) = (summary.files.len() + 1, human_bytes(summary.bytes), summary.seconds);
    let peak = summary.peak_memory_bytes.map(|peak| format!(", {} of memory at most", human_bytes(peak)));
    format!("{bundle}: {files} files, {bytes}, {seconds:.1} s{}", peak.unwrap_or_default())
}
