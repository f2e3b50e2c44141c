//! `cargo xtask test`: everything that must pass, in order, without PyTorch.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::bundles::{Build, Programs};
use crate::python::Environment;
use crate::shell::{self, section};
use crate::{goldens, onnxruntime, promtool, soak, tidy};

/// The preset that the client tests run on.
const PRESET: &str = "arr-coc-ovis-tiny";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the client tests, with these arguments to pytest (such as `-k stop`)
    #[arg(long, num_args = 0.., value_name = "PYTEST", allow_hyphen_values = true)]
    client: Option<Vec<String>>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    if args.client.is_none() {
        lints()?;
    }
    let library = section("ONNX Runtime", onnxruntime::fetch)?;
    let library = library.context("the tests compare two runtimes, and ONNX Runtime is one of them")?;
    let programs = section("programs", || Programs::build(false))?;
    let bundle = section("test bundles", || bundles(&programs))?;
    if args.client.is_none() {
        section("Rust tests", || {
            let mut test = with_library(shell::cargo(), &library);
            shell::check(test.args(["test", "--workspace"]).env("ARRCOC_REQUIRE", required()))
        })?;
    }
    let more = args.client.as_deref().unwrap_or_default();
    section("client tests", || client(&programs, &bundle, &library, more))?;
    if args.client.is_none() {
        let ledger = shell::target("test-bundles").join("arr-coc-ledger").join("fp32-cpu");
        section("soak, short", || soak::short(&programs, &ledger, &library))?;
    }
    println!("\nall of it passed in {}", shell::duration(start));
    Ok(())
}

/// What tests must not be skipped for: what the caller requires, ONNX Runtime, which has been fetched, and
/// what this CPU says that it has of AVX-512.
fn required() -> String {
    let given = std::env::var("ARRCOC_REQUIRE").unwrap_or_default();
    let about = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = about.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    // Linux spells `avx512_vnni` what Rust spells `avx512vnni`.
    let wide = flags.split_whitespace().filter(|flag| flag.starts_with("avx512"));
    let names = given.split(',').map(str::to_owned).chain(["ort".to_owned()]);
    let names: Vec<String> = names.chain(wide.map(|flag| flag.replace('_', ""))).collect();
    names.join(",")
}

fn lints() -> Result<()> {
    section("rustfmt", || shell::check(shell::cargo().args(["fmt", "--all", "--check"])))?;
    section("clippy", || {
        let mut clippy = shell::cargo();
        clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]);
        shell::check(&mut clippy)
    })?;
    section("documentation", || {
        let mut doc = shell::cargo();
        doc.args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
        // Private items are documented too, so a link to one leads somewhere.
        let flags = "--deny warnings --allow rustdoc::private_intra_doc_links";
        shell::check(doc.env("RUSTDOCFLAGS", flags))
    })?;
    section("tidy", tidy::run)?;
    section("cargo-deny", || {
        if shell::output(shell::cargo().args(["deny", "--version"])).is_err() {
            println!("skipped: `cargo deny` is not installed (cargo install --locked cargo-deny)");
            return Ok(());
        }
        shell::check(shell::cargo().args(["deny", "check"]))
    })
}

/// All bundles of every model that has goldens, under `target/test-bundles/MODEL`; returns the
/// bundle that the client tests run on.
fn bundles(programs: &Programs) -> Result<PathBuf> {
    let out = shell::target("test-bundles");
    for goldens in goldens::committed() {
        let checkpoint = goldens.checkpoint(programs, out.join(goldens.model).join("checkpoint"))?;
        let portable = Build::portable(goldens.model);
        programs.bundle(&checkpoint, &out, &portable)?;
        programs.bundle(&checkpoint, &out, &portable.for_cuda())?;
        // More than one precision to swap between, and for what is proved of each.
        for precision in ["fp32", "int8", "int4"] {
            programs.bundle(&checkpoint, &out, &Build::cpu(goldens.model, precision))?;
        }
    }
    Ok(out.join(PRESET).join("fp32-cpu"))
}

fn client(programs: &Programs, bundle: &Path, library: &Path, more: &[String]) -> Result<()> {
    let tests = shell::root().join("tests/client");
    let environment = Environment::ready("venv-client", &tests.join("requirements.lock"))?;
    let mut pytest = with_library(environment.command(), library);
    // `-rs` says why tests were skipped.
    pytest.args(["-m", "pytest", "-rs"]).arg(&tests).args(more);
    pytest.env("ARRCOC_TEST_SERVE", programs.serve().get_program()).env("ARRCOC_TEST_BUNDLE", bundle);
    if let Some(promtool) = promtool::find() {
        pytest.env("ARRCOC_TEST_PROMTOOL", promtool);
    }
    shell::check(&mut pytest)
}

fn with_library(mut command: Command, library: &Path) -> Command {
    command.env(onnxruntime::VARIABLE, library);
    command
}
