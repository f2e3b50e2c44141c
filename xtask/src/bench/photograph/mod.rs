//! `cargo xtask bench photograph`: one large picture and a short question at the shape of SmolVLM-256M, of
//! Qwen3-VL-2B or of Qwen3.5-0.8B, in turn with transformers and llama.cpp.

mod page;
mod qwen;
mod shape;
mod smolvlm;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::page::page;
use self::qwen::{QWEN3_5_0_8B, QWEN3_VL_2B};
use self::shape::Shape;
use self::smolvlm::SMOLVLM;
use super::report::{circumstances, measure, summary, write};
use crate::bundles::{Build, Programs};
use crate::goldens::reference_dir;
use crate::onnxruntime;
use crate::shell;
use crate::smollm2::SmolLm2;

/// Figures of every side, as `bench_vision_peers.py` calls them. llama.cpp does not say all of them.
const FIGURES: [&str; 6] = ["preprocess", "vision", "prefill", "first_token", "step", "peak_rss"];

/// A shape on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    /// SmolVLM-256M's, behind SmolLM2's weights
    Smolvlm,
    /// Qwen3-VL-2B's, all of it, with random weights
    #[value(name = "qwen3-vl-2b")]
    Qwen3Vl2b,
    /// Qwen3.5-0.8B's, all of it, with random weights
    #[value(name = "qwen3.5-0.8b")]
    Qwen35,
}

impl Choice {
    fn shape(self) -> &'static Shape {
        match self {
            Self::Smolvlm => &SMOLVLM,
            Self::Qwen3Vl2b => &QWEN3_VL_2B,
            Self::Qwen35 => &QWEN3_5_0_8B,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model's shape; each has a page of its own
    #[arg(long, value_enum, default_value_t = Choice::Smolvlm)]
    shape: Choice,
    /// A peer, as reference/bench_vision_peers.py calls it; may be repeated [default: all that can be had]
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<String>,
    /// Rounds, each a run of every side
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Virtual environment with reference/requirements-smollm2.txt [default: one below target/]
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
    /// llama.cpp's source tree, which has the converter; with --bin
    #[arg(long, value_name = "DIR", requires = "bin")]
    llama_cpp: Option<PathBuf>,
    /// Directory of llama-mtmd-cli and llama-quantize
    #[arg(long, value_name = "DIR", requires = "llama_cpp")]
    bin: Option<PathBuf>,
}

/// Figures of a side, a list with one number per round each.
type Taken = BTreeMap<&'static str, Vec<f64>>;

pub(crate) fn run(args: &Args) -> Result<()> {
    let library = onnxruntime::fetch()?.context("there is nothing to measure without ONNX Runtime")?;
    let programs = Programs::build(true)?;
    let smollm2 = SmolLm2::ready(args.venv.as_deref())?;
    let work = shell::target("bench");
    let shape = args.shape.shape();
    let checkpoint = (shape.checkpoint)(&programs, &smollm2, &work.join("checkpoints"))?;
    let mut bundles = Vec::new();
    for precision in shape.precisions {
        let build = Build { max_context: shape.max_context, ..Build::cpu(shape.model, precision) };
        bundles.push((precision, programs.bundle(&checkpoint, &work.join("engines"), &build)?));
    }
    let work = work.join(shape.peers);
    let mut sides: Vec<(String, Taken)> = Vec::new();
    let (mut question, mut prompt) = (String::new(), 0);
    for round in 1..=args.rounds {
        let peers = peers(args, &smollm2, &checkpoint, &work)?;
        question = peers["question"].as_str().unwrap_or_default().to_owned();
        let steps = peers["steps"].as_u64().context("the peers' script says no steps")?;
        for (precision, bundle) in &bundles {
            let ask = Question { text: &question, picture: &work.join("photograph.png"), steps };
            let taken = ask.ours(args, &programs, &library, bundle)?;
            prompt = taken["prompt"].as_u64().unwrap_or(prompt);
            note(&mut sides, &format!("arrcoc {precision}"), &taken);
        }
        for (name, taken) in peers["median"].as_object().into_iter().flatten() {
            note(&mut sides, name, taken);
        }
        println!("round {round} of {}", args.rounds);
    }
    let sides: Vec<Value> = sides.iter().map(side).collect();
    let result = json!({
        "circumstances": circumstances(), "rounds": args.rounds, "threads": args.threads,
        "question": question, "prompt": prompt, "sides": sides,
    });
    write(shape.page, &result, &page(shape, &result))
}

fn note(sides: &mut Vec<(String, Taken)>, name: &str, taken: &Value) {
    let place = sides.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
        sides.push((name.to_owned(), Taken::new()));
        sides.len() - 1
    });
    for figure in FIGURES {
        if let Some(number) = taken[figure].as_f64() {
            sides[place].1.entry(figure).or_default().push(number);
        }
    }
}

fn side((name, taken): &(String, Taken)) -> Value {
    let figures: BTreeMap<_, _> = taken.iter().map(|(figure, all)| (figure, summary(all))).collect();
    json!({"name": name, "figures": figures})
}

/// One run of every peer.
fn peers(args: &Args, smollm2: &SmolLm2, checkpoint: &Path, work: &Path) -> Result<Value> {
    fs::create_dir_all(work)?;
    let out = work.join("peers.json");
    let mut peers = smollm2.script("bench_vision_peers");
    peers.arg("--checkpoint").arg(checkpoint).arg("--work").arg(work).arg("--out").arg(&out);
    peers.args(["--family", args.shape.shape().family]);
    peers.args(args.peers.iter().flat_map(|name| ["--peer", name]));
    peers.args(["--rounds", "1", "--threads", &args.threads.to_string()]);
    if let (Some(source), Some(bin)) = (&args.llama_cpp, &args.bin) {
        peers.arg("--llama-cpp").arg(source).arg("--bin").arg(bin);
    }
    shell::output(&mut peers).with_context(|| format!("in {}", shell::shown(&reference_dir())))?;
    serde_json::from_str(&fs::read_to_string(&out)?).context("the peers' script wrote no JSON")
}

struct Question<'a> {
    text: &'a str,
    picture: &'a Path,
    steps: u64,
}

impl Question<'_> {
    /// Asks a bundle twice, nothing remembered, and takes the median.
    fn ours(&self, args: &Args, programs: &Programs, library: &Path, bundle: &Path) -> Result<Value> {
        let mut ask = programs.serve();
        ask.env(onnxruntime::VARIABLE, library).arg("ask").arg("--bundle").arg(bundle);
        ask.arg("--image").arg(self.picture).args(["--max-tokens", &self.steps.to_string()]);
        ask.args(["--temperature", "0", "--repeat", "2", "--json", "--engine-slots", "1"]);
        ask.args(["--engine-feature-cache", "0", "--engine-token-cache", "0"]);
        ask.args(["--engine-threads", &args.threads.to_string()]).arg(self.text);
        let measured = measure(&ask)?;
        let report: Value = serde_json::from_str(&measured.stdout).context("ask printed no JSON")?;
        let stages = report["seconds"]["stages"].as_array().context("ask says no stages")?;
        let seconds = |stage: &str| -> f64 {
            let of_stage = stages.iter().filter(|row| row["stage"] == stage);
            of_stage.filter_map(|row| row["seconds"].as_f64()).sum()
        };
        let usage = &report["usage"];
        let Some(after_first) = usage["completion_tokens"].as_u64().filter(|&tokens| tokens > 1) else {
            bail!(
                "expected an answer of several tokens to time a step, found {}",
                usage["completion_tokens"]
            );
        };
        Ok(json!({
            "preprocess": seconds("decode_image") + seconds("preprocess"),
            "vision": seconds("vision_encoder"),
            "prefill": seconds("prefill"),
            "first_token": report["seconds"]["first_token"],
            "step": seconds("decode_step") / (after_first - 1) as f64,
            "peak_rss": measured.peak_mib * f64::from(1 << 20),
            "prompt": usage["prompt_tokens"],
        }))
    }
}
