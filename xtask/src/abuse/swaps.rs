//! Bundles that mean harm to the process that serves another one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::disks::copy;
use super::ring::{Ring, Row};
use crate::shell;
use crate::traffic::http;
use crate::traffic::server::{Launch, Server};

const KEY: &str = "abuse-key";
/// Longest wait for a swap.
const PATIENCE: Duration = Duration::from_secs(20);
/// What replaces something in a manifest.
type Edit = (&'static str, &'static str);

pub(super) fn hostile_bundles(ring: &Ring<'_>) -> Result<Vec<Row>> {
    let donor = ring.subject.bundle.with_file_name("int8-cpu");
    if !donor.join("manifest.yaml").is_file() {
        let mut row = Row::new("hostile bundles");
        row.note = format!("skipped: no bundle at {}", donor.display());
        return Ok(vec![row]);
    }
    let filters = format!("{{{{ messages{} }}}}", "|list".repeat(50_000));
    let nested = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    let replaced = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}{{ ns.x }}";
    let joined = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
    let listed = "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}";
    let templates = [
        ("50,000 filters", filters.as_str()),
        ("loops of 10^10 steps", nested),
        ("text that doubles by replace", replaced),
        ("text that doubles by ~", joined),
        ("lists that double", listed),
        ("a width of 10^10", "{{ '%10000000000d' | format(1) }}"),
    ];
    let edits: [(&str, Edit); 4] = [
        ("an image token of 2^32 - 1", ("image_token_id", "4294967295")),
        ("a native size of 16384", ("native_size", "16384")),
        ("layers by heads that overflow", ("layers", "4294967295")),
        ("a head of 2^40", ("head_dim", "1099511627776")),
    ];
    let mut rows = Vec::new();
    for (what, template) in templates {
        rows.push(swap(ring, what, &donor, |bundle| with_template(bundle, template))?);
    }
    for (what, edit) in edits {
        rows.push(swap(ring, what, &donor, |bundle| with_edit(bundle, edit))?);
    }
    rows.push(deep_manifest(ring)?);
    Ok(rows)
}

/// Engines with the good bundle and, in the place of int8, one that `change` was done to.
fn engines(
    ring: &Ring<'_>,
    name: &str,
    donor: &Path,
    change: impl Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let engines = ring.work.join(name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"));
    copy(&ring.subject.bundle, &engines.join("arr-coc-ledger/fp32-cpu"))?;
    let hostile = engines.join("arr-coc-ledger/int8-cpu");
    copy(donor, &hostile)?;
    change(&hostile)?;
    Ok(engines.join("arr-coc-ledger"))
}

fn launch<'a>(ring: &'a Ring<'_>, name: &str, engines: &Path) -> Launch<'a> {
    let engines = engines.display().to_string();
    let flags = ["--engines", &engines, "--precision", "fp32", "--auth-admin-keys", KEY];
    ring.launch(name, flags.map(str::to_owned).into())
}

fn swap(ring: &Ring<'_>, what: &str, donor: &Path, change: impl Fn(&Path) -> Result<()>) -> Result<Row> {
    let mut row = Row::new(&format!("hostile bundles: {what}"));
    let engines = engines(ring, what, donor, change)?;
    let mut server = launch(ring, &row.name, &engines).ready()?;
    ring.warm(&server)?;
    let admin = server.admin().context("the server did not say where /admin is")?;
    let idle = server.process().resident().unwrap_or(0);
    row.single = Some(ring.watch(&mut server, &mut row, idle, |server, row| {
        let request = http::post("/admin/engines/swap", admin, Some(KEY), b"{\"precision\":\"int8\"}");
        let answer = http::exchange(admin, &request, PATIENCE);
        row.count(&answer);
        row.expect(answer.as_ref().is_ok_and(|answer| answer.status != 200), "expected a refusal");
        refused_or_serving(ring, server, row);
    }));
    ring.aftermath(&mut server, &mut row);
    Ok(row)
}

/// The engine before must go on.
fn refused_or_serving(ring: &Ring<'_>, server: &Server, row: &mut Row) {
    if let Err(error) = ring.ask(server) {
        row.wrong.push(format!("a question behind the swap: {error:#}"));
    }
}

fn with_template(bundle: &Path, template: &str) -> Result<()> {
    let path = bundle.join("chat_template.jinja");
    fs::write(&path, template)?;
    let sum = shell::output(shell::command("sha256sum").arg(&path))?;
    let sum = sum.split(' ').next().unwrap_or_default().to_owned();
    edit(bundle, "chat_template.jinja", &sum)
}

fn with_edit(bundle: &Path, (key, value): Edit) -> Result<()> {
    edit(bundle, key, value)
}

/// Gives a key of the manifest another value, wherever it stands.
fn edit(bundle: &Path, key: &str, value: &str) -> Result<()> {
    let path = bundle.join("manifest.yaml");
    let text = fs::read_to_string(&path)?;
    let found = text.lines().any(|line| line.trim_start().starts_with(&format!("{key}:")));
    anyhow::ensure!(found, "{}: no `{key}`", path.display());
    let line =
        |line: &str| match line.trim_start().strip_prefix(key).is_some_and(|rest| rest.starts_with(':')) {
            true => format!("{}{key}: {value}\n", &line[..line.len() - line.trim_start().len()]),
            false => format!("{line}\n"),
        };
    Ok(fs::write(&path, text.lines().map(line).collect::<String>())?)
}

/// A manifest nested without end, beside a good bundle.
fn deep_manifest(ring: &Ring<'_>) -> Result<Row> {
    let mut row = Row::new("hostile bundles: a manifest 40,000 levels deep beside a good one");
    let engines = ring.work.join("deep");
    copy(&ring.subject.bundle, &engines.join("arr-coc-ledger/fp32-cpu"))?;
    let evil = engines.join("arr-coc-ledger/evil");
    fs::create_dir_all(&evil)?;
    fs::write(evil.join("manifest.yaml"), "[".repeat(40_000))?;
    let start = Instant::now();
    match launch(ring, &row.name, &engines.join("arr-coc-ledger")).ready() {
        Ok(mut server) => {
            row.note = format!("ready after {:.1} s", start.elapsed().as_secs_f64());
            row.expect(start.elapsed() < Duration::from_secs(4), "ready late");
            ring.aftermath(&mut server, &mut row);
        }
        Err(error) => {
            row.wrong.push(format!("not ready: {}", format!("{error:#}").lines().next().unwrap_or_default()))
        }
    }
    Ok(row)
}
