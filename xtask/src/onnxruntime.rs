//! ONNX Runtime's library, taken out of its PyPI wheel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{python, shell};

/// The version that `ort` in this workspace is made for.
const VERSION: &str = "1.31.1";
/// The environment variable that names a library of one's own, which the runtime reads too.
pub(crate) const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Takes the library out of a wheel: wheels are zip files, and Python reads those.
const UNPACK: &str = "\
import pathlib, sys, zipfile
wheel, member, out = sys.argv[1:]
pathlib.Path(out).write_bytes(zipfile.ZipFile(wheel).read(member))";

/// `cargo xtask onnxruntime`.
pub(crate) fn run() -> Result<()> {
    match fetch()? {
        Some(path) => {
            println!("{}", path.display());
            Ok(())
        }
        None => {
            bail!("ONNX Runtime {VERSION} is not to be had here; set {VARIABLE} to a library of your own")
        }
    }
}

/// The library: the one that `ORT_DYLIB_PATH` names, the one fetched earlier, or one fetched now. `None`,
/// with the reason printed, where there is no pip, no network or no wheel for this machine.
///
/// # Errors
/// `ORT_DYLIB_PATH` names something that is not there.
pub(crate) fn fetch() -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let path = std::path::absolute(path)?;
        if !path.is_file() {
            bail!("{VARIABLE}: expected the path of ONNX Runtime's library, found {}", path.display());
        }
        println!("using {}, as {VARIABLE} says", path.display());
        return Ok(Some(path));
    }
    let library = shell::target("onnxruntime").join(library_name());
    if library.is_file() {
        println!("{} is there", shell::shown(&library));
        return Ok(Some(library));
    }
    println!("fetching ONNX Runtime {VERSION} with pip");
    match download(&library) {
        Ok(()) => Ok(Some(library)),
        Err(error) => {
            println!("no ONNX Runtime: {error:#}");
            Ok(None)
        }
    }
}

fn library_name() -> String {
    if cfg!(windows) {
        "onnxruntime.dll".into()
    } else if cfg!(target_os = "macos") {
        format!("libonnxruntime.{VERSION}.dylib")
    } else {
        format!("libonnxruntime.so.{VERSION}")
    }
}

/// Written elsewhere and renamed: a run that was interrupted leaves no half library for the next one to find.
fn download(library: &Path) -> Result<()> {
    let Some(python) = python::interpreter() else {
        bail!("expected Python 3 with pip on the PATH, found none")
    };
    let work = shell::target("onnxruntime-wheel");
    fs::create_dir_all(&work)?;
    fs::create_dir_all(shell::target("onnxruntime"))?;
    let mut pip = python::pip(&python);
    pip.args(["download", "--quiet", "--no-deps", "--only-binary=:all:"]);
    // The library is the same in the wheels of every Python, and so any will do: this one, whichever runs
    // pip.
    pip.args(["--python-version", "3.12", "--dest"]).arg(&work).arg(format!("onnxruntime=={VERSION}"));
    shell::output(&mut pip)?;
    let files = fs::read_dir(&work)?.flatten().map(|entry| entry.path());
    let wheel = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let Some(wheel) = wheel else { bail!("expected a wheel in {}, found none", work.display()) };
    let unpacked = work.join(library_name());
    let member = format!("onnxruntime/capi/{}", library_name());
    let mut unpack = shell::command(&python);
    shell::output(unpack.args(["-c", UNPACK]).arg(wheel).arg(member).arg(&unpacked))?;
    fs::rename(unpacked, library)?;
    Ok(fs::remove_dir_all(work)?)
}
