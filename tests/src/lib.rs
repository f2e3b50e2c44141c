//! What tests of several crates share: goldens, the graphs of test bundles, the one way to compare, and
//! mutated input.
//!
//! Beside this crate lie its materials: `goldens/` (tensors from PyTorch, made by `cargo xtask goldens`),
//! `fixtures/` (images and small graphs, each with the script that made it) and `client/` (the tests of a
//! real server with real clients, in Python).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests speak to whoever runs them")]

pub mod allocated;
pub mod bundles;
pub mod compare;
pub mod fuzz;
pub mod goldens;
pub mod graphs;
pub mod require;

use std::path::PathBuf;

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
