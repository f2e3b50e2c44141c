//! What a test needs of the machine and may not find there. It depends on nothing, so that the kernels' tests
//! can have it too.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::fmt::Display;

/// Lists what a machine must have (`ort,avx512`): tests that need it and do not find it fail, where others
/// say that they are skipped.
const VARIABLE: &str = "ARRCOC_REQUIRE";

/// A library that was named by its path must be there too.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// Whether a test can run that needs `what`: `found`, or why it was not. A name of the list stands for all
/// that begin with it.
///
/// # Panics
/// When the machine must have it.
#[track_caller]
pub fn can_run<T, E: Display>(what: &str, found: &Result<T, E>) -> bool {
    let Err(error) = found else { return true };
    let required = std::env::var(VARIABLE).unwrap_or_default();
    let named = what == "ort" && std::env::var_os(LIBRARY).is_some();
    assert!(
        !named && !requires(&required, what),
        "expected `{what}`, as {VARIABLE} or {LIBRARY} says: {error}"
    );
    eprintln!("skipped without `{what}`: {error}");
    false
}

fn requires(list: &str, what: &str) -> bool {
    list.split(',').map(str::trim).any(|name| !name.is_empty() && what.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_what_begins_with_it() {
        for (list, what, expected) in [
            ("", "ort", false),
            ("ort", "ort", true),
            ("ort, avx512", "avx512vnni", true),
            ("avx512vnni", "avx512f", false),
            (",,", "ort", false),
        ] {
            assert_eq!(requires(list, what), expected, "{list}: {what}");
        }
        assert!(can_run("nothing", &Ok::<(), &str>(())));
        assert!(!can_run("something", &Err::<(), _>("it is not there")));
    }
}
