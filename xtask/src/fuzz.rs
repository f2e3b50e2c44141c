//! `cargo xtask fuzz`: the fuzz tests of all crates in a release build, with as many cases as one likes.

use anyhow::{Result, ensure};

use crate::shell::{self, section};

/// Where the fuzz tests are: a crate, which of its tests cargo is to build, and which of them is meant where
/// others are beside it.
const TARGETS: [(&str, &[&str], &str); 5] = [
    ("arrcoc-server", &["--test", "fuzz"], ""),
    ("arrcoc-runtime", &["--test", "fuzz"], ""),
    ("arrcoc-runtime", &["--test", "pictures"], ""),
    ("arrcoc-bundle", &["--lib"], "fuzz::mutated_manifests"),
    ("arrcoc-export", &["--test", "fuzz"], ""),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Cases of each target
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Where the random choices begin; a failing case prints its own
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only targets whose name has this in it (`mutated_gif`, `chat_templates`)
    target: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.cases > 0, "expected at least one case");
    for (package, tests, only) in TARGETS {
        // Of several filters each would add tests.
        let filter = match args.target.as_deref() {
            Some(target) if only.is_empty() => target,
            Some(target) if !only.contains(target) => continue,
            _ => only,
        };
        section(&format!("{package} {}, {} cases", tests.join(" "), args.cases), || {
            let mut fuzz = shell::cargo();
            fuzz.args(["test", "--release", "-p", package]).args(tests);
            fuzz.args(["--", filter, "--nocapture", "--include-ignored"]);
            fuzz.env("ARRCOC_FUZZ_CASES", args.cases.to_string())
                .env("ARRCOC_FUZZ_SEED", args.seed.to_string());
            shell::check(&mut fuzz)
        })?;
    }
    Ok(())
}
