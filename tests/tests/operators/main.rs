//! Every operator that the graph builder offers, on both libraries, against plain loops.
//!
//! Each case builds one small graph, runs it at several sizes with drawn inputs, and compares. Graphs for
//! CPUs run on ONNX Runtime alone.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod elementwise;
mod fused;
mod harness;
mod products;
mod shapes;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};
use arrcoc_bundle::Target;
use arrcoc_runtime::library::{Library, LibraryKind};
use arrcoc_tests::repository;
use arrcoc_tests::require::can_run;

use harness::Case;

/// Methods that tract cannot run, and why. Networks do not use them in portable graphs.
const NOT_IN_TRACT: [(&str, &str); 0] = [];

/// Methods without a case here, and where they are tested.
const ELSEWHERE: [(&str, &str); 4] = [
    ("cached_attention", "an operator of our own: tests/kernels.rs, kernels/src/cached_attention/tests.rs"),
    (
        "causal_convolution",
        "an operator of our own: tests/recurrent.rs, kernels/src/causal_convolution/tests.rs",
    ),
    (
        "rotated_attention",
        "the same without a function around it: decoders of graphs for CUDA in tests/stock",
    ),
    ("gated_delta", "an operator of our own: tests/recurrent.rs, kernels/src/gated_delta/tests.rs"),
];

fn cases() -> Vec<Case> {
    [elementwise::cases(), products::cases(), shapes::cases(), fused::cases()].into_iter().flatten().collect()
}

/// Runs all cases, and says all that went wrong.
fn check(library: &dyn Library, cases: impl Iterator<Item = Case>) {
    let failed: Vec<String> = cases
        .enumerate()
        .filter_map(|(at, case)| {
            case.check(library).err().map(|error| format!("{} ({at}): {error:#}", case.method))
        })
        .collect();
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn onnx_runtime() {
    let library = LibraryKind::Ort.open(1);
    if can_run("ort", &library) {
        check(library.unwrap().as_ref(), cases().into_iter());
    }
}

#[test]
fn tract() -> Result<()> {
    let library = LibraryKind::Tract.open(1)?;
    let lacks = |case: &Case| NOT_IN_TRACT.iter().any(|(method, _)| *method == case.method);
    let portable = || cases().into_iter().filter(|case| case.target == Target::Portable);
    check(library.as_ref(), portable().filter(|case| !lacks(case)));
    for (method, _) in NOT_IN_TRACT {
        let mut of_method = portable().filter(|case| case.method == method);
        ensure!(
            of_method.any(|case| case.check(library.as_ref()).is_err()),
            "tract runs {method}: drop its row"
        );
    }
    Ok(())
}

/// The methods are read from the builder's own files, so that a new one without a case fails here.
#[test]
fn every_method_has_a_case() -> Result<()> {
    let mut methods = BTreeSet::new();
    for file in fs::read_dir(repository("models/src/graph/ops"))? {
        let text = fs::read_to_string(file?.path())?;
        for line in text.lines().map(str::trim) {
            // Rows of the macros: `name = "Operator";`, or with `-> element` behind.
            let row = line.split_once(" = \"").filter(|_| line.ends_with(';') && !line.contains("const "));
            let method = line.strip_prefix("pub fn ").and_then(|rest| rest.split_once('('));
            let method = method.filter(|(name, rest)| !name.starts_with('$') && is_method(rest, &text, name));
            methods.extend(row.or(method).map(|(name, _)| name.to_owned()));
        }
    }
    let tested: BTreeSet<String> = cases().iter().map(|case| case.method.to_owned()).collect();
    ensure!(methods.len() > 50, "found only {methods:?}");
    for method in &methods {
        let elsewhere = ELSEWHERE.iter().any(|(name, _)| name == method);
        ensure!(
            tested.contains(method) != elsewhere,
            "{method}: expected a case here, or a row of ELSEWHERE"
        );
    }
    let size = "size".to_owned();
    let unknown: Vec<_> = tested.iter().filter(|name| !methods.contains(*name) && **name != size).collect();
    ensure!(unknown.is_empty(), "cases of no method: {unknown:?}");
    Ok(())
}

/// Whether a function takes the builder: its parameters may begin on the next line.
fn is_method(rest: &str, text: &str, name: &str) -> bool {
    let next = || {
        text.split_once(&format!("pub fn {name}("))
            .is_some_and(|(_, behind)| behind.trim_start().starts_with("&mut self"))
    };
    rest.starts_with("&mut self") || next()
}
