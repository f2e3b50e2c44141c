//! `cargo xtask bench selectors`: which selector answers, on a stock checkpoint that reads.
//!
//! A reader of ARR-Ledger (docs/stock-reader.md), exported and run by `arrcoc-serve eval` on held-out pages.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::evaluations::publish;
use crate::bundles::{Build, Programs};
use crate::goldens::{environment, reference_dir};
use crate::onnxruntime;
use crate::shell;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The reader: what `train_stock.py` writes as `checkpoint`
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Pages of each data set, with four one-place questions each
    #[arg(long, default_value_t = 260)]
    pages: usize,
    /// Where data, engines and answers are written; a run that broke off goes on there
    /// [default: target/selectors]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

/// Pages of a kind, and the seed's name: none of them was looked at when the default selector was chosen.
struct Part {
    name: &'static str,
    heading: &'static str,
    flags: &'static [&'static str],
}

/// Densities that the reader reads: of what `full` does not answer, no selector can keep much.
const PARTS: [Part; 2] = [
    Part { name: "pages", heading: "", flags: &[] },
    Part { name: "records", heading: "Records alone", flags: &["--alone", "--records", "12,25,45"] },
];

const BUDGETS: &str = "16,32,64,100,200,auto";

pub(crate) fn run(args: &Args) -> Result<()> {
    let library = onnxruntime::fetch()?.context("the benchmark runs on ONNX Runtime")?;
    let programs = Programs::build(true)?;
    let work = args.work.clone().unwrap_or_else(|| shell::target("selectors"));
    let build = Build::cpu("stock-reader", "fp32");
    let bundle = programs.bundle(&args.checkpoint, &work.join("engines"), &build)?;
    let results = work.join("results");
    for part in PARTS {
        let data = ledger(args, &part, &work)?;
        let mut eval = programs.serve();
        eval.arg("eval").arg("--bundle").arg(&bundle).arg("--data").arg(&data).args(["--budgets", BUDGETS]);
        eval.args(["--engine-slots", "8"]);
        eval.arg("--output").arg(results.join(part.name)).env(onnxruntime::VARIABLE, &library);
        shell::check(&mut eval)?;
    }
    publish("selectors", &results, &PARTS.map(|part| (part.name, part.heading)))
}

/// A data set, made anew: the same seed makes the same pages.
fn ledger(args: &Args, part: &Part, work: &Path) -> Result<PathBuf> {
    let out = work.join(part.name);
    let mut make = environment()?.command();
    make.arg(reference_dir().join("make_ledger.py")).arg("--out").arg(&out).args(part.flags);
    make.args(["--controls", "0", "--seed", &format!("selectors/{}", part.name)]);
    make.arg("--pages").arg(args.pages.to_string());
    shell::check(&mut make)?;
    Ok(out.join("ledger.json"))
}
