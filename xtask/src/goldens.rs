//! `cargo xtask goldens`: the committed goldens, made again from PyTorch. And the one list of what they are made of.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::bundles::{Programs, SEED};
use crate::python::Environment;
use crate::shell::{self, section};

/// The photograph that goldens are made with.
const IMAGE: &str = "tests/fixtures/images/rocket.jpg";

/// What the goldens of one preset are made of; they lie in `tests/goldens/PRESET`.
pub(crate) struct Goldens {
    /// The preset of `arrcoc-export init`, in float32.
    pub(crate) preset: &'static str,
    /// Its seed.
    pub(crate) seed: u64,
    question: &'static str,
    sizes: &'static str,
    /// Empty for all.
    tiers: &'static str,
    /// Whether to add a batch of two images; left out where it would weigh megabytes and show nothing new.
    batch: bool,
}

/// Most random checkpoints leave some order or choice to rounding noise, and make no goldens (see
/// models/reference/README.md): these seeds and questions do not.
pub(crate) const GOLDENS: &[Goldens] = &[
    Goldens {
        preset: "arr-coc-ovis-tiny",
        seed: SEED,
        question: "What is on the left?",
        sizes: "512,640",
        tiers: "",
        batch: true,
    },
    Goldens {
        preset: "arr-coc-ovis-wide",
        seed: 1,
        question: "What is on the left?",
        sizes: "1024",
        tiers: "64,256",
        batch: false,
    },
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this preset
    #[arg(long)]
    preset: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let environment = section("reference environment", environment)?;
    let programs = section("programs", || Programs::build(false))?;
    for goldens in
        GOLDENS.iter().filter(|goldens| args.preset.as_deref().is_none_or(|only| only == goldens.preset))
    {
        section(&format!("goldens of {}", goldens.preset), || {
            let mut make = goldens.script(&environment, &programs)?;
            make.args(["--question", goldens.question, "--sizes", goldens.sizes])
                .arg("--out")
                .arg(goldens.dir());
            if !goldens.tiers.is_empty() {
                make.args(["--tiers", goldens.tiers]);
            }
            if !goldens.batch {
                make.arg("--no-batch");
            }
            shell::check(&mut make)
        })?;
    }
    Ok(())
}

/// Those that are in the repository.
pub(crate) fn committed() -> impl Iterator<Item = &'static Goldens> {
    GOLDENS.iter().filter(|goldens| goldens.dir().is_dir())
}

impl Goldens {
    /// Where they lie.
    pub(crate) fn dir(&self) -> PathBuf {
        shell::root().join("tests/goldens").join(self.preset)
    }

    /// `make_goldens.py`, on a checkpoint written anew.
    pub(crate) fn script(&self, environment: &Environment, programs: &Programs) -> Result<Command> {
        let checkpoint = shell::target("goldens").join(self.preset);
        programs.init(self.preset, self.seed, "float32", &checkpoint)?;
        let mut script = environment.command();
        script.arg(reference_dir().join("make_goldens.py")).arg("--checkpoint").arg(checkpoint);
        script.arg("--image").arg(shell::root().join(IMAGE));
        Ok(script)
    }
}

/// The PyTorch environment.
pub(crate) fn environment() -> Result<Environment> {
    Environment::ready("venv-reference", &reference_dir().join("requirements.lock"))
}

/// The Python of the reference.
pub(crate) fn reference_dir() -> PathBuf {
    Path::new(&shell::root()).join("models/reference")
}
