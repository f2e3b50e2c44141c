//! Python, for what only Python has: the `openai` client, PyTorch, and the wheels of ONNX Runtime.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// A virtual environment that holds exactly what a lock file lists.
pub(crate) struct Environment {
    dir: PathBuf,
}

impl Environment {
    /// The environment below `target/` for a lock file; made anew when the lock file has changed since.
    pub(crate) fn ready(name: &str, lock: &Path) -> Result<Self> {
        let environment = Self { dir: shell::target(name) };
        let wanted = fs::read_to_string(lock).with_context(|| format!("cannot read {}", lock.display()))?;
        let stamp = environment.dir.join("installed.lock");
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            println!("{} is up to date", shell::shown(&environment.dir));
            return Ok(environment);
        }
        println!("installing {} into {}", shell::shown(lock), shell::shown(&environment.dir));
        environment.install(lock)?;
        fs::write(stamp, wanted)?;
        Ok(environment)
    }

    /// One that stands already, with whatever it holds.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn install(&self, lock: &Path) -> Result<()> {
        let python = interpreter().context("expected Python 3 on the PATH, found none")?;
        // Without pip inside: Debian keeps `ensurepip` in a package of its own, and the outer pip can do it
        // all.
        let mut venv = shell::command(&python);
        shell::check(venv.args(["-m", "venv", "--clear", "--without-pip"]).arg(&self.dir))?;
        let mut pip = pip(&python);
        pip.arg("--python").arg(self.python());
        shell::check(pip.args(["install", "--quiet", "-r"]).arg(lock))
    }

    /// The environment's interpreter.
    pub(crate) fn python(&self) -> PathBuf {
        let (dir, name) = if cfg!(windows) { ("Scripts", "python.exe") } else { ("bin", "python") };
        self.dir.join(dir).join(name)
    }

    /// A command that runs the environment's interpreter.
    pub(crate) fn command(&self) -> Command {
        shell::command(self.python())
    }
}

/// Python 3, if there is one.
pub(crate) fn interpreter() -> Option<PathBuf> {
    let names = if cfg!(windows) { ["python", "py"] } else { ["python3", "python"] };
    shell::find(&names)
}

/// pip of an interpreter.
pub(crate) fn pip(python: &Path) -> Command {
    let mut command = shell::command(python);
    command.args(["-m", "pip", "--disable-pip-version-check"]);
    command
}
