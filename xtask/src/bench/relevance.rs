//! `cargo xtask bench relevance`: does it help to spend tokens where the question needs them?
//!
//! The shipped checkpoint, exported and run by `arrcoc-serve eval` on held-out pages of ARR-Ledger.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::evaluations::publish;
use crate::bundles::{Build, Programs};
use crate::goldens::{environment, reference_dir};
use crate::onnxruntime;
use crate::shell;

const CHECKPOINTS: &str = "reference/checkpoints";
const MODEL: &str = "arr-coc-ledger";
const NECK: &str = "arr-coc-ledger-grid-neck.safetensors";

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
    /// Pages at each density of the sweep
    #[arg(long, default_value_t = 60)]
    sweep: usize,
    /// Where data, engines and answers are written; a run that broke off goes on there
    /// [default: target/relevance]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

/// One run of `arrcoc-serve eval`, and its part of the page.
struct Part {
    name: &'static str,
    heading: &'static str,
    precision: &'static str,
    data: Data,
    flags: &'static [&'static str],
}

/// Which pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// Of the density of training, with tables and charts, and the controls.
    Pages,
    /// Records alone, from a few to more than training ever had.
    Sweep,
}

impl Data {
    const fn name(self) -> &'static str {
        match self {
            Self::Pages => "data",
            Self::Sweep => "sweep",
        }
    }
}

/// The first has every arm; what the others ask about needs fewer.
const PARTS: [Part; 7] = [
    Part { name: "original", heading: "", precision: "fp32", data: Data::Pages, flags: &["--arms", "all"] },
    Part {
        name: "density",
        heading: "Density",
        precision: "fp32",
        data: Data::Sweep,
        flags: &[
            "--arms",
            "query_aware,query_aware_choice,agnostic,grid,downsampled,oracle,shuffled",
            "--budgets",
            "16,32,64,100",
        ],
    },
    Part {
        name: "repacked",
        heading: "Repacked positions",
        precision: "fp32",
        data: Data::Pages,
        flags: &["--arms", "query_aware", "--positions", "repacked"],
    },
    Part { name: "fp16", heading: "fp16", precision: "fp16", data: Data::Pages, flags: PRECISION_FLAGS },
    Part { name: "fp8", heading: "fp8", precision: "fp8", data: Data::Pages, flags: PRECISION_FLAGS },
    Part { name: "int8", heading: "int8", precision: "int8", data: Data::Pages, flags: PRECISION_FLAGS },
    Part { name: "int4", heading: "int4", precision: "int4", data: Data::Pages, flags: PRECISION_FLAGS },
];
const PRECISION_FLAGS: &[&str] = &["--arms", "query_aware", "--budgets", "16,64,auto"];

pub(crate) fn run(args: &Args) -> Result<()> {
    let library = onnxruntime::fetch()?.context("the benchmark runs on ONNX Runtime")?;
    let programs = Programs::build(true)?;
    let work = args.work.clone().unwrap_or_else(|| shell::target("relevance"));
    for data in [Data::Pages, Data::Sweep] {
        ledger(args, data, &work)?;
    }
    let checkpoint = args.checkpoint.clone().unwrap_or_else(|| shell::root().join(CHECKPOINTS).join(MODEL));
    // On other pages than those of the evaluation.
    let questions = work.join(Data::Sweep.name()).join("ledger.json");
    let calibration = programs.calibrate(&checkpoint, &questions, &work, &library)?;
    let results = work.join("results");
    for Part { name, precision, data, flags, .. } in PARTS {
        let engines = work.join("engines");
        let build = match precision {
            "fp16" | "fp8" => Build::calibrated(MODEL, precision, &calibration),
            _ => Build::cpu(MODEL, precision),
        };
        let bundle = programs.bundle(&checkpoint, &engines, &build)?;
        let data = work.join(data.name()).join("ledger.json");
        let mut eval = programs.serve();
        eval.arg("eval").arg("--bundle").arg(&bundle).arg("--data").arg(&data).args(flags);
        if let Some(neck) = neck(args.checkpoint.as_deref()) {
            eval.arg("--grid-neck").arg(neck);
        }
        eval.arg("--output").arg(results.join(name)).env(onnxruntime::VARIABLE, &library);
        shell::check(&mut eval)?;
    }
    let parts = PARTS.map(|part| (part.name, part.heading));
    publish("relevance", &results, &parts)
}

/// The neck that was trained with the checkpoint: beside the shipped one, or where training puts it. Another
/// checkpoint's would be no baseline; without one, `grid` takes means, and the page says so.
fn neck(checkpoint: Option<&Path>) -> Option<PathBuf> {
    match checkpoint {
        None => Some(shell::root().join(CHECKPOINTS).join(NECK)),
        Some(dir) => Some(dir.join("../arms/grid_neck.safetensors")).filter(|neck| neck.is_file()),
    }
}

/// A data set, made anew: the same seed makes the same pages.
fn ledger(args: &Args, data: Data, work: &Path) -> Result<()> {
    let (pages, controls, sweep) = match data {
        Data::Pages => (args.pages, args.controls, 0),
        Data::Sweep => (0, 0, args.sweep),
    };
    let mut make = environment()?.command();
    make.arg(reference_dir().join("make_ledger.py")).arg("--out").arg(work.join(data.name()));
    make.args(["--seed", if data == Data::Sweep { "sweep" } else { "evaluation" }]);
    for (flag, count) in [("--pages", pages), ("--controls", controls), ("--sweep", sweep)] {
        make.arg(flag).arg(count.to_string());
    }
    shell::check(&mut make)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_checkpoint_has_the_neck_beside_it_or_none() {
        let root = std::env::temp_dir().join(format!("arrcoc-relevance-{}", std::process::id()));
        let checkpoint = root.join("checkpoint");
        fs::create_dir_all(root.join("arms")).expect("a temporary directory can be made");
        fs::create_dir_all(&checkpoint).expect("a temporary directory can be made");
        assert_eq!(neck(Some(&checkpoint)), None);
        fs::write(root.join("arms/grid_neck.safetensors"), b"").expect("a temporary file can be written");
        assert_eq!(neck(Some(&checkpoint)), Some(checkpoint.join("../arms/grid_neck.safetensors")));
        assert!(neck(None).is_some_and(|neck| neck.ends_with(NECK)));
        fs::remove_dir_all(&root).expect("a temporary directory can be removed");
    }
}
