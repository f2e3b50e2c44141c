//! What all benchmarks share: measuring a process, medians, and writing the result down.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{python, shell};

/// Runs a command and reports, as `/usr/bin/time -v` does, what the kernel says of it. Its own output goes to
/// a file, so that progress bars cost nothing.
const MEASURE: &str = "\
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
seconds = time.perf_counter() - start
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
scale = 1 if sys.platform == 'darwin' else 1024
json.dump({'code': done.returncode, 'seconds': seconds, 'peak_bytes': usage.ru_maxrss * scale,
           'cpu_seconds': usage.ru_utime + usage.ru_stime, 'stdout': done.stdout}, sys.stdout)";

/// What a process took.
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) peak_mib: f64,
    pub(super) stdout: String,
}

/// Runs a command to its end and measures it.
pub(super) fn measure(command: &Command) -> Result<Measured> {
    let python =
        python::interpreter().context("expected Python 3 on the PATH to measure with, found none")?;
    let mut measure = shell::command(python);
    measure.args(["-c", MEASURE]).arg(command.get_program()).args(command.get_args());
    measure.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let result: Value = serde_json::from_str(&shell::output(&mut measure)?)?;
    anyhow::ensure!(result["code"] == 0, "`{}` failed", command.get_program().display());
    let number = |name: &str| result[name].as_f64().with_context(|| format!("no {name} was measured"));
    Ok(Measured {
        seconds: number("seconds")?,
        cpu_seconds: number("cpu_seconds")?,
        peak_mib: number("peak_bytes")? / f64::from(1 << 20),
        stdout: result["stdout"].as_str().unwrap_or_default().to_owned(),
    })
}

/// The middle value; of an even number, the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// A figure as pages and JSON have it: the median, and all values behind it.
pub(super) fn summary(values: &[f64]) -> Value {
    json!({"median": median(values), "all": values})
}

/// Where a figure was taken: without it, it means nothing.
pub(crate) fn circumstances() -> Value {
    let first_line = |command: &mut Command| {
        shell::output(command)
            .ok()
            .and_then(|text| text.lines().next().map(str::to_owned))
            .unwrap_or_default()
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let flags = field("flags");
    let known = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"];
    json!({
        "cpu": field("model name"),
        "cpu_features": known.iter().filter(|flag| flags.split(' ').any(|f| f == **flag)).collect::<Vec<_>>(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "commit": first_line(shell::command("git").args(["describe", "--always", "--dirty"])),
        "rustc": first_line(shell::command("rustc").arg("--version")),
        "command": std::env::args().skip(1).map(without_machine).collect::<Vec<_>>(),
    })
}

/// A word of the command, as another machine would have it.
fn without_machine(word: String) -> String {
    if Path::new(&word).is_absolute() { "PATH".to_owned() } else { word }
}

/// Writes `docs/benchmarks/NAME.json`, and beside it the page that was made of it.
pub(crate) fn write(name: &str, result: &Value, page: &str) -> Result<()> {
    let dir = shell::root().join("docs/benchmarks");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(format!("{name}.json")), format!("{result:#}\n"))?;
    let circumstances = &result["circumstances"];
    let words = |value: &Value| -> String {
        let items = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        items.collect::<Vec<_>>().join(" ")
    };
    let foot = format!(
        "\nTaken on {} cores of {} ({}), {}, commit {}, by `cargo xtask {}`. All values: [{name}.json]({name}.json).\n",
        circumstances["cores"],
        circumstances["cpu"].as_str().unwrap_or("an unknown CPU"),
        words(&circumstances["cpu_features"]),
        circumstances["rustc"].as_str().unwrap_or_default(),
        circumstances["commit"].as_str().unwrap_or_default(),
        words(&circumstances["command"]),
    );
    fs::write(dir.join(format!("{name}.md")), format!("{page}{foot}"))?;
    println!("\n{page}");
    println!("written to docs/benchmarks/{name}.json and {name}.md");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
