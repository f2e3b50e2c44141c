//! `cargo xtask bench profile`: where the time to the first token goes, operator by operator.
//!
//! ONNX Runtime notes every operator of every run (`engine.profile`). Of each graph the last run counts; of
//! the decoder the last one with more than one token, which is the prompt.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::{circumstances, write};
use crate::bundles::{Build, Programs, REAL_WIDTH};
use crate::{onnxruntime, shell};

/// What takes less is summed up, milliseconds.
const WORTH_A_ROW: f64 = 10.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Precision
    #[arg(long, default_value = "int8")]
    precision: String,
    /// Visual tokens
    #[arg(long, default_value_t = 256)]
    tier: usize,
    /// Input size of the vision encoder, pixels
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Photograph
    #[arg(long, value_name = "FILE", default_value = "tests/fixtures/images/rocket.jpg")]
    image: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let library = onnxruntime::fetch()?.context("there is nothing to measure without ONNX Runtime")?;
    let programs = Programs::build(true)?;
    let work = shell::target("bench");
    let checkpoint = programs.real_width(&work.join("checkpoints"))?;
    let bundle =
        programs.bundle(&checkpoint, &work.join("engines"), &Build::cpu(REAL_WIDTH, &args.precision))?;
    let profiles = work.join("profiles");
    if profiles.exists() {
        fs::remove_dir_all(&profiles)?;
    }
    let mut ask = programs.serve();
    ask.env(onnxruntime::VARIABLE, library).args([
        "ask",
        "What's here?",
        "--json",
        "--max-tokens",
        "2",
        "--repeat",
        "3",
    ]);
    ask.args(["--engine-feature-cache", "0", "--engine-token-cache", "0", "--engine-profile"]).arg(&profiles);
    ask.args(["--engine-threads", &args.threads.to_string(), "--engine-image-size", &args.size.to_string()]);
    ask.args(["--budget", &args.tier.to_string()]).arg("--bundle").arg(&bundle);
    let report: Value =
        serde_json::from_str(&shell::output(ask.arg("--image").arg(shell::root().join(&args.image)))?)?;
    let mut graphs = BTreeMap::new();
    for file in fs::read_dir(&profiles)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // `vision_encoder_2026-01-31_12-00-00_000.json`
        let graph = name.split("_2").next().unwrap_or(&name).to_owned();
        graphs.insert(graph, operators(&path)?);
    }
    let result = json!({
        "circumstances": circumstances(), "precision": args.precision, "tier": args.tier, "size": args.size, "threads": args.threads,
        "stages": report["seconds"]["stages"], "graphs": graphs,
    });
    write("profile", &result, &page(&result))
}

/// Milliseconds and calls of every operator in one run of a graph.
fn operators(profile: &Path) -> Result<Value> {
    let text = fs::read_to_string(profile)?;
    let events: Vec<Value> =
        serde_json::from_str(&text).with_context(|| format!("{} is no profile", profile.display()))?;
    let number = |event: &Value, key: &str| event[key].as_f64().unwrap_or(0.0);
    let mut runs = events.iter().filter(|event| event["name"] == "model_run");
    let longest = runs.clone().map(|run| number(run, "dur")).fold(0.0, f64::max);
    // Steps of one token are over in a tenth of the time that a prompt takes.
    let run = runs.rfind(|run| number(run, "dur") > longest / 3.0);
    let run = run.with_context(|| format!("{} has no run", profile.display()))?;
    let (begin, end) = (number(run, "ts"), number(run, "ts") + number(run, "dur"));
    let mut by_operator: BTreeMap<String, (f64, u32)> = BTreeMap::new();
    for event in events.iter().filter(|event| event["cat"] == "Node") {
        let is_kernel = event["name"].as_str().is_some_and(|name| name.ends_with("_kernel_time"));
        if is_kernel && (begin..=end).contains(&number(event, "ts")) {
            let name = event["args"]["op_name"].as_str().unwrap_or_default().to_owned();
            let entry = by_operator.entry(name).or_default();
            entry.0 += number(event, "dur") / 1e3;
            entry.1 += 1;
        }
    }
    let rows = by_operator
        .into_iter()
        .map(|(name, (ms, calls))| json!({"operator": name, "ms": ms, "calls": calls}));
    let mut rows: Vec<Value> = rows.collect();
    rows.sort_by(|a, b| number(b, "ms").total_cmp(&number(a, "ms")));
    Ok(json!({"run_ms": number(run, "dur") / 1e3, "operators": rows}))
}

fn page(result: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let graphs = result["graphs"].as_object();
    let total: f64 = graphs.into_iter().flatten().map(|(_, graph)| number(&graph["run_ms"])).sum();
    let mut page = format!(
        "# Where the time goes\n\n{}, one photograph at {} px, {} visual tokens, {} threads: {:.0} ms in the graphs until the first token. Operators of {WORTH_A_ROW} ms and \
         more; the profile itself costs a little.\n\n| graph | operator | calls | ms | share |\n|---|---|---|---|---|\n",
        result["precision"].as_str().unwrap_or_default(),
        result["size"],
        result["tier"],
        result["threads"],
        total
    );
    for (name, graph) in graphs.into_iter().flatten() {
        let run = number(&graph["run_ms"]);
        let mut rest = run;
        let row = |what: &str, calls: String, ms: f64| {
            format!("| {name} | {what} | {calls} | {ms:.0} | {:.1}% |\n", 100.0 * ms / total)
        };
        for operator in graph["operators"].as_array().into_iter().flatten() {
            let ms = number(&operator["ms"]);
            if ms >= WORTH_A_ROW {
                rest -= ms;
                page += &row(
                    operator["operator"].as_str().unwrap_or_default(),
                    operator["calls"].to_string(),
                    ms,
                );
            }
        }
        page += &row("all others", String::new(), rest);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_counts_and_small_operators_are_summed_up() -> Result<()> {
        let node = |ts: u32, dur: u32, op: &str| json!({"cat": "Node", "name": "x_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": op}});
        let run = |ts: u32, dur: u32| json!({"name": "model_run", "ts": ts, "dur": dur});
        let events = json!([
            run(0, 60_000),
            node(10, 50_000, "A"),
            run(100_000, 50_000),
            node(100_001, 30_000, "A"),
            node(131_000, 12_000, "A"),
            node(145_000, 1_000, "B"),
            run(200_000, 2_000),
            node(200_001, 1_000, "A"),
        ]);
        let file = std::env::temp_dir().join(format!("arrcoc-profile-{}.json", std::process::id()));
        fs::write(&file, events.to_string())?;
        let graph = operators(&file);
        fs::remove_file(&file)?;
        let result =
            json!({"precision": "int8", "size": 512, "tier": 64, "threads": 1, "graphs": {"g": graph?}});
        let page = page(&result);
        assert!(
            page.contains("| g | A | 2 | 42 | 84.0% |") && page.contains("| g | all others |  | 8 | 16.0% |"),
            "{page}"
        );
        Ok(())
    }
}
