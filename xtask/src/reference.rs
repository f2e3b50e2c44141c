//! `cargo xtask reference`: is the PyTorch reference sound, and do the committed goldens still come out of
//! it?

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::bundles::Programs;
use crate::goldens::{GOLDENS, committed, environment, reference_dir};
use crate::onnxruntime;
use crate::python::Environment;
use crate::shell::{self, section};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Time the reference's stages too, on the tiny checkpoint
    #[arg(long)]
    bench: bool,
    /// Seeds of the checkpoints of stock families that are drawn, answered by transformers and then by us
    #[arg(long, value_name = "FIRST..LAST", default_value = "0..2")]
    stock: String,
}

/// Families of checkpoints that `reference/stock` draws.
const STOCK: &str = "smolvlm,idefics3,qwen3_vl,qwen2_5_vl,qwen3_5";

pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let environment = section("reference environment", environment)?;
    let programs = section("programs", || Programs::build(false))?;
    section("tests of the reference", || {
        let mut pytest = environment.command();
        shell::check(pytest.args(["-m", "pytest", "--quiet"]).arg("tests").current_dir(reference_dir()))
    })?;
    if committed().next().is_none() {
        bail!("expected goldens in tests/goldens, found none; `cargo xtask goldens` makes them");
    }
    for goldens in committed() {
        section(&format!("goldens of {}", goldens.model), || {
            let mut compare = goldens.script(&environment, &programs)?;
            shell::check(compare.arg("--compare").arg(goldens.dir()))
        })?;
    }
    section("goldens of stock families", || {
        let mut compare = environment.command();
        compare.args(["-m", "stock.draw", "--fixtures", "--compare"]);
        compare.arg(shell::root().join("tests/fixtures/stock")).current_dir(reference_dir());
        shell::check(&mut compare)?;
        let mut chosen = environment.command();
        chosen.args(["-m", "stock.chosen", "--compare"]);
        chosen.args(directories(&shell::root().join("tests/fixtures/stock"))?).current_dir(reference_dir());
        shell::check(&mut chosen)
    })?;
    section("stock families, drawn anew", || stock(&environment, &args.stock))?;
    if args.bench {
        section("stages in PyTorch", || {
            let checkpoint = shell::target("goldens").join(GOLDENS[0].model);
            let mut bench = environment.command();
            bench.arg(reference_dir().join("bench_stages.py")).arg("--checkpoint").arg(checkpoint);
            shell::check(&mut bench)
        })?;
    }
    println!("\nthe reference passed in {}", shell::duration(start));
    Ok(())
}

/// The directories in one.
fn directories(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    let mut found: Vec<PathBuf> = entries.collect::<Result<_>>()?;
    found.retain(|path| path.is_dir());
    found.sort();
    Ok(found)
}

/// Draws checkpoints with transformers, and replays them through the exporter and both inference libraries.
fn stock(environment: &Environment, seeds: &str) -> Result<()> {
    let out = shell::target("stock");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let mut draw = environment.command();
    draw.args(["-m", "stock.draw", "--families", STOCK, "--seeds", seeds, "--out"]).arg(&out);
    shell::check(draw.current_dir(reference_dir()))?;
    let mut chosen = environment.command();
    chosen.args(["-m", "stock.chosen"]).args(directories(&out)?);
    shell::check(chosen.current_dir(reference_dir()))?;
    let mut test = shell::cargo();
    test.args(["test", "--workspace", "--test", "stock", "--", "--nocapture", "drawn"]);
    if let Some(library) = onnxruntime::fetch()? {
        test.env(onnxruntime::VARIABLE, library);
    }
    shell::check(test.env("ARRCOC_STOCK", &out))
}
