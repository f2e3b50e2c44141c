//! `cargo xtask bench selection`: what an answer costs with some of a photograph's tokens instead of all, at
//! Qwen3-VL-2B's shape; and the selectors by themselves, on one core.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::{circumstances, measure, median, summary, write};
use crate::bundles::{Build, Programs};
use crate::onnxruntime;
use crate::shell;

const PRESET: &str = "qwen3-vl-2b";
const PRECISION: &str = "int4";
const BUDGETS: [&str; 5] = ["full", "400", "256", "100", "64"];
const QUESTION: &str = "Which of the two things on the left is larger, and what is written on it?";
/// Tokens of an answer.
const STEPS: u64 = 8;
const FIGURES: [&str; 7] =
    ["vision_encoder", "select", "prefill", "first_token", "decode_step", "peak_mib", "prompt"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A picture of 1024 x 1024 pixels [default: a photograph with white margins]
    #[arg(long, value_name = "FILE")]
    image: Option<std::path::PathBuf>,
    /// Rounds, each a run of every budget
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Figures of a row, a list with one number per round each.
type Taken = BTreeMap<&'static str, Vec<f64>>;

pub(crate) fn run(args: &Args) -> Result<()> {
    let library = onnxruntime::fetch()?.context("there is nothing to measure without ONNX Runtime")?;
    let programs = Programs::build(true)?;
    let work = shell::target("bench");
    let checkpoint = work.join("checkpoints").join(PRESET);
    if !checkpoint.join("config.json").is_file() {
        programs.init(PRESET, 1, "bfloat16", &checkpoint)?;
    }
    let build = Build { max_context: Some(8192), ..Build::cpu("selection-2b", PRECISION) };
    let bundle = programs.bundle(&checkpoint, &work.join("engines"), &build)?;
    let image = match &args.image {
        Some(image) => image.clone(),
        None => photograph(&work)?,
    };
    let rows: Vec<(&str, bool)> =
        BUDGETS.iter().flat_map(|budget| [(*budget, false), (*budget, true)]).collect();
    let mut taken: Vec<Taken> = vec![Taken::new(); rows.len()];
    for round in 1..=args.rounds {
        for ((budget, skip_blank), taken) in rows.iter().zip(&mut taken) {
            let figures = ask(&programs, &library, &bundle, (&image, args.threads), (budget, *skip_blank))?;
            for (figure, number) in figures {
                taken.entry(figure).or_default().push(number);
            }
        }
        println!("round {round} of {}", args.rounds);
    }
    let rows: Vec<Value> = rows
        .iter()
        .zip(&taken)
        .map(|((budget, skip_blank), taken)| {
            let figures: BTreeMap<_, _> = taken.iter().map(|(name, all)| (name, summary(all))).collect();
            json!({"budget": budget, "skip_blank": skip_blank, "figures": figures})
        })
        .collect();
    let result = json!({
        "circumstances": circumstances(), "rounds": args.rounds, "threads": args.threads,
        "question": QUESTION, "answers": rows, "selectors": selectors()?,
    });
    write("selection", &result, &page(&result))
}

/// The astronaut of the fixtures, 704 pixels wide, in the middle of a white page of 1024.
fn photograph(work: &Path) -> Result<std::path::PathBuf> {
    let path = work.join("photograph-margins.png");
    let photograph = image::open(shell::root().join("tests/fixtures/images/astronaut.jpg"))?;
    let photograph = photograph.resize_exact(704, 704, image::imageops::FilterType::Triangle).into_rgb8();
    let mut page = image::RgbImage::from_pixel(1024, 1024, image::Rgb([255; 3]));
    image::imageops::replace(&mut page, &photograph, 160, 160);
    std::fs::create_dir_all(work)?;
    page.save(&path)?;
    Ok(path)
}

/// Asks once, nothing remembered.
fn ask(
    programs: &Programs,
    library: &Path,
    bundle: &Path,
    (image, threads): (&Path, usize),
    (budget, skip_blank): (&str, bool),
) -> Result<Vec<(&'static str, f64)>> {
    let mut ask = programs.serve();
    ask.env(onnxruntime::VARIABLE, library).arg("ask").arg("--bundle").arg(bundle).arg("--image").arg(image);
    ask.args(["--max-tokens", &STEPS.to_string(), "--temperature", "0", "--json", "--budget", budget]);
    ask.args(["--engine-slots", "1", "--engine-feature-cache", "0", "--engine-token-cache", "0"]);
    ask.args(skip_blank.then_some("--skip-blank"));
    ask.args(["--engine-threads", &threads.to_string()]).arg(QUESTION);
    let measured = measure(&ask)?;
    let report: Value = serde_json::from_str(&measured.stdout).context("ask printed no JSON")?;
    let stages = report["seconds"]["stages"].as_array().context("ask says no stages")?;
    let seconds = |stage: &str| -> f64 {
        // Of a stage that did not run, nothing: a sum of no floats is minus zero.
        0.0 + stages
            .iter()
            .filter(|row| row["stage"] == stage)
            .filter_map(|row| row["seconds"].as_f64())
            .sum::<f64>()
    };
    let usage = &report["usage"];
    let steps = usage["completion_tokens"].as_u64().unwrap_or(0).saturating_sub(1).max(1);
    let figure = |name: &'static str| {
        let number = match name {
            "first_token" => report["seconds"]["first_token"].as_f64().unwrap_or(f64::NAN),
            "decode_step" => seconds(name) / steps as f64,
            "peak_mib" => measured.peak_mib,
            "prompt" => usage["prompt_tokens"].as_f64().unwrap_or(f64::NAN),
            stage => seconds(stage),
        };
        (name, number)
    };
    Ok(FIGURES.map(figure).to_vec())
}

/// The selectors by themselves.
fn selectors() -> Result<Vec<Value>> {
    let mut bench = shell::cargo();
    bench.args(["bench", "--workspace", "--bench", "selection"]);
    let printed = shell::output(&mut bench)?;
    let lines = printed.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).context("the benchmark printed no JSON")).collect()
}

fn page(result: &Value) -> String {
    let mut page = format!(
        "# Some of a photograph's tokens instead of all\n\nQwen3-VL-2B's shape, all of its layers, random weights, {PRECISION}. One picture of 1024 x 1024 pixels, \
         1,024 visual tokens, of which part is blank, and a question; nothing cached; `balanced` chooses. Medians of {} rounds in turn, seconds. `blank out`: \
         blank parts are left out before the encoder.\n\n\
         | budget | blank out | prompt, tokens | vision | selection | prefill | of full's | first token | ms per token | peak MiB |\n|---|---|---|---|---|---|---|---|---|---|\n",
        result["rounds"]
    );
    let rows = result["answers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |row: &Value, figure: &str| row["figures"][figure]["median"].as_f64().unwrap_or(f64::NAN);
    let full = rows.first().map_or(f64::NAN, |row| of(row, "prefill"));
    for row in rows {
        let blank = if row["skip_blank"] == true { "yes" } else { "no" };
        page += &format!(
            "| {} | {blank} | {:.0} | {:.2} | {:.3} | {:.2} | {:.2} | {:.2} | {:.1} | {:.0} |\n",
            row["budget"].as_str().unwrap_or_default(),
            of(row, "prompt"),
            of(row, "vision_encoder"),
            of(row, "select"),
            of(row, "prefill"),
            of(row, "prefill") / full,
            of(row, "first_token"),
            of(row, "decode_step") * 1e3,
            of(row, "peak_mib"),
        );
    }
    page += "\nThe selectors by themselves, on one core, rows of width 2,048, a question of 12 tokens, ms (medians of seven):\n\n\
             | selector | 100 of 1,024 rows | 256 of 2,048 | 400 of 16,384 |\n|---|---|---|---|\n";
    let selectors = result["selectors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut names: Vec<&str> = selectors.iter().filter_map(|line| line["selector"].as_str()).collect();
    names.dedup();
    let names: Vec<&str> = names
        .iter()
        .enumerate()
        .filter(|(at, name)| !names[..*at].contains(name))
        .map(|(_, name)| *name)
        .collect();
    for name in names {
        page += &format!("| {name} |");
        for rows in [1024, 2048, 16_384] {
            let line = selectors.iter().find(|line| line["selector"] == name && line["rows"] == rows);
            let all: Option<Vec<f64>> = line
                .and_then(|line| line["all"].as_array())
                .map(|all| all.iter().filter_map(Value::as_f64).collect());
            page += &all.map_or_else(|| "  |".to_owned(), |all| format!(" {:.1} |", median(&all) * 1e3));
        }
        page += "\n";
    }
    page
}
