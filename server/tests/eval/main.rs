//! `arrcoc-serve eval`, the real program.

#![allow(clippy::unwrap_used)]

mod composite;
mod stock;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn lines(output: &Path) -> Vec<Value> {
    let text = fs::read_to_string(output.join("answers.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Without what a clock or the system says.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for timing in ["ms", "seconds", "circumstances"] {
                fields.remove(timing);
            }
            fields.values_mut().for_each(|field| *field = timeless(field.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = timeless(item.take())),
        _ => {}
    }
    value
}

/// All lines of a run without what a clock says, and its summary.
pub(crate) fn outcome(output: &Path) -> (Vec<String>, String) {
    let lines = lines(output).into_iter().map(|line| timeless(line).to_string()).collect();
    let summary = fs::read(output.join("eval.json")).unwrap();
    (lines, timeless(serde_json::from_slice(&summary).unwrap()).to_string())
}

pub(crate) fn answers<'a>(lines: &'a [Value], arm: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["line"] == "answer" && line["arm"] == arm).collect()
}

/// A data set of these rows.
pub(crate) fn set(dir: &Path, name: &str, rows: &Value) -> String {
    let path = dir.join(name);
    fs::write(&path, rows.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_help_names_every_arm() {
    let help = Command::new(env!("CARGO_BIN_EXE_arrcoc-serve")).args(["eval", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for method in arrcoc_eval::arms::Method::all() {
        assert!(help.contains(method.name()), "{method:?} is missing in {help}");
    }
}
