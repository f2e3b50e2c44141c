//! `cargo xtask tidy`: the rules of the code that no compiler checks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell;

mod circles;

/// Longer files are two rooms.
const MAX_LINES: usize = 500;
/// Columns of a comment; rustfmt holds code to the same.
const MAX_COLUMNS: usize = 110;

/// Which of our crates each may use. Cargo would allow any direction without a cycle; the house has one.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("arrcoc-bundle", &[]),
    ("arrcoc-kernels", &[]),
    ("arrcoc-models", &["arrcoc-bundle"]),
    ("arrcoc-runtime", &["arrcoc-bundle", "arrcoc-kernels"]),
    ("arrcoc-export", &["arrcoc-bundle", "arrcoc-models", "arrcoc-runtime"]),
    ("arrcoc-eval", &["arrcoc-bundle", "arrcoc-runtime"]),
    ("arrcoc-server", &["arrcoc-bundle", "arrcoc-eval", "arrcoc-runtime"]),
    ("arrcoc-tests", &["arrcoc-bundle", "arrcoc-kernels", "arrcoc-runtime"]),
    ("xtask", &[]),
];

pub(crate) fn run() -> Result<()> {
    let mut findings = Vec::new();
    let files = shell::output(shell::command("git").args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut read = 0;
    let mut rust = BTreeMap::new();
    for file in files.lines() {
        // Deleted files are listed until that is committed, and what is not text is not ours to read.
        let Ok(text) = fs::read_to_string(shell::root().join(file)) else { continue };
        read += 1;
        findings.extend(check_file(file, &text));
        if file.ends_with(".rs") {
            rust.insert(file.to_owned(), text);
        }
    }
    findings.extend(circles::circles(&rust));
    findings.extend(crates()?);
    findings.extend(changelog());
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("{read} files, nothing to say");
        Ok(())
    } else {
        bail!("{} findings", findings.len())
    }
}

fn check_file(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let name = Path::new(file);
    let code = name.extension().is_some_and(|extension| extension == "rs" || extension == "py");
    let lock = name.extension().is_some_and(|extension| extension == "lock");
    let lines = text.lines().count();
    if code && lines > MAX_LINES {
        findings.push(format!("{file}: {lines} lines, more than {MAX_LINES}: is it two rooms?"));
    }
    for (number, line) in text.lines().enumerate() {
        let at = format!("{file}:{}", number + 1);
        if let Some(mark) = unfinished(line).filter(|_| code) {
            findings.push(format!("{at}: `{mark}`: finish it, or write down why it is as it is"));
        }
        if let Some(path) = machine_path(line).filter(|_| !lock) {
            findings.push(format!("{at}: `{path}` is a path of one machine"));
        }
        if code && comment(file, line) && line.chars().count() > MAX_COLUMNS {
            findings.push(format!("{at}: a comment of more than {MAX_COLUMNS} columns"));
        }
        if let Some(what) = elsewhere(line).filter(|_| code) {
            findings.push(format!("{at}: `{what}` cites what is not in the repository: say it here"));
        }
        if let Some(host) = machine_host(line).filter(|_| !lock) {
            findings.push(format!("{at}: `{host}` is a host of one network"));
        }
        if code && silent_skip(line) {
            findings.push(format!("{at}: a test that is ignored without a word: `#[ignore = \"why\"]`"));
        }
        if standard_stream(file, line) {
            findings.push(format!(
                "{at}: only runtime/src/console.rs writes to standard output and standard error: what may be lost must not stop or hold up the rest"
            ));
        }
        if file.ends_with("requirements.lock") && !pinned(line) {
            findings.push(format!("{at}: `{line}` is not pinned with =="));
        }
    }
    findings
}

/// Marks of unfinished work. Spelt in halves, or this file would find itself.
fn unfinished(line: &str) -> Option<&'static str> {
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("unimple", "mented!")];
    let is_word = |at: usize, word: &str| {
        let letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = line.as_bytes();
        !letter(at.checked_sub(1).and_then(|before| bytes.get(before))) && !letter(bytes.get(at + word.len()))
    };
    words.into_iter().find(|word| line.match_indices(word).any(|(at, _)| is_word(at, word)))
}

/// Whether a line is a comment and nothing else. A long address cannot be broken.
fn comment(file: &str, line: &str) -> bool {
    let mark = if file.ends_with(".rs") { "//" } else { "#" };
    line.trim_start().starts_with(mark) && !line.contains("://")
}

/// Citations of documents that readers do not have. Spelt in halves, as above.
fn elsewhere(line: &str) -> Option<&'static str> {
    let words = [concat!("design ", "section"), concat!("design", ".md"), concat!("house", ".md")];
    words.into_iter().find(|word| line.contains(word))
}

/// Names that only this or that network knows.
fn machine_host(line: &str) -> Option<&'static str> {
    let ends = [concat!(".inter", "nal"), concat!(".la", "n"), concat!(".co", "rp")];
    // Only in addresses: elsewhere a dot may be anything.
    let hosts = line
        .split("://")
        .skip(1)
        .map(|rest| rest.split(['/', ' ', '"', '`', ')']).next().unwrap_or_default());
    let mut hosts = hosts.map(|host| host.split(':').next().unwrap_or_default());
    hosts.find_map(|host| ends.into_iter().find(|end| host.ends_with(end)))
}

/// A test that does not run and does not say why.
fn silent_skip(line: &str) -> bool {
    line.trim() == concat!("#[ig", "nore]")
}

/// Absolute paths into places that only this or that machine has.
fn machine_path(line: &str) -> Option<String> {
    let roots = ["work", "farm", "root", "tmp/bash_jobs"].map(|root| format!("/{root}/"));
    // A path that goes on to the left (target/work/) is relative.
    let starts = |at: usize| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || "_.-".contains(letter))
    };
    roots.into_iter().find(|root| line.match_indices(root.as_str()).any(|(at, _)| starts(at)))
}

/// Whether a line of the programs takes standard output or standard error into its own hands. To ask whether
/// they are terminals is fine.
fn standard_stream(file: &str, line: &str) -> bool {
    let ours =
        ["bundle/src", "kernels/src", "models/src", "export/src", "runtime/src", "eval/src", "server/src"]
            .iter()
            .any(|folder| file.starts_with(folder));
    let mut code = line.split("//").next().unwrap_or_default().to_owned();
    for stream in ["stdout()", "stderr()"] {
        code = code.replace(&format!("io::{stream}.is_terminal()"), "");
    }
    ours && file != "runtime/src/console.rs"
        && ["io::stdout()", "io::stderr()"].iter().any(|stream| code.contains(stream))
}

fn pinned(line: &str) -> bool {
    let requirement = line.split('#').next().unwrap_or_default().trim();
    requirement.is_empty() || requirement.contains("==")
}

/// Direction of dependencies, and a header on every crate.
fn crates() -> Result<Vec<String>> {
    let metadata = shell::output(shell::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata wrote no JSON")?;
    let mut findings = Vec::new();
    for package in array(&metadata["packages"]) {
        let name = text(&package["name"]);
        let Some((_, allowed)) = DEPENDENCIES.iter().find(|(known, _)| *known == name) else {
            findings
                .push(format!("{name}: a crate whose place in the house xtask/src/tidy.rs does not know"));
            continue;
        };
        // A dependency with a path is one of ours; for tests, anything may be used.
        let own = array(&package["dependencies"]).filter(|dependency| dependency["path"].is_string());
        for dependency in own.filter(|dependency| dependency["kind"] != "dev") {
            let dependency = text(&dependency["name"]);
            if !allowed.contains(&dependency) {
                findings
                    .push(format!("{name} depends on {dependency}: against the direction (ARCHITECTURE.md)"));
            }
        }
        for target in array(&package["targets"]).filter(|target| is_crate_root(target)) {
            let source = text(&target["src_path"]);
            if !fs::read_to_string(source)?.starts_with("//!") {
                findings
                    .push(format!("{}: expected it to begin with `//!`", shell::shown(Path::new(source))));
            }
        }
    }
    Ok(findings)
}

fn is_crate_root(target: &Value) -> bool {
    array(&target["kind"]).any(|kind| matches!(text(kind), "lib" | "bin"))
}

fn changelog() -> Option<String> {
    let changelog = fs::read_to_string(shell::root().join("CHANGELOG.md")).unwrap_or_default();
    let unreleased = changelog.lines().any(|line| line.starts_with("## ") && line.contains("Unreleased"));
    (!unreleased).then(|| "CHANGELOG.md: expected a section `## [Unreleased]`, found none".into())
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_whole_words() {
        assert_eq!(unfinished(concat!("// TO", "DO: later")), Some(concat!("TO", "DO")));
        assert_eq!(unfinished(concat!("MASTO", "DON")), None);
        assert_eq!(unfinished("done"), None);
    }

    #[test]
    fn machine_paths_are_absolute() {
        assert!(machine_path(&format!("see {}", "/work".to_owned() + "/main")).is_some());
        assert!(machine_path("target/work/x and ../root/y").is_none());
    }

    #[test]
    fn comments_are_as_narrow_as_code() {
        let wide = "x".repeat(MAX_COLUMNS);
        assert_eq!(check_file("a.rs", &format!("    // {wide}\n")).len(), 1);
        assert_eq!(check_file("a.py", &format!("# {wide}\n")).len(), 1);
        assert_eq!(check_file("a.rs", &format!("let text = \"{wide}\";\n// <https://{wide}>\n")).len(), 0);
    }

    #[test]
    fn what_readers_do_not_have_is_not_cited() {
        assert!(elsewhere(concat!("// (design ", "section 4.3)")).is_some());
        assert_eq!(elsewhere("// a section of the design"), None);
        assert!(machine_host(concat!("see http://build.la", "n:80/x")).is_some());
        assert!(machine_host("https://github.com/a and x.lane").is_none());
        assert!(silent_skip(concat!("    #[ig", "nore]")) && !silent_skip("#[ignore = \"needs a GPU\"]"));
    }

    #[test]
    fn a_line_of_a_lock_file_names_one_version() {
        assert!(pinned("torch==2.15.0") && pinned("# a comment") && pinned(""));
        assert!(!pinned("torch>=2") && !pinned("torch  # == later"));
    }

    #[test]
    fn programs_write_in_one_place() {
        let writes = "    writeln!(std::io::stderr(), \"hello\")?;";
        assert!(standard_stream("server/src/commands/serve.rs", writes));
        assert!(
            !standard_stream("runtime/src/console.rs", writes)
                && !standard_stream("xtask/src/main.rs", writes)
        );
        assert!(!standard_stream("server/src/a.rs", "if std::io::stderr().is_terminal() {"));
        assert!(!standard_stream("server/src/a.rs", "// not through io::stdout()"));
    }

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(check_file("a.rs", &"\n".repeat(MAX_LINES)), Vec::<String>::new());
        assert_eq!(check_file("a.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(check_file("a.md", &"\n".repeat(MAX_LINES + 1)), Vec::<String>::new());
    }
}
