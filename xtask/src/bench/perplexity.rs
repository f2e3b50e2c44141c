//! `cargo xtask bench perplexity`: what every precision loses on real weights, beside llama.cpp's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::{circumstances, write};
use crate::bundles::{Build, Programs};
use crate::onnxruntime;
use crate::shell;
use crate::smollm2::SmolLm2;

/// Precision and target.
const BUNDLES: [(&str, &str); 4] = [("fp32", "cpu"), ("fp16", "portable"), ("int8", "cpu"), ("int4", "cpu")];
const NAME: &str = "smolvlm";
/// The text: what this repository says of itself.
const TEXTS: [&str; 4] =
    ["docs/user-guide.md", "ARCHITECTURE.md", "docs/relevance.md", "docs/performance.md"];
/// Windows that a portable bundle reads: made for GPUs, it takes an hour for all of them on two cores.
const FEW: usize = 4;
/// Tokens of an answer, as `smollm2/questions.py` asks for them.
const ANSWER: usize = 64;
/// The peer that everything is held against.
const REFERENCE: &str = "transformers fp32";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Virtual environment with reference/requirements-smollm2.txt [default: one below target/]
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
    /// The same weights for llama.cpp, as `Q8_0=FILE`; needs llama-cpp-python in the environment, unless the
    /// figures of the same text lie there already
    #[arg(long, value_name = "NAME=FILE")]
    gguf: Vec<String>,
    /// Read the windows that lie there already, and not today's texts
    #[arg(long)]
    same_text: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let library = onnxruntime::fetch()?.context("there is nothing to measure without ONNX Runtime")?;
    let programs = Programs::build(true)?;
    let smollm2 = SmolLm2::ready(args.venv.as_deref())?;
    let (windows, answers) = (smollm2.file("perplexity.json"), smollm2.file("answers.json"));
    let few = smollm2.file("few.json");
    let (peers, of_few) = peers(args, &smollm2, &windows, &few)?;
    let questions = questions(&smollm2, &answers)?;

    let work = shell::target("bench");
    let calibration = programs.calibration(&smollm2.smolvlm(), &work.join(NAME), &library)?;
    let mut bundles = Vec::new();
    for (precision, target) in BUNDLES {
        let build = match target {
            "portable" => Build::calibrated(NAME, precision, &calibration),
            _ => Build::cpu(NAME, precision),
        };
        let bundle = programs.bundle(&smollm2.smolvlm(), &work.join("engines"), &build)?;
        let read = |windows: &Path, more: &[String]| -> Result<Value> {
            let mut read = programs.serve();
            read.env(onnxruntime::VARIABLE, &library).args(["perplexity", "--json", "--bundle"]).arg(&bundle);
            read.arg("--windows").arg(windows).args(more);
            serde_json::from_str(&shell::output(&mut read)?).context("perplexity printed no JSON")
        };
        println!("{}", shell::shown(&bundle));
        let (text, of_text) = match target {
            "portable" => (read(&few, &[])?, of_few),
            _ => {
                (read(&windows, &[])?, peers["models"][REFERENCE]["perplexity"].as_f64().unwrap_or(f64::NAN))
            }
        };
        let asked = read(&answers, &["--last".to_owned(), ANSWER.to_string()])?;
        bundles.push(json!({"bundle": format!("{precision}-{target}"), "text": text, "reference": of_text, "answers": asked}));
    }
    let result = json!({
        "circumstances": circumstances(), "peers": peers, "questions": questions, "bundles": bundles,
    });
    write("perplexity", &result, &page(&result))
}

/// What others make of the text's windows, and the reference of the first [`FEW`], which are written to a
/// file of their own.
fn peers(args: &Args, smollm2: &SmolLm2, windows: &Path, few: &Path) -> Result<(Value, f64)> {
    let mut score = smollm2.script("smollm2.perplexity");
    score.arg("--llama").arg(smollm2.llama()).arg("--out").arg(windows);
    for gguf in &args.gguf {
        score.args(["--gguf", gguf]);
    }
    if !args.same_text {
        score.args(TEXTS.map(|text| shell::root().join(text)));
    }
    shell::check(&mut score)?;
    let mut content: Value = serde_json::from_str(&fs::read_to_string(windows)?)?;
    let first = |list: &Value| list.as_array().into_iter().flatten().take(FEW).cloned().collect::<Vec<_>>();
    fs::write(few, json!({"windows": first(&content["windows"])}).to_string())?;
    let sum: f64 = first(&content["models"][REFERENCE]["sums"]).iter().filter_map(Value::as_f64).sum();
    let scored = content["window"].as_f64().unwrap_or(f64::NAN) - 1.0;
    let of_few = (sum / (FEW as f64 * scored)).exp();
    // Neither the ids nor the sums of single windows are of use to a reader.
    if let Some(content) = content.as_object_mut() {
        content.remove("windows");
        let models = content.get_mut("models").and_then(Value::as_object_mut);
        models.into_iter().flatten().for_each(|(_, model)| {
            model.as_object_mut().map(|model| model.remove("sums"));
        });
    }
    Ok((content, of_few))
}

/// Asks transformers, and writes its questions and answers as windows; returns how many there are.
fn questions(smollm2: &SmolLm2, answers: &Path) -> Result<usize> {
    let asked = smollm2.file("questions.json");
    if !asked.is_file() {
        let mut ask = smollm2.script("smollm2.questions");
        shell::check(ask.arg("--checkpoints").arg(smollm2.dir()).arg("--out").arg(&asked))?;
    }
    let asked: Vec<Value> = serde_json::from_str(&fs::read_to_string(&asked)?)?;
    let window = |asked: &Value| -> Vec<u64> {
        let of = |name: &str| asked[NAME][name].as_array().into_iter().flatten().filter_map(Value::as_u64);
        of("input_ids").chain(of("greedy")).collect()
    };
    let windows: Vec<Vec<u64>> = asked.iter().map(window).collect();
    fs::write(answers, json!({"windows": windows}).to_string())?;
    Ok(windows.len())
}

fn page(result: &Value) -> String {
    let models = &result["peers"]["models"];
    let reference = models[REFERENCE]["perplexity"].as_f64().unwrap_or(f64::NAN);
    let all = result["bundles"][0]["text"]["windows"].as_u64();
    let of_text = |value: &Value, reference: f64| {
        let perplexity = value["perplexity"].as_f64().unwrap_or(f64::NAN);
        let windows = value["windows"].as_u64().filter(|_| value["windows"].as_u64() != all);
        let of = windows.map_or_else(String::new, |windows| format!(" (of {windows} windows)"));
        format!("{perplexity:.3}{of} | {:+.2} %", 100.0 * (perplexity / reference - 1.0))
    };
    let mut page = format!(
        "# What bits cost on real weights\n\nSmolLM2-135M-Instruct, the language model inside SmolVLM-256M, on {} windows of {} tokens of \
         this repository's own documents, each read alone; and {} questions, each with the {ANSWER} tokens that transformers answers \
         greedily in fp32: how many of them are the likeliest to each bundle too, behind the same tokens, and how many answers are \
         the same from the first token to the last.\n\nThe weights come from a file in Q4_1, the only one that a package registry has: they \
         lie on that form's grid, 4 bits with a scale and an offset for 32. That flatters forms with both; none of ours and neither of llama.cpp's \
         below has an offset.\n\n\
         | | perplexity | over {REFERENCE} | greedy tokens | whole answers |\n|---|---|---|---|---|\n",
        result["bundles"][0]["text"]["windows"], result["peers"]["window"], result["questions"],
    );
    page += &format!("| {REFERENCE} | {} | | |\n", of_text(&models[REFERENCE], reference));
    for bundle in result["bundles"].as_array().into_iter().flatten() {
        let answers = &bundle["answers"];
        page += &format!(
            "| arrcoc {} | {} | {} of {} | {} of {} |\n",
            bundle["bundle"].as_str().unwrap_or_default(),
            of_text(&bundle["text"], bundle["reference"].as_f64().unwrap_or(reference)),
            answers["likeliest"],
            answers["tokens"],
            answers["windows_likeliest"],
            answers["windows"],
        );
    }
    for (name, model) in models.as_object().into_iter().flatten().filter(|(name, _)| *name != REFERENCE) {
        page += &format!("| {name} | {} | | |\n", of_text(model, reference));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_compares_with_the_reference() {
        let bundle = json!({"bundle": "int8-cpu", "text": {"perplexity": 51.0, "windows": 45},
            "answers": {"likeliest": 1270, "tokens": 1280, "windows_likeliest": 17, "windows": 20}});
        let models = json!({REFERENCE: {"perplexity": 50.0}, "llama.cpp Q8_0": {"perplexity": 50.5}});
        let result =
            json!({"peers": {"window": 512, "models": models}, "questions": 20, "bundles": [bundle]});
        let page = page(&result);
        assert!(page.contains("| transformers fp32 | 50.000 | +0.00 % | | |\n"), "{page}");
        assert!(
            page.contains("| arrcoc int8-cpu | 51.000 | +2.00 % | 1270 of 1280 | 17 of 20 |\n"),
            "{page}"
        );
        assert!(page.contains("| llama.cpp Q8_0 | 50.500 | +1.00 % | | |\n"), "{page}");
        assert!(page.contains("45 windows of 512 tokens"), "{page}");
    }
}
