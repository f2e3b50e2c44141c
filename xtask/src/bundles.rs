//! Our own two programs, and what `arrcoc-export` makes of a preset.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use crate::{onnxruntime, shell};

/// Seed of the tiny preset in tests, goldens and demo; how it was found: reference/README.md, "Goldens".
pub(crate) const SEED: u64 = 16;

/// The preset of the real sizes: SAM-base, CLIP-L, Qwen3-0.6B.
pub(crate) const REAL_WIDTH: &str = "arr-coc-ovis-base";

/// What calibrations of it look at.
pub(crate) const PHOTOGRAPHS: [&str; 2] =
    ["tests/fixtures/images/astronaut.jpg", "tests/fixtures/images/rocket.jpg"];

/// What `arrcoc-export build` is to make of a checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Build<'a> {
    /// The model's.
    pub(crate) name: &'a str,
    pub(crate) precision: &'a str,
    pub(crate) target: &'a str,
    /// What tensors reach: what 16 and 8 bits for GPUs are built by.
    pub(crate) calibration: Option<&'a Path>,
    /// Forms of single weights.
    pub(crate) rules: Option<&'a Path>,
    /// Longest sequence in tokens, where it is not to be the model's own.
    pub(crate) max_context: Option<u32>,
}

impl<'a> Build<'a> {
    /// A bundle for CPUs.
    pub(crate) fn cpu(name: &'a str, precision: &'a str) -> Self {
        Self { name, precision, target: "cpu", calibration: None, rules: None, max_context: None }
    }

    /// A portable one in 32 bits.
    pub(crate) fn portable(name: &'a str) -> Self {
        Self { target: "portable", ..Self::cpu(name, "fp32") }
    }

    /// A portable one in 16 bits or fewer.
    pub(crate) fn calibrated(name: &'a str, precision: &'a str, calibration: &'a Path) -> Self {
        Self { precision, calibration: Some(calibration), ..Self::portable(name) }
    }
}

impl Build<'_> {
    /// The same for CUDA.
    pub(crate) fn for_cuda(self) -> Self {
        Self { target: "cuda", ..self }
    }
}

/// `arrcoc-export` and `arrcoc-serve`.
pub(crate) struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Builds them: optimised, or as the tests use them. The latter comes with the tests themselves: built
    /// apart, the dependencies would be compiled twice, once with the features that the tests' own
    /// dependencies ask for.
    pub(crate) fn build(release: bool) -> Result<Self> {
        let mut build = shell::cargo();
        match release {
            true => build.args([
                "build",
                "--quiet",
                "--release",
                "-p",
                "arrcoc-export",
                "-p",
                "arrcoc-server",
                "--bins",
            ]),
            false => build.args(["test", "--quiet", "--workspace", "--no-run"]),
        };
        shell::check(&mut build)?;
        Ok(Self { dir: shell::target(if release { "release" } else { "debug" }) })
    }

    /// Those that lie in a directory already.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
    }

    /// A run of `arrcoc-export`.
    pub(crate) fn export(&self) -> Command {
        shell::command(self.path("arrcoc-export"))
    }

    /// A run of `arrcoc-serve`.
    pub(crate) fn serve(&self) -> Command {
        shell::command(self.path("arrcoc-serve"))
    }

    /// Writes a random checkpoint, in place of one that is there.
    pub(crate) fn init(&self, preset: &str, seed: u64, dtype: &str, out: &Path) -> Result<()> {
        let mut init = self.export();
        init.args(["init", "--force", "--preset", preset, "--dtype", dtype, "--seed"]).arg(seed.to_string());
        shell::check(init.arg("--out").arg(out))
    }

    /// Builds `OUT/NAME/PRECISION-TARGET` from a checkpoint and returns its path. What stands there may be
    /// the work of yesterday's exporter, under today's version number: it is built again.
    pub(crate) fn bundle(&self, checkpoint: &Path, out: &Path, build: &Build<'_>) -> Result<PathBuf> {
        let Build { name, precision, target, calibration, rules, max_context } = *build;
        let mut build = self.export();
        build.arg("build").arg(checkpoint).arg("--out").arg(out).args(["--name", name, "--force"]);
        build.args(["--precision", precision, "--target", target]);
        if let Some(calibration) = calibration {
            build.arg("--calibration").arg(calibration);
        }
        if let Some(rules) = rules {
            build.arg("--weight-rules").arg(rules);
        }
        if let Some(tokens) = max_context {
            build.arg("--max-context").arg(tokens.to_string());
        }
        shell::check(&mut build)?;
        Ok(out.join(name).join(format!("{precision}-{target}")))
    }

    /// The random checkpoint of the real sizes below `dir`, written when it is not there.
    pub(crate) fn real_width(&self, dir: &Path) -> Result<PathBuf> {
        let checkpoint = dir.join(REAL_WIDTH);
        if !checkpoint.join("config.json").is_file() {
            self.init(REAL_WIDTH, 1, "bfloat16", &checkpoint)?;
        }
        Ok(checkpoint)
    }

    /// A calibration of a checkpoint on two photographs, written below `work`.
    pub(crate) fn calibration(&self, checkpoint: &Path, work: &Path, library: &Path) -> Result<PathBuf> {
        let questions = work.join("questions.json");
        let row =
            |image: &str| json!({"image": shell::root().join(image), "query": "What's here?", "answer": ""});
        fs::create_dir_all(work)?;
        fs::write(&questions, json!(PHOTOGRAPHS.map(row)).to_string())?;
        self.calibrate(checkpoint, &questions, work, library)
    }

    /// A calibration of a checkpoint on the first 32 questions of a data set, written below `work`.
    pub(crate) fn calibrate(
        &self,
        checkpoint: &Path,
        data: &Path,
        work: &Path,
        library: &Path,
    ) -> Result<PathBuf> {
        let calibration = work.join("calibration.json");
        let mut calibrate = self.export();
        calibrate
            .env(onnxruntime::VARIABLE, library)
            .arg("calibrate")
            .arg(checkpoint)
            .args(["--limit", "32"]);
        shell::check(calibrate.arg("--data").arg(data).arg("--output").arg(&calibration))?;
        Ok(calibration)
    }
}
