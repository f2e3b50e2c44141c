//! What the process itself may not exceed (`ulimit -v`, `ulimit -d`), and how much it holds.

use std::fs;
use std::path::Path;

use super::{Allowance, Counts};

/// What the limits on address space and on data leave. `root` is `/`, and another directory in tests.
pub(super) fn allowances(root: &Path) -> Vec<Allowance> {
    let Ok(limits) = fs::read_to_string(root.join("proc/self/limits")) else { return Vec::new() };
    let kinds = [("Max address space", "VmSize", "ulimit -v"), ("Max data size", "VmData", "ulimit -d")];
    let left = kinds.into_iter().filter_map(|(limit, held, setting)| {
        let limit = soft_limit(&limits, limit)?;
        let free = limit.saturating_sub(held_bytes(root, held).unwrap_or(0));
        let place = format!("the process's limit `{setting}` ({})", arrcoc_runtime::model::Mib(limit));
        Some(Allowance { place, free, counts: Counts::AddressSpace })
    });
    left.collect()
}

/// The first number behind a limit's name; `None` for `unlimited`.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A size of the process by its name in `/proc/self/status`, bytes.
pub(super) fn held_bytes(root: &Path, name: &str) -> Option<u64> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    kibibytes(&status, name)
}

/// The system's free memory, bytes: what it has, and what it could drop.
pub(super) fn available(root: &Path) -> Option<u64> {
    let memory = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    kibibytes(&memory, "MemAvailable")
}

/// Reads a line `Name:   123 kB`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}
