//! `cargo xtask gpu-check`: everything that only a GPU can show, on any machine that has one.
//!
//! The real-width preset is exported and calibrated, and every precision that the card has runs on CUDA, and
//! on TensorRT where it is, against the fp32 graphs on the CPU (`arrcoc-export verify`); then an answer is
//! timed beside PyTorch on the same card. Bundles for CUDA run there alone; of these `verify` steps two
//! answers of unequal lengths at once, with a slot between them that nobody has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::bench::report::{circumstances, write};
use crate::bench::stages;
use crate::bundles::{Build, Programs, REAL_WIDTH};
use crate::goldens::{environment, reference_dir};
use crate::onnxruntime;
use crate::shell::{self, section};

const PHOTOGRAPH: &str = "tests/fixtures/images/rocket.jpg";
const QUESTION: &str = "What's here?";

/// The first compute capability with 8-bit floats (Ada), times ten.
const FP8: u32 = 89;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tokens to compare
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Where checkpoint, calibration and engines are kept [default: target/gpu]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

/// A card, as its driver tells of it.
#[derive(Debug, PartialEq, Eq)]
struct Card {
    name: String,
    /// Compute capability times ten.
    capability: u32,
    driver: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let card = card()?;
    println!("{} of compute capability {}, driver {}", card.name, card.capability, card.driver);
    if std::env::var_os(onnxruntime::VARIABLE).is_none() {
        bail!(
            "{}: expected the libonnxruntime.so of an `onnxruntime-gpu` 1.31 package, found nothing; the one that is fetched for the \
             tests has no CUDA",
            onnxruntime::VARIABLE
        );
    }
    let library = onnxruntime::fetch()?.context("no ONNX Runtime")?;
    let programs = Programs::build(true)?;
    let work = args.work.clone().unwrap_or_else(|| shell::target("gpu"));
    let bench = Bench { args, programs, library, work };
    let bundles = section("checkpoint, calibration and bundles", || bench.bundles(&card))?;
    let mut runs = Vec::new();
    for runtime in ["cuda", "tensorrt"] {
        for Made { bundle, .. } in bundles.iter().filter(|made| runtime == "cuda" || made.portable) {
            let name = format!("{} on {runtime}", shell::shown(bundle));
            runs.push(section(&name, || Ok(bench.run(runtime, bundle)))?);
        }
    }
    let torch = section("PyTorch on the same card", || Ok(bench.torch()))?;
    let result = json!({
        "circumstances": circumstances(),
        "gpu": {"name": card.name, "compute_capability": card.capability, "driver": card.driver},
        "runs": runs, "torch": torch,
    });
    write("gpu", &result, &page(&result))?;
    let runs = result["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let failed = runs.iter().filter(|run| run["result"]["verify"]["passed"] != true).count();
    if failed > 0 {
        bail!("{failed} of {} runs failed; docs/benchmarks/gpu.md says how", runs.len());
    }
    Ok(())
}

/// A bundle, and whether it is a portable one.
struct Made {
    bundle: PathBuf,
    portable: bool,
}

struct Bench<'a> {
    args: &'a Args,
    programs: Programs,
    library: PathBuf,
    work: PathBuf,
}

impl Bench<'_> {
    /// fp32 and what the card has besides, portable; the latter for CUDA too, whose attention has no fp32.
    fn bundles(&self, card: &Card) -> Result<Vec<Made>> {
        let checkpoint = self.programs.real_width(&self.work)?;
        let engines = self.work.join("engines");
        let make = |build: &Build<'_>| -> Result<Made> {
            let bundle = self.programs.bundle(&checkpoint, &engines, build)?;
            Ok(Made { bundle, portable: build.target == "portable" })
        };
        let mut bundles = vec![make(&Build::portable(REAL_WIDTH))?];
        let calibration = self.programs.calibration(&checkpoint, &self.work, &self.library)?;
        // int4 is only stored in 4 bits, so every card multiplies it; products of 8-bit floats need tensor
        // cores that have them.
        let precisions =
            if card.capability >= FP8 { &["fp16", "int4", "fp8"][..] } else { &["fp16", "int4"] };
        for precision in precisions {
            let build = Build::calibrated(REAL_WIDTH, precision, &calibration);
            bundles.extend([make(&build)?, make(&build.for_cuda())?]);
        }
        Ok(bundles)
    }

    fn export(&self, command: &str) -> Command {
        let mut export = self.programs.export();
        export.env(onnxruntime::VARIABLE, &self.library).arg(command);
        export
    }

    /// Compiles plans where the runtime wants some, compares, and times an answer. What fails is part of the
    /// result: the next run may work.
    fn run(&self, runtime: &str, bundle: &Path) -> Value {
        let attempt = || -> Result<Value> {
            if runtime == "tensorrt" {
                shell::check(self.export("compile").arg(bundle))?;
            }
            let mut verify = self.export("verify");
            verify
                .arg(bundle)
                .arg("--image")
                .arg(shell::root().join(PHOTOGRAPH))
                .args(["--runtime", runtime, "--json", "--tokens"])
                .arg(self.args.tokens.to_string());
            // A failed comparison is told in the report, which is printed all the same.
            let output = verify.output()?;
            let report: Value = serde_json::from_slice(&output.stdout)
                .with_context(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())?;
            Ok(json!({"verify": report, "seconds": self.answer(runtime, bundle)?}))
        };
        let name = bundle.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match attempt() {
            Ok(found) => json!({"runtime": runtime, "bundle": name, "result": found}),
            Err(error) => json!({"runtime": runtime, "bundle": name, "error": format!("{error:#}")}),
        }
    }

    fn answer(&self, runtime: &str, bundle: &Path) -> Result<Value> {
        let mut ask = self.programs.serve();
        ask.env(onnxruntime::VARIABLE, &self.library);
        ask.args(["ask", QUESTION, "--json", "--max-tokens", "17", "--repeat", "6", "--budget", "256"]);
        ask.args(["--engine-feature-cache", "0", "--engine-token-cache", "0", "--engine-runtime", runtime]);
        ask.arg("--image").arg(shell::root().join(PHOTOGRAPH)).arg("--bundle").arg(bundle);
        let report: Value = serde_json::from_str(&shell::output(&mut ask)?)?;
        Ok(stages::our_stages(&report))
    }

    /// Whatever PyTorch has a GPU to itself: that of the lock file has none, so one can be named.
    fn torch(&self) -> Value {
        let mut found = serde_json::Map::new();
        for dtype in ["float32", "float16"] {
            let attempt = || -> Result<Value> {
                let mut bench = match std::env::var_os("ARRCOC_TORCH_PYTHON") {
                    Some(interpreter) => shell::command(interpreter),
                    None => environment()?.command(),
                };
                bench
                    .arg(reference_dir().join("bench_stages.py"))
                    .arg("--checkpoint")
                    .arg(self.work.join(REAL_WIDTH));
                bench.args(["--device", "cuda", "--dtype", dtype]);
                Ok(serde_json::from_str(&shell::output(&mut bench)?)?)
            };
            let report = attempt().unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
            found.insert(dtype.to_owned(), report);
        }
        found.into()
    }
}

/// The first card.
fn card() -> Result<Card> {
    let ask = |field: &str| {
        let mut smi = shell::command("nvidia-smi");
        let query = format!("--query-gpu={field}");
        let answer = shell::output(smi.args(["--id=0", &query, "--format=csv,noheader"]));
        let answer = answer.context(
            "expected an NVIDIA GPU and its driver, and `nvidia-smi` finds none; there is nothing to check here",
        )?;
        Ok::<_, anyhow::Error>(answer.trim().to_owned())
    };
    let capability = ask("compute_cap")?;
    let digits = capability.replace('.', "");
    let number = digits.parse().with_context(|| {
        format!("expected a compute capability such as 8.9 from nvidia-smi, found {capability:?}")
    })?;
    Ok(Card { name: ask("name")?, capability: number, driver: ask("driver_version")? })
}

fn page(result: &Value) -> String {
    let runs = || result["runs"].as_array().into_iter().flatten();
    let torch = || result["torch"].as_object().into_iter().flatten();
    let timed = runs().map(|run| &run["result"]["seconds"]);
    let names = stages::union(timed.chain(torch().map(|(_, report)| &report["seconds"])));
    let mut page = format!(
        "# On a GPU\n\n{}, driver {}. `{REAL_WIDTH}` at 1024 px, tier 256, against the fp32 graphs on the CPU; seconds per stage.\n\n\
         | bundle | runtime | verified | {} |\n|---|---|---|{}\n",
        result["gpu"]["name"].as_str().unwrap_or_default(),
        result["gpu"]["driver"].as_str().unwrap_or_default(),
        names.join(" | "),
        "---|".repeat(names.len()),
    );
    let cells = |seconds: &Value| {
        let cell = |stage: &str| seconds[stage].as_f64().map_or("-".to_owned(), |x| format!("{x:.4}"));
        names.iter().map(|stage| cell(stage)).collect::<Vec<_>>().join(" | ")
    };
    for run in runs() {
        let (bundle, runtime) = (run["bundle"].as_str().unwrap_or(""), run["runtime"].as_str().unwrap_or(""));
        let verdict = match (&run["error"], &run["result"]["verify"]["passed"]) {
            (Value::String(error), _) => error.lines().next().unwrap_or_default().replace('|', "/"),
            (_, Value::Bool(true)) => "passed".to_owned(),
            _ => "FAILED".to_owned(),
        };
        page += &format!("| {bundle} | {runtime} | {verdict} | {} |\n", cells(&run["result"]["seconds"]));
    }
    for (dtype, report) in torch() {
        page += &format!("| PyTorch {dtype} | cuda | | {} |\n", cells(&report["seconds"]));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_stands_in_the_table() {
        let result = json!({
            "gpu": {"name": "Tesla T4", "driver": "580"},
            "runs": [
                {"bundle": "fp16-portable", "runtime": "cuda",
                 "result": {"verify": {"passed": true}, "seconds": {"prefill": 0.5}}},
                {"bundle": "fp16-portable", "runtime": "tensorrt", "error": "no TensorRT\nmore"},
            ],
            "torch": {"float16": {"seconds": {"new_graph": 0.125, "prefill": 0.25}}},
        });
        let page = page(&result);
        assert!(page.contains("| fp16-portable | cuda | passed | - | 0.5000 |"), "{page}");
        assert!(page.contains("| fp16-portable | tensorrt | no TensorRT | - | - |"), "{page}");
        assert!(page.contains("| PyTorch float16 | cuda | | 0.1250 | 0.2500 |"), "{page}");
    }
}
