//! `cargo xtask fuzz`: the fuzz tests of all crates in a release build, with as many cases as one likes.

use anyhow::{Result, ensure};

use crate::shell::{self, section};

/// Where the fuzz tests are: a crate, and its test's name (none for tests within the library).
const TARGETS: &[(&str, &str)] =
    &[("arrcoc-server", "fuzz"), ("arrcoc-runtime", "fuzz"), ("arrcoc-export", "fuzz")];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Cases of each target
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Where the random choices begin; a failing case prints its own
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only targets whose name has this in it
    target: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.cases > 0, "expected at least one case");
    for (package, test) in TARGETS {
        section(&format!("{package}, {} cases", args.cases), || {
            let mut fuzz = shell::cargo();
            fuzz.args(["test", "--release", "-p", package, "--test", test, "--"]);
            fuzz.args(&args.target).args(["--nocapture", "--include-ignored"]);
            fuzz.env("ARRCOC_FUZZ_CASES", args.cases.to_string())
                .env("ARRCOC_FUZZ_SEED", args.seed.to_string());
            shell::check(&mut fuzz)
        })?;
    }
    Ok(())
}
