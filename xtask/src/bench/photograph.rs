//! `cargo xtask bench photograph`: one large picture and a short question at SmolVLM-256M's shape, in turn
//! with transformers and llama.cpp.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::report::{circumstances, measure, summary, write};
use crate::bundles::{Build, Programs};
use crate::goldens::reference_dir;
use crate::onnxruntime;
use crate::shell;
use crate::smollm2::SmolLm2;

const NAME: &str = "smolvlm";
const PRECISIONS: [&str; 3] = ["fp32", "int8", "int4"];
/// Figures of every side, as `bench_vision_peers.py` calls them. llama.cpp does not say all of them.
const FIGURES: [&str; 5] = ["preprocess", "vision", "first_token", "step", "peak_rss"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
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
    let mut bundles = Vec::new();
    for precision in PRECISIONS {
        let build = Build::cpu(NAME, precision);
        bundles.push((precision, programs.bundle(&smollm2.smolvlm(), &work.join("engines"), &build)?));
    }
    let mut sides: Vec<(String, Taken)> = Vec::new();
    let (mut question, mut prompt) = (String::new(), 0);
    for round in 1..=args.rounds {
        let peers = peers(args, &smollm2, &work.join("peers"))?;
        question = peers["question"].as_str().unwrap_or_default().to_owned();
        let steps = peers["steps"].as_u64().context("the peers' script says no steps")?;
        for (precision, bundle) in &bundles {
            let ask = Question { text: &question, picture: &work.join("peers/photograph.png"), steps };
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
    write("photograph", &result, &page(&result))
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
fn peers(args: &Args, smollm2: &SmolLm2, work: &Path) -> Result<Value> {
    fs::create_dir_all(work)?;
    let out = work.join("peers.json");
    let mut peers = smollm2.script("bench_vision_peers");
    peers.arg("--checkpoint").arg(smollm2.smolvlm()).arg("--work").arg(work).arg("--out").arg(&out);
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
            "first_token": report["seconds"]["first_token"],
            "step": seconds("decode_step") / (after_first - 1) as f64,
            "peak_rss": measured.peak_mib * f64::from(1 << 20),
            "prompt": usage["prompt_tokens"],
        }))
    }
}

fn page(result: &Value) -> String {
    let sides = result["sides"].as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |side: &Value, figure: &str| side["figures"][figure]["median"].as_f64();
    let first = |side: &Value| number(side, "first_token").unwrap_or(f64::NAN);
    let ours = |side: &&Value| side["name"].as_str().is_some_and(|name| name.starts_with("arrcoc"));
    let best = sides.iter().filter(|side| !ours(side)).map(first).fold(f64::INFINITY, f64::min);
    let mut page = format!(
        "# A photograph at SmolVLM-256M's shape\n\nOne picture of 1536 x 1152 pixels, which becomes 13 tiles, and the question \u{201c}{}\u{201d}: a \
         prompt of {} tokens. SmolLM2's weights behind a random vision tower, {} threads, medians of {} rounds, in each of which \
         every side runs once in a process of its own. Seconds; `first token` counts from the picture's file (of transformers and llama.cpp, without its \
         preparation: from the first tile on). llama.cpp: mtmd, its tower in F16 beside F16 and in Q8_0 beside the others.\n\n\
         | | preparation | vision | first token | best peer, times as long | ms per token | peak MiB |\n\
         |---|---|---|---|---|---|---|\n",
        result["question"].as_str().unwrap_or_default(),
        result["prompt"],
        result["threads"],
        result["rounds"],
    );
    for side in sides {
        let cell = |figure: &str, scale: f64, digits: usize| {
            number(side, figure).map_or_else(String::new, |value| format!("{:.digits$}", value * scale))
        };
        page += &format!(
            "| {} | {} | {} | {} | {:.2} | {} | {} |\n",
            side["name"].as_str().unwrap_or_default(),
            cell("preprocess", 1.0, 2),
            cell("vision", 1.0, 2),
            cell("first_token", 1.0, 2),
            best / first(side),
            cell("step", 1e3, 1),
            cell("peak_rss", 1.0 / f64::from(1 << 20), 0),
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_compares_with_the_best_peer_and_leaves_out_what_nobody_said() {
        let mut sides = Vec::new();
        note(
            &mut sides,
            "arrcoc int8",
            &json!({"preprocess": 0.1, "vision": 4.0, "first_token": 5.0, "step": 0.01, "peak_rss": 1048576.0}),
        );
        note(
            &mut sides,
            "arrcoc int8",
            &json!({"preprocess": 0.1, "vision": 4.0, "first_token": 7.0, "step": 0.01, "peak_rss": 1048576.0}),
        );
        note(&mut sides, "llama.cpp", &json!({"vision": 20.0, "first_token": 24.0, "step": 0.02}));
        note(&mut sides, "transformers", &json!({"vision": 20.0, "first_token": 12.0, "step": 0.02}));
        assert_eq!(sides[0].1["first_token"], [5.0, 7.0]);
        let sides: Vec<Value> = sides.iter().map(side).collect();
        let page =
            page(&json!({"sides": sides, "rounds": 2, "threads": 2, "prompt": 882, "question": "What?"}));
        assert!(page.contains("| arrcoc int8 | 0.10 | 4.00 | 6.00 | 2.00 | 10.0 | 1 |"), "{page}");
        assert!(page.contains("| llama.cpp |  | 20.00 | 24.00 | 0.50 | 20.0 |  |"), "{page}");
    }
}
