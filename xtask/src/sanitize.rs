//! `cargo xtask sanitize`: the kernels' unsafe code under AddressSanitizer, and what Miri can run of it under
//! Miri.

use anyhow::Result;

use crate::shell::{self, section};

/// The kernels are for this architecture only.
const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(crate) fn run() -> Result<()> {
    if shell::output(shell::command("cargo").args(["+nightly", "--version"])).is_err() {
        println!("skipped: no nightly toolchain is installed (rustup toolchain install nightly)");
        return Ok(());
    }
    section("AddressSanitizer", address)?;
    section("Miri", miri)
}

/// Loads and stores through vector instructions are checked like all others; every test runs, odd shapes and
/// all.
fn address() -> Result<()> {
    let mut test = shell::command("cargo");
    // Rustup's own name of the toolchain that runs this would win over `+nightly`.
    test.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
    test.args(["+nightly", "test", "-p", "arrcoc-kernels", "--target", TARGET]);
    test.env("RUSTFLAGS", "-Zsanitizer=address").env("CARGO_TARGET_DIR", shell::target("asan"));
    shell::check(&mut test)
}

/// Miri knows few vector instructions: it runs what is portable, and the tests of the rest say that they were
/// skipped.
fn miri() -> Result<()> {
    if shell::output(shell::command("cargo").env_remove("RUSTUP_TOOLCHAIN").args([
        "+nightly",
        "miri",
        "--version",
    ]))
    .is_err()
    {
        println!("skipped: Miri is not installed (rustup +nightly component add miri rust-src)");
        return Ok(());
    }
    let mut test = shell::command("cargo");
    test.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
    test.args(["+nightly", "miri", "test", "-p", "arrcoc-kernels", "--lib", "shared"]);
    shell::check(test.env("CARGO_TARGET_DIR", shell::target("miri")))
}
