//! `cargo xtask bench decoder`: the decoder alone, beside onnxruntime-genai and llama.cpp on a decoder of the
//! same shape.
//!
//! A prompt of 256 tokens of text, then 64 more. The peers run their own best way
//! (reference/bench_decoder_peers.py), each in a process of its own, in turn with us: a machine that is busy
//! for a while is so for all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::report::{circumstances, measure, summary, write};
use crate::bundles::{Build, Programs, REAL_WIDTH};
use crate::goldens::reference_dir;
use crate::python::Environment;
use crate::{onnxruntime, shell};

const PROMPT: u64 = 256;
const STEPS: u64 = 64;

/// As the script calls them.
const PEERS: [&str; 5] = ["genai-int4", "genai-int4-pruned", "llama-bf16", "llama-q8_0", "llama-q4_0"];
const PRECISIONS: [&str; 2] = ["int8", "int4"];
/// int4 with the output head, which is tied to the embeddings, in 4 bits too.
const NARROW_HEAD: (&str, &str) =
    ("int4, head in 4 bits", "- {graph: decoder, tensor: \"*embed_tokens.weight\", form: int4-block32}\n");

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds, each a run of every side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Virtual environment with reference/requirements-peers.txt
    /// [default: one below target/, which compiles llama.cpp]
    #[arg(long, value_name = "DIR")]
    environment: Option<PathBuf>,
}

/// What one side took, a value per round.
#[derive(Default)]
struct Taken {
    prefill: Vec<f64>,
    step: Vec<f64>,
    peak_mib: Vec<f64>,
    bytes: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let programs = Programs::build(true)?;
    let library = onnxruntime::fetch()?.context("there is nothing to measure without ONNX Runtime")?;
    let environment = match &args.environment {
        Some(dir) => Environment::at(dir),
        None => Environment::ready("venv-peers", &reference_dir().join("requirements-peers.txt"))?,
    };
    let work = shell::target("bench");
    let checkpoint = programs.real_width(&work.join("checkpoints"))?;
    let bundles = PRECISIONS.map(|precision| {
        let build = Build::cpu(REAL_WIDTH, precision);
        let dir = programs.bundle(&checkpoint, &work.join("engines"), &build)?;
        Ok((precision, dir))
    });
    let mut bundles = bundles.into_iter().collect::<Result<Vec<_>>>()?;
    let rules = work.join("narrow-head.yaml");
    std::fs::write(&rules, NARROW_HEAD.1)?;
    let build = Build { rules: Some(&rules), ..Build::cpu(REAL_WIDTH, "int4") };
    let narrow_head = programs.bundle(&checkpoint, &work.join("engines-narrow-head"), &build)?;
    bundles.push((NARROW_HEAD.0, narrow_head));
    let mut taken: BTreeMap<String, Taken> = BTreeMap::new();
    for round in 1..=args.rounds {
        for (precision, bundle) in &bundles {
            let mut ask = programs.serve();
            ask.env(onnxruntime::VARIABLE, &library).args(["ask", &question(), "--json", "--repeat", "3"]);
            ask.args([
                "--max-tokens",
                &(STEPS + 1).to_string(),
                "--engine-threads",
                &args.threads.to_string(),
            ]);
            ours(ask.arg("--bundle").arg(bundle), taken.entry(format!("arrcoc {precision}")).or_default())?;
            let data = bundle.join("decoder.onnx.data").metadata()?.len();
            taken.entry(format!("arrcoc {precision}")).or_default().bytes = data as f64;
        }
        for peer in PEERS {
            let mut bench = environment.command();
            bench.arg(reference_dir().join("bench_decoder_peers.py")).arg("--work").arg(work.join("peers"));
            let out = work.join("peer.json");
            bench.args(["--rounds", "1", "--threads", &args.threads.to_string(), "--peer", peer]);
            shell::check(bench.arg("--out").arg(&out))?;
            let report: Value = serde_json::from_str(&std::fs::read_to_string(&out)?)?;
            theirs(&report, taken.entry(peer.to_owned()).or_default())?;
        }
        println!("round {round} of {}", args.rounds);
    }
    let sides: Vec<Value> = taken.iter().map(|(name, taken)| side(name, taken)).collect();
    let result = json!({
        "circumstances": circumstances(), "prompt": PROMPT, "steps": STEPS, "threads": args.threads, "rounds": args.rounds, "sides": sides,
    });
    write("decoder", &result, &page(&result))
}

/// One token per byte, and as many as the chat's template leaves of the prompt.
fn question() -> String {
    "The quick brown fox jumps over the lazy dog. ".chars().cycle().take(PROMPT as usize - TEMPLATE).collect()
}

/// Tokens of the presets' chat template.
const TEMPLATE: usize = 19;

fn ours(ask: &Command, taken: &mut Taken) -> Result<()> {
    let measured = measure(ask)?;
    let report: Value = serde_json::from_str(&measured.stdout).context("`ask` printed no JSON")?;
    let (prompt, answer) = (&report["usage"]["prompt_tokens"], &report["usage"]["completion_tokens"]);
    ensure!(
        *prompt == PROMPT && *answer == STEPS + 1,
        "expected {PROMPT} + {STEPS} + 1 tokens, found {prompt} + {answer}"
    );
    let stages = report["seconds"]["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let seconds = |stage: &str| -> f64 {
        stages.iter().filter(|run| run["stage"] == stage).filter_map(|run| run["seconds"].as_f64()).sum()
    };
    taken.prefill.push(seconds("prefill"));
    taken.step.push(seconds("decode_step") / STEPS as f64);
    taken.peak_mib.push(measured.peak_mib);
    Ok(())
}

fn theirs(report: &Value, taken: &mut Taken) -> Result<()> {
    let peer = &report["peers"][0];
    let number = |value: &Value| value.as_f64().with_context(|| format!("no figure in {peer}"));
    taken.prefill.push(number(&peer["prefill_seconds"][0])?);
    taken.step.push(number(&peer["decode_seconds_per_token"][0])?);
    taken.peak_mib.push(number(&peer["peak_rss_mib"][0])?);
    taken.bytes = number(&peer["bytes"])?;
    Ok(())
}

fn side(name: &str, taken: &Taken) -> Value {
    json!({
        "name": name, "bytes": taken.bytes,
        "prefill": summary(&taken.prefill), "step": summary(&taken.step), "peak_mib": summary(&taken.peak_mib),
    })
}

fn page(result: &Value) -> String {
    let mut page = format!(
        "# The decoder beside others\n\nA decoder of Qwen3-0.6B's shape with random weights, {} threads, a prompt of {} tokens, {} steps of one token; medians of {} \
         rounds in turn, none of them the process's first run. A step is the mean of all for us, the median for the others. MB are the weights' (ours: those that a step reads; beside a head in 4 bits lie 165 MB of embeddings); peak memory is the whole process's, for us with all other graphs of the \
         model loaded and a KV cache for 4 answers of 4,096 tokens, of 512 for the others. genai-int4 computes logits for the whole prompt, as its builder has it by default; pruned, only for the last token, as we do.\n\n\
         | | prefill, s | ms per token | MB | peak MiB |\n|---|---|---|---|---|\n",
        result["threads"], result["prompt"], result["steps"], result["rounds"]
    );
    for side in result["sides"].as_array().into_iter().flatten() {
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        page += &format!(
            "| {} | {:.3} | {:.1} | {:.0} | {:.0} |\n",
            side["name"].as_str().unwrap_or_default(),
            number(&side["prefill"]["median"]),
            number(&side["step"]["median"]) * 1e3,
            number(&side["bytes"]) / 1e6,
            number(&side["peak_mib"]["median"]),
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_medians() {
        let taken = Taken {
            prefill: vec![0.5, 0.3, 0.4],
            step: vec![0.02, 0.021, 0.03],
            peak_mib: vec![7.0],
            bytes: 3e6,
        };
        let result =
            json!({"threads": 2, "prompt": 256, "steps": 64, "rounds": 3, "sides": [side("x", &taken)]});
        assert!(page(&result).contains("| x | 0.400 | 21.0 | 3 | 7 |"), "{}", page(&result));
    }
}
