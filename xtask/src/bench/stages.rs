//! `cargo xtask bench stages`: seconds per stage of one answer, in ONNX Runtime and in PyTorch, alternating.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::{circumstances, measure, median, write};
use crate::bundles::Programs;
use crate::goldens::{environment, reference_dir};
use crate::onnxruntime;
use crate::shell;

/// The stages that both have, in order.
const STAGES: [&str; 7] =
    ["vision_encoder", "allocator", "compressor", "refiner", "quality_adapter", "prefill", "decode_step"];

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
    /// By stage, one value per round.
    seconds: BTreeMap<&'static str, Vec<f64>>,
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
            add(&mut taken.seconds, &seconds)?;
            taken.peak_mib.push(peak_mib);
        }
        println!("round {round} of {}", args.rounds);
    }
    let columns = sides.iter().zip(&taken).map(|(side, taken)| {
        let stages: Value =
            STAGES.iter().map(|stage| (stage.to_string(), summary(&taken.seconds[stage]))).collect();
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

/// What `arrcoc-serve ask --json` says: all steps of the decoder together, of which we want one.
pub(crate) fn our_stages(report: &Value) -> Value {
    let all = report["seconds"]["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
    // The first token comes from the prompt; every further one takes a step.
    let steps = report["usage"]["completion_tokens"].as_f64().unwrap_or(f64::NAN) - 1.0;
    let seconds = |stage: &str| -> f64 {
        let runs = all.iter().filter(|run| run["stage"] == stage);
        let times: Vec<f64> = runs.filter_map(|run| run["seconds"].as_f64()).collect();
        match times.iter().sum::<f64>() {
            // No number in JSON: `add` then says which stage is missing.
            _ if times.is_empty() => f64::NAN,
            sum if stage == "decode_step" => sum / steps,
            sum => sum,
        }
    };
    STAGES.iter().map(|stage| (stage.to_string(), json!(seconds(stage)))).collect()
}

fn add(all: &mut BTreeMap<&'static str, Vec<f64>>, one: &Value) -> Result<()> {
    for stage in STAGES {
        let seconds =
            one[stage].as_f64().with_context(|| format!("no time of the stage {stage} in {one}"))?;
        all.entry(stage).or_default().push(seconds);
    }
    Ok(())
}

fn summary(values: &[f64]) -> Value {
    json!({"median": median(values), "all": values})
}

/// A row per stage, a column per side, and the time to the first token below.
fn page(result: &Value) -> String {
    let sides = result["sides"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |side: &Value| side["name"].as_str().unwrap_or_default().to_owned();
    let seconds = |side: &Value, stage: &str| side["seconds"][stage]["median"].as_f64().unwrap_or(f64::NAN);
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
    for stage in STAGES {
        page += &row(stage, sides.iter().map(|side| format!("{:.4}", seconds(side, stage))).collect());
    }
    // All but the steps behind the first token; decoding and preprocessing the image, some ten milliseconds, are not in it.
    let first =
        |side: &Value| STAGES[..STAGES.len() - 1].iter().map(|stage| seconds(side, stage)).sum::<f64>();
    page += &row("**first token**", sides.iter().map(|side| format!("**{:.3}**", first(side))).collect());
    let memory = |side: &Value| side["peak_rss_mib"]["median"].as_f64().unwrap_or(f64::NAN);
    page +=
        &row("peak resident memory, MiB", sides.iter().map(|side| format!("{:.0}", memory(side))).collect());
    page + "\n"
}
