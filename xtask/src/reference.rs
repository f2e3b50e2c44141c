//! `cargo xtask reference`: is the PyTorch reference sound, and do the committed goldens still come out of it?

use std::time::Instant;

use anyhow::{Result, bail};

use crate::bundles::Programs;
use crate::goldens::{GOLDENS, committed, environment, reference_dir};
use crate::shell::{self, section};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Time the reference's stages too, on the tiny checkpoint
    #[arg(long)]
    bench: bool,
}

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
