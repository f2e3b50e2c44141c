//! `cargo xtask bench export`: what an export costs, beside writing the same bytes with `cp`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::{Measured, circumstances, measure, summary, write};
use crate::bundles::{Programs, SEED};
use crate::goldens::{environment, reference_dir};
use crate::shell::{self, shown};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Preset to export; its checkpoint is made where there is none yet
    #[arg(long, default_value = "arr-coc-ovis-base")]
    preset: String,
    /// Checkpoint to export instead
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Where bundles and copies are written [default: target/bench]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Exports, each beside a copy
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Leave out torch.onnx.export, and with it the PyTorch environment
    #[arg(long)]
    without_torch: bool,
    /// Keep what was written
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let programs = Programs::build(true)?;
    let work = args.work.clone().unwrap_or_else(|| shell::target("bench"));
    fs::create_dir_all(&work)?;
    let checkpoint = checkpoint(args, &programs, &work)?;
    let (engines, copy) = (work.join("engines"), work.join("copy"));
    let mut rounds = Vec::new();
    let mut bytes = 0;
    for round in 1..=args.rounds {
        remove(&engines)?;
        remove(&copy)?;
        let mut build = programs.export();
        build.arg("build").arg(&checkpoint).arg("--out").arg(&engines).args([
            "--name",
            &args.preset,
            "--json",
        ]);
        let export = measure(build.args(["--precision", "fp32", "--target", "cpu"]))?;
        let bundle = engines.join(&args.preset).join("fp32-cpu");
        bytes = size(&bundle)?;
        let copying = measure(shell::command("cp").arg("-r").arg(&bundle).arg(&copy))?;
        let syncing = measure(shell::command("sync").arg("-f").arg(&copy))?;
        let ratio = export.seconds / copying.seconds;
        println!(
            "round {round}: export {:.1} s, {:.0} MiB; cp {:.1} s ({ratio:.2} times), to the disk {:.1} s more",
            export.seconds, export.peak_mib, copying.seconds, syncing.seconds
        );
        rounds.push((export, copying, syncing));
    }
    if !args.keep {
        remove(&engines)?;
        remove(&copy)?;
    }
    let torch = if args.without_torch { Value::Null } else { torch()? };
    let of = |pick: fn(&(Measured, Measured, Measured)) -> f64| -> Value {
        summary(&rounds.iter().map(pick).collect::<Vec<_>>())
    };
    let result = json!({
        "circumstances": circumstances(),
        "model": args.preset,
        "bytes": bytes,
        "export": {
            "seconds": of(|round| round.0.seconds),
            "cpu_seconds": of(|round| round.0.cpu_seconds),
            "peak_rss_mib": of(|round| round.0.peak_mib),
        },
        "cp": {"seconds": of(|round| round.1.seconds), "then_sync_seconds": of(|round| round.2.seconds)},
        "export_by_cp": of(|round| round.0.seconds / round.1.seconds),
        "torch_onnx_export_of_sam_base": torch,
    });
    write("export", &result, &page(&result))
}

fn checkpoint(args: &Args, programs: &Programs, work: &Path) -> Result<PathBuf> {
    if let Some(checkpoint) = &args.checkpoint {
        return Ok(std::path::absolute(checkpoint)?);
    }
    let checkpoint = work.join("checkpoints").join(&args.preset);
    if !checkpoint.join("config.json").is_file() {
        println!("writing {}", shown(&checkpoint));
        programs.init(&args.preset, SEED, "bfloat16", &checkpoint)?;
    }
    Ok(checkpoint)
}

/// The same job for one of the seven graphs, in PyTorch.
fn torch() -> Result<Value> {
    println!("torch.onnx.export of transformers' SAM-base encoder");
    let environment = environment()?;
    let measured = measure(environment.command().arg(reference_dir().join("export_sam.py")))?;
    let last = measured.stdout.lines().last().unwrap_or_default();
    let mut report: Value = serde_json::from_str(last).context("export_sam.py printed no JSON")?;
    // The whole process, as with ours.
    report["process_seconds"] = json!(measured.seconds);
    report["peak_rss_mib"] = json!(measured.peak_mib);
    Ok(report)
}

fn page(result: &Value) -> String {
    let (export, cp, torch) = (&result["export"], &result["cp"], &result["torch_onnx_export_of_sam_base"]);
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let gigabytes = number(&result["bytes"]) / 1e9;
    let mut page = format!(
        "# Exporting {}\n\nbf16 checkpoint to fp32 bundle; medians of {} rounds, alternating.\n\n\
         | what | bytes written, GB | seconds | peak resident memory, MiB |\n|---|---|---|---|\n",
        result["model"].as_str().unwrap_or_default(),
        export["seconds"]["all"].as_array().map_or(0, Vec::len),
    );
    page += &format!(
        "| `arrcoc-export build`, the whole model | {gigabytes:.2} | {:.1} | {:.0} |\n",
        number(&export["seconds"]["median"]),
        number(&export["peak_rss_mib"]["median"]),
    );
    page +=
        &format!("| `cp` of the same bytes | {gigabytes:.2} | {:.1} | |\n", number(&cp["seconds"]["median"]));
    if !torch.is_null() {
        page += &format!(
            "| `torch.onnx.export` {}, SAM-base encoder only | {:.2} | {:.1} ({:.1} with start-up) | {:.0} |\n",
            torch["torch"].as_str().unwrap_or_default(),
            number(&torch["bytes"]) / 1e9,
            number(&torch["seconds"]),
            number(&torch["process_seconds"]),
            number(&torch["peak_rss_mib"]),
        );
    }
    page += &format!(
        "\nThe export takes {:.2} times as long as `cp`. After `cp`, `sync -f` took {:.1} s more.\n",
        number(&result["export_by_cp"]["median"]),
        number(&cp["then_sync_seconds"]["median"]),
    );
    page
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let metadata = entry?.metadata()?;
        bytes += if metadata.is_file() { metadata.len() } else { 0 };
    }
    Ok(bytes)
}
