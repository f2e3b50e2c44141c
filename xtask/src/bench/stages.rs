//! `cargo xtask bench stages`: seconds per stage of one answer, in ONNX Runtime and in PyTorch, alternating.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::report::{circumstances, measure, summary, write};
use crate::bundles::Programs;
use crate::goldens::{environment, reference_dir};
use crate::onnxruntime;
use crate::shell;

/// The one stage that runs once per token, behind the first one.
const STEP: &str = "decode_step";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint, for PyTorch
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Bundles exported from it, for us; the first is what the others are compared with
    #[arg(long = "bundle", value_name = "DIR", required = true)]
    bundles: Vec<PathBuf>,
    /// Photograph
    #[arg(long, value_name = "FILE", default_value = "tests/fixtures/images/rocket.jpg")]
    image: PathBuf,
    /// Question; presets have one token per byte
    #[arg(long, default_value = "What's here?")]
    question: String,
    /// Its length in tokens
    #[arg(long, default_value_t = 12)]
    query_length: usize,
    /// Visual tokens
    #[arg(long, default_value_t = 256)]
    tier: usize,
    /// Input size of the vision encoder, pixels
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rounds, each a run of every side
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Name of the page below docs/benchmarks
    #[arg(long, default_value = "stages")]
    page: String,
}

/// Who is measured.
enum Side {
    /// A bundle on ONNX Runtime.
    Bundle { name: String, dir: PathBuf },
    /// The reference in an element type.
    Torch { dtype: &'static str },
}

impl Side {
    fn name(&self) -> String {
        match self {
            Self::Bundle { name, .. } => name.clone(),
            Self::Torch { dtype } => format!("PyTorch {dtype}"),
        }
    }
}

/// What one side took.
#[derive(Default)]
struct Taken {
    /// By stage, in the order in which they ran: one value per round.
    seconds: Vec<(String, Vec<f64>)>,
    peak_mib: Vec<f64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let programs = Programs::build(true)?;
    let library = onnxruntime::fetch()?.context("there is nothing to measure without ONNX Runtime")?;
    let environment = environment()?;
    let bundles = args.bundles.iter().map(|dir| {
        let name = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Side::Bundle { name, dir: absolute(dir)? })
    });
    let mut sides = bundles.collect::<Result<Vec<_>>>()?;
    sides.extend(["float32", "bfloat16"].map(|dtype| Side::Torch { dtype }));
    let mut taken: Vec<Taken> = sides.iter().map(|_| Taken::default()).collect();
    let mut torch_version = Value::Null;
    for round in 1..=args.rounds {
        for (side, taken) in sides.iter().zip(&mut taken) {
            let (seconds, peak_mib) = match side {
                Side::Bundle { dir, .. } => {
                    let mut ask = programs.serve();
                    ask.env(onnxruntime::VARIABLE, &library);
                    let (report, peak) = reported(ask_arguments(&mut ask, args, dir)?)?;
                    (our_stages(&report), peak)
                }
                Side::Torch { dtype } => {
                    let mut bench = environment.command();
                    let (report, peak) = reported(torch_arguments(&mut bench, args, dtype)?)?;
                    torch_version = report["torch"].clone();
                    (report["seconds"].clone(), peak)
                }
            };
            add(&mut taken.seconds, &seconds).with_context(|| side.name())?;
            taken.peak_mib.push(peak_mib);
        }
        println!("round {round} of {}", args.rounds);
    }
    let columns = sides.iter().zip(&taken).map(|(side, taken)| {
        let stages: Value =
            taken.seconds.iter().map(|(stage, seconds)| (stage.clone(), summary(seconds))).collect();
        json!({"name": side.name(), "seconds": stages, "peak_rss_mib": summary(&taken.peak_mib)})
    });
    let result = json!({
        "circumstances": circumstances(),
        "size": args.size, "tier": args.tier, "query_length": args.query_length,
        "threads": args.threads, "rounds": args.rounds, "torch_version": torch_version,
        "sides": columns.collect::<Vec<_>>(),
    });
    write(&args.page, &result, &page(&result))
}

fn reported(command: &Command) -> Result<(Value, f64)> {
    let measured = measure(command)?;
    let report = serde_json::from_str(&measured.stdout)
        .with_context(|| format!("`{}` printed no JSON", command.get_program().display()))?;
    Ok((report, measured.peak_mib))
}

fn ask_arguments<'a>(ask: &'a mut Command, args: &Args, bundle: &Path) -> Result<&'a Command> {
    // PyTorch repeats each stage as well, and knows no caches.
    ask.args(["ask", &args.question, "--json", "--max-tokens", "17", "--repeat", "4"]);
    ask.args(["--engine-feature-cache", "0", "--engine-token-cache", "0"]);
    ask.arg("--bundle").arg(bundle).arg("--image").arg(absolute(&args.image)?);
    ask.args(["--budget", &args.tier.to_string(), "--engine-image-size", &args.size.to_string()]);
    Ok(ask.args(["--engine-threads", &args.threads.to_string()]))
}

fn torch_arguments<'a>(bench: &'a mut Command, args: &Args, dtype: &str) -> Result<&'a Command> {
    bench.arg(reference_dir().join("bench_stages.py"));
    bench.arg("--checkpoint").arg(absolute(&args.checkpoint)?).args(["--dtype", dtype]);
    for (flag, value) in [
        ("--size", args.size),
        ("--tier", args.tier),
        ("--threads", args.threads),
        ("--query-length", args.query_length),
    ] {
        bench.arg(flag).arg(value.to_string());
    }
    Ok(bench)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(if path.is_absolute() { path.to_path_buf() } else { shell::root().join(path) })
}

/// Seconds by stage, of what `arrcoc-serve ask --json` says. There all steps of the decoder are one sum, here
/// one step.
pub(crate) fn our_stages(report: &Value) -> Value {
    let all = report["seconds"]["stages"].as_array().into_iter().flatten();
    // The first token comes from the prompt; every further one takes a step.
    let steps = report["usage"]["completion_tokens"].as_f64().unwrap_or(f64::NAN) - 1.0;
    let seconds = |run: &Value| {
        let stage = run["stage"].as_str()?;
        let sum = run["seconds"].as_f64()?;
        Some((stage.to_owned(), json!(if stage == STEP { sum / steps } else { sum })))
    };
    all.filter_map(seconds).collect()
}

/// Adds a round. Every round has the same stages, or a median would be of other rounds than its neighbour's.
fn add(all: &mut Vec<(String, Vec<f64>)>, round: &Value) -> Result<()> {
    let round = round.as_object().filter(|round| !round.is_empty()).context("no times of stages")?;
    if all.is_empty() {
        all.extend(round.keys().map(|stage| (stage.clone(), Vec::new())));
    }
    if !all.iter().map(|(stage, _)| stage).eq(round.keys()) {
        let [before, now] = [all.iter().map(|(stage, _)| stage).collect(), round.keys().collect::<Vec<_>>()];
        bail!("expected the stages of the first round, {before:?}, found {now:?}");
    }
    for (stage, seconds) in all {
        seconds
            .push(round[stage.as_str()].as_f64().with_context(|| format!("no time of the stage {stage}"))?);
    }
    Ok(())
}

/// The stages that any of the runs has, each run's in its own order; `runs` are objects with a key per stage.
pub(crate) fn union<'a>(runs: impl Iterator<Item = &'a Value>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        let mut next = 0;
        for name in run.as_object().into_iter().flat_map(|run| run.keys()) {
            next = match names.iter().position(|known| known == name) {
                Some(at) => at + 1,
                None => {
                    names.insert(next, name);
                    next + 1
                }
            };
        }
    }
    names
}

/// A row per stage, a column per side, and the time to the first token below. A side without a stage has a
/// dash there.
fn page(result: &Value) -> String {
    let sides = result["sides"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |side: &Value| side["name"].as_str().unwrap_or_default().to_owned();
    let seconds = |side: &Value, stage: &str| side["seconds"][stage]["median"].as_f64();
    let row = |label: &str, cells: Vec<String>| format!("| {label} | {} |\n", cells.join(" | "));
    let mut page = format!(
        "# Seconds per stage\n\nOne photograph at {} px, a question of {} tokens, {} visual tokens, {} threads, nothing cached; medians of {} \
         rounds, alternating. PyTorch {} with SDPA; bfloat16 by autocast.\n\n",
        result["size"],
        result["query_length"],
        result["tier"],
        result["threads"],
        result["rounds"],
        result["torch_version"].as_str().unwrap_or_default(),
    );
    page += &row("stage", sides.iter().map(&name).collect());
    page += &row("---", sides.iter().map(|_| "---".to_owned()).collect());
    let stages = union(sides.iter().map(|side| &side["seconds"]));
    for stage in &stages {
        let cell = |side: &Value| seconds(side, stage).map_or_else(|| "-".to_owned(), |x| format!("{x:.4}"));
        page += &row(stage, sides.iter().map(cell).collect());
    }
    // The sum of what every side has, without the steps behind the first token. PyTorch gets pixels, so that
    // our reading of the file, some ten milliseconds, is not in the sum.
    let shared = |stage: &&&str| **stage != STEP && sides.iter().all(|side| seconds(side, stage).is_some());
    let first =
        |side: &Value| stages.iter().filter(shared).filter_map(|stage| seconds(side, stage)).sum::<f64>();
    page += &row("**first token**", sides.iter().map(|side| format!("**{:.3}**", first(side))).collect());
    let memory = |side: &Value| side["peak_rss_mib"]["median"].as_f64().unwrap_or(f64::NAN);
    page +=
        &row("peak resident memory, MiB", sides.iter().map(|side| format!("{:.0}", memory(side))).collect());
    page + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_from_the_report() {
        let stages =
            json!([{"stage": "new_graph", "seconds": 2.0}, {"stage": "decode_step", "seconds": 3.0}]);
        let report = json!({"seconds": {"stages": stages}, "usage": {"completion_tokens": 4}});
        assert_eq!(our_stages(&report), json!({"new_graph": 2.0, "decode_step": 1.0}));
    }

    #[test]
    fn a_stage_that_one_side_lacks_has_a_row_and_no_place_in_the_sum() {
        let side = |name: &str, stages: &[(&str, f64)]| {
            let seconds: Value =
                stages.iter().map(|(stage, x)| ((*stage).to_owned(), summary(&[*x]))).collect();
            json!({"name": name, "seconds": seconds, "peak_rss_mib": summary(&[1.0])})
        };
        let ours = side("ours", &[("preprocess", 0.5), ("new_graph", 2.0), ("prefill", 1.0), (STEP, 7.0)]);
        let torch = side("torch", &[("new_graph", 4.0), ("prefill", 3.0), (STEP, 9.0)]);
        let page = page(&json!({"sides": [torch, ours]}));
        let rows = "| preprocess | - | 0.5000 |\n| new_graph | 4.0000 | 2.0000 |\n| prefill | 3.0000 | 1.0000 |\n\
                    | decode_step | 9.0000 | 7.0000 |\n| **first token** | **7.000** | **3.000** |\n";
        assert!(page.contains(rows), "{page}");
    }

    #[test]
    fn rounds_have_the_same_stages() {
        let mut all = Vec::new();
        add(&mut all, &json!({"a": 1.0, "b": 2.0})).expect("a first round");
        assert!(add(&mut all, &json!({"a": 1.0})).is_err());
        assert!(add(&mut Vec::new(), &json!({})).is_err());
    }
}
