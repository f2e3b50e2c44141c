//! `cargo xtask bench relevance`: does it help to spend tokens where the question needs them?
//!
//! The shipped checkpoint, exported and run by `arrcoc-serve eval` on held-out pages of ARR-Ledger.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::report::{circumstances, write};
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
    publish(&results)
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

/// Puts the reports and their curves into docs.
fn publish(results: &Path) -> Result<()> {
    let mut result = json!({ "circumstances": circumstances() });
    let mut pages = Vec::new();
    for Part { name, heading, .. } in PARTS {
        let read = |file: &str| -> Result<String> {
            let path = results.join(name).join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            // Where the repository lies is nobody's business.
            Ok(text.replace(&format!("{}/", shell::root().display()), ""))
        };
        result[name] = serde_json::from_str(&read("eval.json")?)?;
        let curves = if heading.is_empty() { "relevance".to_owned() } else { format!("relevance-{name}") };
        for extension in ["svg", "png"] {
            let from = results.join(name).join(format!("curves.{extension}"));
            let to = shell::root().join("docs/images").join(format!("{curves}.{extension}"));
            fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        pages.push((heading, moved(&read("eval.md")?, &curves)));
    }
    write("relevance", &result, &joined(&pages))
}

/// A report with links that lead somewhere from docs/benchmarks.
fn moved(page: &str, curves: &str) -> String {
    page.replace("(curves.svg)", &format!("(../images/{curves}.svg)"))
        .replace("[eval.json](eval.json)", "[relevance.json](relevance.json)")
        .replace("[answers.jsonl](answers.jsonl)", "`answers.jsonl` of a run")
}

/// The first report as it is, the others below headings of their own.
fn joined(pages: &[(&str, String)]) -> String {
    // Headings go two levels down; a line of a table never begins with `#`.
    let demoted = |page: &str| -> String {
        let line =
            |line: &str| if line.starts_with('#') { format!("##{line}\n") } else { format!("{line}\n") };
        page.lines().map(line).collect()
    };
    let part = |(heading, page): &(&str, String)| match heading.is_empty() {
        true => page.clone(),
        false => format!("\n## {heading}\n\n{}", demoted(page)),
    };
    pages.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_is_a_part_of_the_first_and_links_lead_somewhere() {
        let half = "# m on d\n\n![curves](curves.svg)\n\n## Left out\n\n- x\n\nAll values: [eval.json](eval.json); \
                    every answer: [answers.jsonl](answers.jsonl).\n";
        let page = joined(&[
            ("", moved(half, "relevance")),
            ("Repacked positions", moved(half, "relevance-repacked")),
        ]);
        let headings: Vec<&str> = page.lines().filter(|line| line.starts_with('#')).collect();
        let expected = ["# m on d", "## Left out", "## Repacked positions", "### m on d", "#### Left out"];
        assert_eq!(headings, expected);
        for link in ["(../images/relevance.svg)", "(../images/relevance-repacked.svg)", "(relevance.json)"] {
            assert!(page.contains(link), "{link} is missing in {page}");
        }
        for broken in ["(curves.svg)", "(eval.json)", "(answers.jsonl)"] {
            assert!(!page.contains(broken), "{broken} is left in {page}");
        }
    }

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
