//! `cargo xtask goldens`: the committed goldens, made again from PyTorch. And the one list of what they are
//! made of.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::bundles::{Programs, SEED};
use crate::python::Environment;
use crate::shell::{self, section};

/// Where the weights of goldens come from.
pub(crate) enum Weights {
    /// `arrcoc-export init`, in float32, with this seed.
    Random(u64),
    /// The checkpoint that the repository ships, at this path.
    Shipped(&'static str),
}

/// What the goldens of one model are made of; they lie in `tests/goldens/MODEL`.
pub(crate) struct Goldens {
    /// A preset of `arrcoc-export init`, or the name of a shipped checkpoint.
    pub(crate) model: &'static str,
    weights: Weights,
    image: &'static str,
    question: &'static str,
    sizes: &'static str,
    /// Empty for all.
    tiers: &'static str,
    /// Whether to add a batch of two images; left out where it would weigh megabytes and show nothing new.
    batch: bool,
}

/// Most random checkpoints leave some order or choice to rounding noise, and make no goldens (see
/// reference/README.md): these seeds and questions do not.
pub(crate) const GOLDENS: &[Goldens] = &[
    Goldens {
        model: "arr-coc-ovis-tiny",
        weights: Weights::Random(SEED),
        image: "tests/fixtures/images/rocket.jpg",
        question: "What is on the left?",
        sizes: "512,640",
        tiers: "",
        batch: true,
    },
    Goldens {
        model: "arr-coc-ovis-wide",
        weights: Weights::Random(1),
        image: "tests/fixtures/images/rocket.jpg",
        question: "What is on the left?",
        sizes: "1024",
        tiers: "64,256",
        batch: false,
    },
    // Trained weights, and so the smallest tier only: what does not matter has relevances next to 0, whose
    // order is noise.
    Goldens {
        model: "arr-coc-ledger",
        weights: Weights::Shipped("reference/checkpoints/arr-coc-ledger"),
        image: "tests/fixtures/ledger/page.png",
        question: "Which number belongs to DZ?",
        sizes: "320",
        tiers: "64",
        batch: false,
    },
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this model
    #[arg(long)]
    model: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let environment = section("reference environment", environment)?;
    let programs = section("programs", || Programs::build(false))?;
    for goldens in
        GOLDENS.iter().filter(|goldens| args.model.as_deref().is_none_or(|only| only == goldens.model))
    {
        section(&format!("goldens of {}", goldens.model), || {
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
        shell::root().join("tests/goldens").join(self.model)
    }

    /// The checkpoint: the shipped one, or a random one written anew to `dir`.
    pub(crate) fn checkpoint(&self, programs: &Programs, dir: PathBuf) -> Result<PathBuf> {
        match self.weights {
            Weights::Random(seed) => programs.init(self.model, seed, "float32", &dir).map(|()| dir),
            Weights::Shipped(path) => Ok(shell::root().join(path)),
        }
    }

    /// `make_goldens.py`, on the checkpoint.
    pub(crate) fn script(&self, environment: &Environment, programs: &Programs) -> Result<Command> {
        let checkpoint = self.checkpoint(programs, shell::target("goldens").join(self.model))?;
        let mut script = environment.command();
        script.arg(reference_dir().join("make_goldens.py")).arg("--checkpoint").arg(checkpoint);
        script.arg("--image").arg(shell::root().join(self.image));
        Ok(script)
    }
}

/// The PyTorch environment.
pub(crate) fn environment() -> Result<Environment> {
    Environment::ready("venv-reference", &reference_dir().join("requirements.lock"))
}

/// The Python of the reference.
pub(crate) fn reference_dir() -> PathBuf {
    Path::new(&shell::root()).join("reference")
}
