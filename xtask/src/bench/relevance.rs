//! `cargo xtask bench relevance`: does it help to spend tokens where the question needs them?
//!
//! The shipped checkpoint, exported and run by `arrcoc-serve eval` on held-out pages of ARR-Ledger.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::{circumstances, write};
use crate::bundles::Programs;
use crate::goldens::{environment, reference_dir};
use crate::onnxruntime;
use crate::shell;

const CHECKPOINTS: &str = "models/checkpoints";
const MODEL: &str = "arr-coc-ledger";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Checkpoint to evaluate [default: the shipped one]
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Pages with four one-place questions each
    #[arg(long, default_value_t = 252)]
    pages: usize,
    /// Pages for each kind of control question
    #[arg(long, default_value_t = 30)]
    controls: usize,
    /// Where data, engines and answers are written; a run that broke off goes on there [default: target/relevance]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let library = onnxruntime::fetch()?.context("the benchmark runs on ONNX Runtime")?;
    let programs = Programs::build(true)?;
    let work = args.work.clone().unwrap_or_else(|| shell::target("relevance"));
    let data = ledger(args, &work)?;
    let checkpoint = args.checkpoint.clone().unwrap_or_else(|| shell::root().join(CHECKPOINTS).join(MODEL));
    let bundle = programs.bundle(&checkpoint, &work.join("engines"), MODEL, "cpu")?;
    let results = work.join("results");
    // The question of positions needs one arm only.
    for (name, more) in [
        ("original", &["--arms", "all"][..]),
        ("repacked", &["--arms", "query_aware", "--positions", "repacked"][..]),
    ] {
        let mut eval = programs.serve();
        eval.arg("eval").arg("--bundle").arg(&bundle).arg("--data").arg(&data).args(more);
        eval.arg("--grid-neck")
            .arg(shell::root().join(CHECKPOINTS).join("arr-coc-ledger-grid-neck.safetensors"));
        eval.arg("--output").arg(results.join(name)).env(onnxruntime::VARIABLE, &library);
        shell::check(&mut eval)?;
    }
    publish(&results)
}

/// The data set, made anew: the same seed makes the same pages.
fn ledger(args: &Args, work: &Path) -> Result<PathBuf> {
    let data = work.join("data");
    let mut make = environment()?.command();
    make.arg(reference_dir().join("make_ledger.py")).arg("--out").arg(&data);
    make.arg("--pages").arg(args.pages.to_string()).arg("--controls").arg(args.controls.to_string());
    shell::check(&mut make)?;
    Ok(data.join("ledger.json"))
}

/// Puts the report and its curves into docs.
fn publish(results: &Path) -> Result<()> {
    let read = |name: &str, file: &str| -> Result<String> {
        let path = results.join(name).join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let summary = |name: &str| -> Result<Value> { Ok(serde_json::from_str(&read(name, "eval.json")?)?) };
    let images = shell::root().join("docs/images");
    for extension in ["svg", "png"] {
        let curves = results.join("original").join(format!("curves.{extension}"));
        fs::copy(&curves, images.join(format!("relevance.{extension}")))
            .with_context(|| format!("cannot copy {}", curves.display()))?;
    }
    let result = json!({
        "circumstances": circumstances(),
        "original": summary("original")?,
        "repacked": summary("repacked")?,
    });
    let page = format!(
        "{}\n## Repacked positions\n\n{}",
        read("original", "eval.md")?.replace("curves.svg", "../images/relevance.svg"),
        read("repacked", "eval.md")?.replace("\n# ", "\n### ").replace("\n## ", "\n### "),
    );
    write("relevance", &result, &page)
}
