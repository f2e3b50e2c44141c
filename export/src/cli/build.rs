//! `arrcoc-export build`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use arrcoc_bundle::yaml;
use arrcoc_bundle::{Precision, Target, UnknownTarget, WeightRule};
use arrcoc_export::build::{self, Options, Summary};
use arrcoc_export::calibrate::{Calibration, RangeMethod};
use arrcoc_export::progress::{Progress, human_bytes};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::report;
use super::source::source;

const EXAMPLES: &str = "\
Examples:
  arrcoc-export build ./my-checkpoint && arrcoc-serve serve
  arrcoc-export build HuggingFaceTB/SmolVLM-256M-Instruct
  arrcoc-export build ./my-checkpoint --precision int8
  arrcoc-export build ./my-checkpoint --out elsewhere --target portable --max-context 8192

Precisions:
  fp32  the reference
  int8  encoders in int8 (weights per output channel, activations per token), decoder and
        embeddings in blocks of 32 8-bit numbers; the default choice on CPUs with AVX-512 VNNI or AMX
  int4  for cpu as int8, with the decoder's layers in blocks of 32 4-bit numbers; for cuda and
        portable as fp16, with the decoder's layers in such blocks
  fp16  weights, products and the KV cache in 16 bits; what `arrcoc-export calibrate` saw come near
        their end stays in 32 and is listed in the manifest
  fp8   as fp16, with weights and products in 8-bit floats (E4M3), for Ada and Hopper
int8 is built for cpu, fp16 and fp8 for cuda and portable, fp32 and int4 for all. --weight-rules FILE changes the form of single weights:
  - {graph: vision_encoder, tensor: \"*.layers.0.*\", form: fp32}
  - {graph: decoder, operator: Gemm, form: int4-block32-asymmetric}
The last rule that fits counts; forms are fp32, fp16, fp8, w8a8, int8-blockN and int4-blockN, the
latter two with -asymmetric behind them where blocks are to have zero points (TensorRT takes none).

Targets:
  cpu       ONNX Runtime on the CPU: fused attention, KV cache updated in place
  cuda      ONNX Runtime on CUDA: attention over a KV cache that is updated in place on the GPU, all
            answers in one step; fp32 runs on the CPU only
  portable  standard operators only, opset 18 (fp8, int4: 21): TensorRT, tract, CUDA one answer after the
            other, and the second witness of `verify`

The bundle is written beside its place and moved there when it is complete: a build that is
killed leaves nothing that loads, and one that replaces a bundle does so in one step. A bundle
that is up to date is left alone.";

/// Build an engine bundle from a checkpoint
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Hugging Face checkpoint directory (config.json, safetensors, tokenizer), or ORG/NAME on the hub
    checkpoint: PathBuf,
    /// Directory of bundles; this one becomes DIR/NAME/PRECISION-TARGET
    #[arg(long, value_name = "DIR", default_value = "engines")]
    out: PathBuf,
    /// Numeric precision of weights and compute
    #[arg(long, default_value = "fp32", value_parser = precision())]
    precision: Precision,
    /// What the graphs are written for [possible values: cpu, cuda, portable]
    #[arg(long, default_value = "cpu", value_parser = target)]
    target: Target,
    /// YAML list of rules that give weights another form than the precision does
    #[arg(long, value_name = "FILE")]
    weight_rules: Option<PathBuf>,
    /// What `arrcoc-export calibrate` wrote of this checkpoint: fp16, fp8 and int4 for GPUs need it, int8 and
    /// int4 for cpu smooth outliers with it
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// How the range of a linear layer's input is chosen, for fp8: as large as was seen (absmax), or less, so
    /// that the rest is told apart better (entropy, percentile)
    #[arg(long, value_name = "METHOD", value_parser = range_method)]
    range: Option<RangeMethod>,
    /// Name of the model; the checkpoint directory's, or NAME of ORG/NAME, unless given
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

/// Parses a precision, and tells shells which there are.
fn precision() -> impl TypedValueParser<Value = Precision> {
    PossibleValuesParser::new(Precision::ALL.map(Precision::name)).try_map(|name| name.parse())
}

/// Parses a target.
fn target(name: &str) -> Result<Target, String> {
    name.parse().map_err(|unknown: UnknownTarget| match name {
        "tensorrt" => "TensorRT takes portable bundles".to_owned(),
        "gpu" => "for GPUs there are cuda and, for TensorRT, portable".to_owned(),
        _ => unknown.to_string(),
    })
}

fn range_method(name: &str) -> Result<RangeMethod, String> {
    match name {
        "absmax" => Ok(RangeMethod::Absmax),
        "entropy" => Ok(RangeMethod::Entropy),
        "percentile" => Ok(RangeMethod::Percentile),
        _ => Err("expected absmax, entropy or percentile".to_owned()),
    }
}

fn read_rules(path: &Path) -> anyhow::Result<Vec<WeightRule>> {
    let text = yaml::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let expected = "expected a list of rules with `form` and any of `graph`, `role`, `tensor` and `operator`";
    yaml::parse(&text).with_context(|| format!("{}: {expected}", path.display()))
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let progress = Progress::detect(self.json);
        let Self {
            checkpoint,
            out,
            precision,
            target,
            weight_rules,
            calibration,
            range,
            name,
            max_context,
            force,
            json,
        } = self;
        let weight_rules = weight_rules.map(|path| read_rules(&path)).transpose()?.unwrap_or_default();
        if precision == Precision::Fp32 && calibration.is_some() {
            bail!("--calibration: fp32 has no use for one; leave it out, or choose another --precision");
        }
        if precision != Precision::Fp8 && range.is_some() {
            bail!(
                "--range is for fp8, whose activations have scales of their own; leave it out, or take --precision fp8"
            );
        }
        let calibration = calibration.map(|path| Calibration::read(&path)).transpose()?;
        let range = range.unwrap_or(RangeMethod::Absmax);
        let source = source(&checkpoint, progress)?;
        let name = name.or(source.name);
        let options =
            Options { out, precision, target, weight_rules, calibration, range, name, max_context, force };
        let summary = build::build(&source.dir, &options, progress)?;
        if json {
            let mut result = json!({ "event": "result" });
            if let (Some(result), serde_json::Value::Object(summary)) =
                (result.as_object_mut(), serde_json::to_value(&summary)?)
            {
                result.extend(summary);
            }
            report(progress, &result)?;
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
