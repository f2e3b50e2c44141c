//! `cargo xtask train`: the reference checkpoint, trained anew in PyTorch. Nothing else calls this: it takes
//! hours.

use std::path::PathBuf;

use anyhow::Result;

use crate::goldens::{environment, reference_dir};
use crate::shell::{self, section};

/// Trains on ARR-Ledger as the configuration says. About two hours on two cores for the committed one; a run
/// that was killed goes on where its last checkpoint was. What it writes: `checkpoint/`, which
/// `arrcoc-export` reads, `arms/`, which `arrcoc-serve eval` reads, and `log.jsonl`. To ship them, copy
/// `checkpoint/` to reference/checkpoints/arr-coc-ledger and `arms/grid_neck.safetensors` to
/// reference/checkpoints/arr-coc-ledger-grid-neck.safetensors.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration
    #[arg(long, default_value = "configs/train/reference.yaml")]
    config: PathBuf,
    /// Where to write
    #[arg(long, default_value = "target/train/reference")]
    out: PathBuf,
    /// Start anew even where a run was begun
    #[arg(long)]
    restart: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let environment = section("reference environment", environment)?;
    section("training", || {
        let mut train = environment.command();
        train.arg(reference_dir().join("train.py"));
        train.arg("--config").arg(shell::root().join(&args.config));
        train.arg("--out").arg(shell::root().join(&args.out));
        if !args.restart {
            train.arg("--resume");
        }
        shell::check(&mut train)
    })
}
