//! `cargo xtask bench stages`: seconds per stage of one answer, in ONNX Runtime and in PyTorch, alternating.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    /// The bundle exported from it, for us
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
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
    /// Rounds, each a run of ours and a run of PyTorch
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Seconds of one side: by stage, one value per round.
type Seconds = BTreeMap<&'static str, Vec<f64>>;

pub(crate) fn run(args: &Args) -> Result<()> {
    let programs = Programs::build(true)?;
    let library = onnxruntime::fetch()?.context("there is nothing to measure without ONNX Runtime")?;
    let environment = environment()?;
    let (mut ours, mut theirs) = (Seconds::new(), Seconds::new());
    let (mut our_memory, mut their_memory) = (Vec::new(), Vec::new());
    let mut their_version = Value::Null;
    for round in 1..=args.rounds {
        let mut ask = programs.serve();
        ask.env(onnxruntime::VARIABLE, &library).args([
            "ask",
            &args.question,
            "--json",
            "--max-tokens",
            "17",
            // PyTorch repeats each stage as well, and knows no caches.
            "--repeat",
            "4",
            "--engine-feature-cache",
            "0",
            "--engine-token-cache",
            "0",
        ]);
        ask.arg("--bundle").arg(absolute(&args.bundle)?).arg("--image").arg(absolute(&args.image)?);
        ask.args(["--budget", &args.tier.to_string(), "--engine-image-size", &args.size.to_string()]);
        let measured = measure(ask.args(["--engine-threads", &args.threads.to_string()]))?;
        let report: Value =
            serde_json::from_str(&measured.stdout).context("arrcoc-serve ask printed no JSON")?;
        add(&mut ours, &our_stages(&report))?;
        our_memory.push(measured.peak_mib);

        let mut bench = environment.command();
        bench
            .arg(reference_dir().join("bench_stages.py"))
            .arg("--checkpoint")
            .arg(absolute(&args.checkpoint)?);
        bench.args(["--size", &args.size.to_string(), "--tier", &args.tier.to_string()]);
        bench.args([
            "--threads",
            &args.threads.to_string(),
            "--query-length",
            &args.query_length.to_string(),
        ]);
        let measured = measure(&bench)?;
        let report: Value =
            serde_json::from_str(&measured.stdout).context("bench_stages.py printed no JSON")?;
        add(&mut theirs, &report["seconds"])?;
        their_memory.push(measured.peak_mib);
        their_version = report["torch"].clone();
        println!("round {round} of {}", args.rounds);
    }
    let side = |seconds: &Seconds, memory: &[f64]| {
        let stages: Value =
            STAGES.iter().map(|stage| (stage.to_string(), summary(&seconds[stage]))).collect();
        json!({"seconds": stages, "peak_rss_mib": summary(memory)})
    };
    let result = json!({
        "circumstances": circumstances(),
        "size": args.size, "tier": args.tier, "query_length": args.query_length,
        "threads": args.threads, "rounds": args.rounds, "torch_version": their_version,
        "arrcoc": side(&ours, &our_memory),
        "torch": side(&theirs, &their_memory),
    });
    write("stages", &result, &page(&result))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(if path.is_absolute() { path.to_path_buf() } else { shell::root().join(path) })
}

/// What `arrcoc-serve ask --json` says: all steps of the decoder together, of which we want one.
fn our_stages(report: &Value) -> Value {
    let all = report["seconds"]["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
    // The first token comes from the prompt; every further one takes a step.
    let steps = report["usage"]["completion_tokens"].as_f64().unwrap_or(f64::NAN) - 1.0;
    let seconds = |stage: &str| -> f64 {
        let runs = all.iter().filter(|run| run["stage"] == stage);
        let sum: f64 = runs.filter_map(|run| run["seconds"].as_f64()).sum();
        if stage == "decode_step" { sum / steps } else { sum }
    };
    STAGES.iter().map(|stage| (stage.to_string(), json!(seconds(stage)))).collect()
}

fn add(all: &mut Seconds, one: &Value) -> Result<()> {
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

fn page(result: &Value) -> String {
    let number =
        |side: &str, what: &str, of: &str| result[side][what][of]["median"].as_f64().unwrap_or(f64::NAN);
    let mut page = format!(
        "# Seconds per stage\n\nfp32, one photograph at {} px, a question of {} tokens, {} visual tokens, {} threads; medians of {} \
         rounds, alternating. PyTorch {} with SDPA.\n\n| stage | arrcoc (ONNX Runtime) | PyTorch | PyTorch / arrcoc |\n|---|---|---|---|\n",
        result["size"],
        result["query_length"],
        result["tier"],
        result["threads"],
        result["rounds"],
        result["torch_version"].as_str().unwrap_or_default(),
    );
    for stage in STAGES {
        let (ours, theirs) = (number("arrcoc", "seconds", stage), number("torch", "seconds", stage));
        page += &format!("| {stage} | {ours:.4} | {theirs:.4} | {:.2} |\n", theirs / ours);
    }
    let memory = |side: &str| result[side]["peak_rss_mib"]["median"].as_f64().unwrap_or(f64::NAN);
    page + &format!("| peak resident memory, MiB | {:.0} | {:.0} | |\n", memory("arrcoc"), memory("torch"))
}
