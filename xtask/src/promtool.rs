//! Prometheus' `promtool`, for the test of `/metrics`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::shell;

/// `promtool` from the PATH or, where apt is the package manager, out of Debian's package, which takes no
/// root. `None`, with the reason printed, where neither is to be had; the test that needs it then fails and
/// says so.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(path) = shell::find(&["promtool"]) {
        return Some(path);
    }
    let dir = shell::target("promtool");
    let path = dir.join("usr/bin/promtool");
    if !path.is_file()
        && let Err(error) = unpack(&dir)
    {
        println!("no promtool: {error:#}");
        return None;
    }
    Some(path)
}

fn unpack(dir: &PathBuf) -> Result<()> {
    println!("fetching promtool from the package `prometheus`");
    fs::create_dir_all(dir)?;
    let download =
        || shell::output(shell::command("apt-get").args(["download", "prometheus"]).current_dir(dir));
    if download().is_err() {
        // Fresh containers know no packages until they are told to look.
        shell::output(shell::command("apt-get").arg("update"))?;
        download()?;
    }
    let files = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    let package = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = package.context("apt-get download left no package")?;
    shell::output(shell::command("dpkg").arg("-x").arg(&package).arg(dir))?;
    Ok(fs::remove_file(package)?)
}
