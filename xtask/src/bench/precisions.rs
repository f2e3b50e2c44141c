//! `cargo xtask bench precisions`: what every precision costs in exactness, and saves on disk, at real width.
//!
//! Each bundle is held against the fp32 graphs on tract (`arrcoc-export verify`), on random weights: what is
//! compared is the arithmetic, not what it is good for. For that, see the trained checkpoint in
//! docs/relevance.md.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::{circumstances, measure, write};
use crate::bundles::{Build, PHOTOGRAPHS, Programs};
use crate::onnxruntime;
use crate::shell;

/// Precision and target.
const BUNDLES: [(&str, &str); 7] = [
    ("fp32", "portable"),
    ("fp32", "cpu"),
    ("int8", "cpu"),
    ("int4", "cpu"),
    ("fp16", "portable"),
    ("fp8", "portable"),
    ("int4", "portable"),
];

/// What graphs are for that precisions change; their outputs are shown, embeddings aside.
const ROLES: [&str; 2] = ["encoder", "decoder"];

/// What `verify` said of such outputs.
fn shown(bundle: &Value) -> impl Iterator<Item = &Value> {
    let stages = bundle["verify"]["stages"].as_array().into_iter().flatten();
    stages.filter(|row| ROLES.iter().any(|role| row["role"] == *role))
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Checkpoint [default: a random one of the preset arr-coc-ovis-base]
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Side of the test image, pixels
    #[arg(long, default_value_t = 512)]
    size: usize,
    /// Tokens to decode
    #[arg(long, default_value_t = 16)]
    tokens: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let library = onnxruntime::fetch()?.context("there is nothing to measure without ONNX Runtime")?;
    let programs = Programs::build(true)?;
    let work = shell::target("bench");
    let checkpoint = match &args.checkpoint {
        Some(dir) => dir.clone(),
        None => programs.real_width(&work.join("checkpoints"))?,
    };
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let engines = work.join("engines");
    let calibration = programs.calibration(&checkpoint, &work, &library)?;
    let mut rows = Vec::new();
    for (precision, target) in BUNDLES {
        let build = match (target, precision) {
            ("portable", "fp32") => Build::portable(&name),
            ("portable", _) => Build::calibrated(&name, precision, &calibration),
            _ => Build::cpu(&name, precision),
        };
        let bundle = programs.bundle(&checkpoint, &engines, &build)?;
        println!("{}", shell::shown(&bundle));
        rows.push(row(args, &programs, &library, &bundle)?);
    }
    let result = json!({
        "circumstances": circumstances(), "checkpoint": name, "size": args.size, "tokens": args.tokens, "bundles": rows,
    });
    write("precisions", &result, &page(&result))
}

fn row(args: &Args, programs: &Programs, library: &Path, bundle: &Path) -> Result<Value> {
    let mut verify = programs.export();
    verify.env(onnxruntime::VARIABLE, library).arg("verify").arg(bundle).arg("--json");
    // What the calibration saw, so that fp8's scales fit.
    verify.arg("--image").arg(shell::root().join(PHOTOGRAPHS[0]));
    verify.args(["--image-size", &args.size.to_string(), "--tokens", &args.tokens.to_string()]);
    let measured = measure(&verify)?;
    let mut report: Value = serde_json::from_str(&measured.stdout).context("verify printed no JSON")?;
    // Names, not where they lie on this machine.
    for of in ["bundle", "reference"] {
        let path = PathBuf::from(report[of].as_str().unwrap_or_default());
        report[of] = json!(path.file_name().unwrap_or_default().to_string_lossy());
    }
    let files = std::fs::read_dir(bundle)?.map(|entry| Ok(entry?.metadata()?.len()));
    let bytes: u64 = files.sum::<Result<u64>>()?;
    let name = bundle.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(json!({"bundle": name, "bytes": bytes, "peak_mib": measured.peak_mib, "verify": report}))
}

fn page(result: &Value) -> String {
    // Graphs are the same in every bundle.
    let bundles = result["bundles"].as_array().map(Vec::as_slice).unwrap_or_default();
    let graphs: Vec<&str> =
        bundles.iter().take(1).flat_map(shown).filter_map(|row| row["stage"].as_str()).collect();
    let mut page = format!(
        "# Precisions\n\n`{}`, random weights, one photograph at {} px, every tier, {} greedy tokens; each bundle on ONNX Runtime against the fp32 \
         graphs on tract. Distance is max|a-b|/max|b|, the inputs of a stage being the same on both sides; seconds are of the stage's runs \
         together (prefill and all steps for the decoder), on this CPU: fp16, fp8 and int4-portable are for GPUs. Peak memory is that of both sides.\n\n\
         Columns of graphs: distance, cosine, seconds.\n\n\
         | bundle | MB | {} | greedy tokens equal, differing, tied | peak MiB | |\n\
         |---|---|{}---|---|---|\n",
        result["checkpoint"].as_str().unwrap_or_default(),
        result["size"],
        result["tokens"],
        graphs.join(" | "),
        "---|".repeat(graphs.len()),
    );
    for bundle in bundles {
        let verify = &bundle["verify"];
        let cell = |row: &Value| {
            let number = |of: &str| row[of].as_f64().unwrap_or(f64::NAN);
            format!("{:.1e}, {:.6}, {:.2}", number("distance"), number("cosine"), number("seconds"))
        };
        let [tokens, agreeing, differing] =
            ["tokens", "agreeing", "differing"].map(|of| verify["decoding"][of].as_u64().unwrap_or(0));
        page += &format!(
            "| {} | {:.0} | {} | {agreeing}, {differing}, {} | {:.0} | {} |\n",
            bundle["bundle"].as_str().unwrap_or_default(),
            bundle["bytes"].as_f64().unwrap_or(0.0) / 1e6,
            shown(bundle).map(cell).collect::<Vec<_>>().join(" | "),
            tokens.saturating_sub(agreeing + differing),
            bundle["peak_mib"].as_f64().unwrap_or(0.0),
            if verify["passed"] == true { "passed" } else { "FAILED" },
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_verify_said() {
        let stage = |stage: &str, role: &str| json!({"stage": stage, "role": role, "distance": 0.012, "cosine": 0.9999, "seconds": 1.5});
        let stages = [("eye", "encoder"), ("picker", "chooser"), ("mouth", "decoder")];
        let stages: Vec<Value> = stages.iter().map(|(name, role)| stage(name, role)).collect();
        let result = json!({"checkpoint": "m", "size": 512, "tokens": 16, "bundles": [{
            "bundle": "int8-cpu", "bytes": 2_000_000, "peak_mib": 100.0,
            "verify": {"passed": true, "stages": stages, "decoding": {"tokens": 16, "agreeing": 14, "differing": 1}},
        }]});
        let page = page(&result);
        let row =
            "| int8-cpu | 2 | 1.2e-2, 0.999900, 1.50 | 1.2e-2, 0.999900, 1.50 | 14, 1, 1 | 100 | passed |";
        assert!(page.contains(row) && page.contains("| MB | eye | mouth | greedy"), "{page}");
    }
}
