//! The command line: configuration, exit codes, help, and the committed default configuration.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrcoc_bundle::manifest::RawManifest;
use arrcoc_server::config::{Config, KEYS, Overrides};
use arrcoc_tests::bundles;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arrcoc-serve"));
    command.args(arguments).envs(environment.iter().copied());
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("serve.yaml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn config_check_prints_the_effective_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path =
        file(dir.path(), "limits: {images: 2, body: 1MiB, queue: 5}\nauth: {api_keys: [secret-key-1]}\n");
    let environment = [("ARRCOC_LIMITS_IMAGES", "3"), ("ARRCOC_LIMITS_QUEUE", "6")];
    let flags = ["--limits-queue", "7", "--served-model-name", "as-elsewhere"];
    let output = run(&[&["config", "check", &path][..], &flags].concat(), &environment);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let effective: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    // File, environment over file, flag over both, default.
    assert_eq!(effective["limits"]["body"], "1MiB");
    assert_eq!(effective["limits"]["images"], 3);
    assert_eq!(effective["limits"]["queue"], 7);
    assert_eq!(effective["model_name"], "as-elsewhere");
    assert_eq!(effective["timeouts"]["request"], "300s");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_wrong_configuration_ends_with_2_and_says_everything_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "limits: {images: -1}\n");
    let environment = [("ARRCOC_TIMEOUTS_DRAIN", "soon")];
    let output = run(&["config", "check", &path, "--engine-slots", "0"], &environment);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    for part in
        ["limits.images", "`-1`", "serve.yaml", "ARRCOC_TIMEOUTS_DRAIN", "`soon`", "--engine-slots", "`0`"]
    {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert_eq!(text.matches("error:").count(), 1, "{text}");

    let path = file(dir.path(), "limit: {}\n");
    let output = run(&["config", "check", &path], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("limits"), "the right key is not offered: {}", stderr(&output));
    let output = run(&["config", "check", "/nonexistent.yaml"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output).matches("os error").count(), 1, "{}", stderr(&output));
}

#[test]
fn commands_that_need_a_bundle_say_so() {
    for arguments in [vec!["serve"], vec!["ask", "What?"], vec!["eval", "--data", "set.json"]] {
        let output = run(&arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("--bundle"), "{}", stderr(&output));
    }
    let output = run(&["serve", "--bundle", "/nonexistent"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("manifest.yaml"), "{}", stderr(&output));
}

#[test]
fn a_bundle_that_does_not_load_ends_the_server_with_1() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("manifest.yaml"), "format: none\n").unwrap();
    let bundle = dir.path().to_str().unwrap();
    for arguments in [vec!["serve", "--listen", "127.0.0.1:0"], vec!["ask", "What?"]] {
        let output = run(&[arguments.clone(), vec!["--bundle", bundle]].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{arguments:?} {}", stderr(&output));
        assert!(stderr(&output).contains(bundle), "{}", stderr(&output));
    }
}

/// A directory that passes for a bundle until it is loaded.
fn bundle(dir: &Path) -> String {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("manifest.yaml"), "format: none\n").unwrap();
    dir.to_str().unwrap().to_owned()
}

#[test]
fn serve_takes_a_directory_a_host_and_a_port() {
    let dir = tempfile::tempdir().unwrap();
    let (one, all) = (bundle(&dir.path().join("fp32-cpu")), dir.path().to_str().unwrap());
    for place in [one.as_str(), all] {
        for words in [vec!["--port", "0"], vec!["--host", "localhost", "--port", "0"], vec!["--listen", "0"]]
        {
            // What the environment says of another place does not count.
            let output = run(&[vec!["serve", place], words].concat(), &[("ARRCOC_BUNDLE", "/nonexistent")]);
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            assert!(stderr(&output).contains(&one), "{}", stderr(&output));
            // No address is given out where nothing will ever be served.
            assert_eq!(stdout(&output), "");
        }
    }
    for words in [
        ["serve", &one, "--bundle", &one],
        ["serve", &one, "--engines", all],
        ["serve", &one, "--model", &one],
        ["serve", &one, "--host", "example.org"],
        ["serve", &one, "--port", "65536"],
        ["serve", "/nonexistent", "--port", "0"],
    ] {
        assert_eq!(run(&words, &[]).status.code(), Some(2), "{words:?}");
    }
}

/// `arrcoc-export build CHECKPOINT && arrcoc-serve serve`: both know the directory `engines`.
#[test]
fn serve_without_a_place_takes_engines_where_it_holds_one_model() {
    let here = tempfile::tempdir().unwrap();
    let serve = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arrcoc-serve"));
        let output = command.args(["serve", "--port", "0"]).current_dir(here.path()).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let add = |model: &str, variant: &str| {
        let dir = here.path().join("engines").join(model).join(variant);
        std::fs::create_dir_all(&dir).unwrap();
        let manifest = RawManifest { model: model.into(), ..bundles::composite(&dir) };
        std::fs::write(dir.join("manifest.yaml"), serde_yaml::to_string(&manifest).unwrap()).unwrap();
    };
    let (status, text) = serve();
    assert!(status == Some(2) && text.contains("no directory `engines`"), "{text}");
    std::fs::create_dir(here.path().join("engines")).unwrap();
    let (status, text) = serve();
    assert!(status == Some(2) && text.contains("no bundle in the directory `engines`"), "{text}");
    assert!(text.contains("--engines DIR") && text.contains("arrcoc-export build"), "{text}");
    // Empty graphs: the server gets as far as loading them.
    add("one", "fp32-portable");
    add("one", "int4-portable");
    let (status, text) = serve();
    assert!(status == Some(1) && text.contains("engines/one/fp32-portable"), "{text}");
    add("two", "fp32-portable");
    let (status, text) = serve();
    assert_eq!(status, Some(2), "{text}");
    for part in ["one (engines/one/", "two (engines/two/", "`serve DIR`"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[test]
fn a_directory_in_the_wrong_place_is_told_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let (one, all) = (bundle(&dir.path().join("fp32-cpu")), dir.path().to_str().unwrap());
    for (flag, place, hint) in [("--bundle", all, "--engines"), ("--engines", one.as_str(), "--bundle")] {
        let output = run(&["serve", flag, place], &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    }
}

#[test]
fn swap_looks_where_the_configuration_says_and_says_where_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    // The server's own bundle may be anywhere: only the address counts.
    let path = file(dir.path(), "bundle: /nonexistent\nadmin_listen: 0.0.0.0:1\n");
    let url = "http://127.0.0.1:1/admin/engines/swap";
    for words in [["--url", "http://127.0.0.1:1/"], ["--admin-listen", "127.0.0.1:1"], ["--config", &path]] {
        let output = run(&[vec!["swap", "int4", "--key", "some-key-1"], words.to_vec()].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let text = stderr(&output);
        assert!(
            text.contains(url) && text.contains("admin on") && text.contains("--url"),
            "{words:?}: {text}"
        );
    }
    let output = run(&["swap", "int4"], &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    for part in ["auth.admin_keys", "--key", "ARRCOC_ADMIN_KEY", "Authorization"] {
        assert!(stderr(&output).contains(part), "{part} is missing in: {}", stderr(&output));
    }
    let output = run(&["swap", "int4", "--key", "some-key-1"], &[("ARRCOC_ADMIN_LISTEN", "here")]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn ask_checks_its_arguments() {
    for arguments in [
        ["ask", "Q", "--budget", "some"],
        ["ask", "Q", "--budget", "0"],
        ["ask", "Q", "--max-tokens", "0"],
        ["ask", "Q", "--temperature", "3"],
        ["ask", "Q", "--picture", "x.png"],
        ["ask", "Q", "--regex=a", "--json-schema=x.json"],
    ] {
        assert_eq!(run(&arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn help_names_every_setting_and_hides_secrets() {
    let output = run(&["serve", "--help"], &[("ARRCOC_AUTH_API_KEYS", "secret-key-1")]);
    let text = stdout(&output);
    for key in KEYS {
        assert!(
            text.contains(&format!("--{}", key.flag())) && text.contains(&key.variable()),
            "{}",
            key.path
        );
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(words.join(" ").contains("A flag outranks the environment") && !text.contains("secret-key"));
    assert_eq!(words.join(" ").matches("8 visible ASCII characters").count(), 2, "both kinds of keys");
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(&["completions", shell], &[]);
        assert!(output.status.success() && stdout(&output).contains("limits-body"), "{shell}");
    }
}

#[test]
fn names_and_budgets_that_cannot_work_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wrong =
        file(dir.path(), "server: {hosts: ['https://a.example']}\nlimits: {body: 8MiB, body_memory: 9MiB}\n");
    let output = run(&["config", "check", &wrong], &[]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("server.hosts") && text.contains("limits.body_memory"), "{text}");
    let right = "server: {hosts: [a.example, '*.b.example', 10.0.0.1, '[::1]']}\nlimits: {body: 8MiB, body_memory: 16MiB}\n";
    let output =
        run(&["config", "check", &file(dir.path(), right)], &[("ARRCOC_PROBE_LISTEN", "0.0.0.0:8082")]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("0.0.0.0:8082"));
}

/// `configs/serve.yaml`, as the table of settings makes it. After a change there, `ARRCOC_BLESS=1` writes it
/// again.
#[test]
fn the_committed_configuration_shows_every_setting_with_its_default() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../configs/serve.yaml");
    let expected = render();
    if std::env::var_os("ARRCOC_BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    let effective = |file: Option<&Path>| {
        serde_yaml::to_string(&Config::load(file, &Overrides::default()).unwrap()).unwrap()
    };
    assert_eq!(effective(Some(&path)), effective(None));
}

fn render() -> String {
    let mut text = String::from(
        "# arrcoc-serve: every setting with its default. What is commented out is not set.\n\
         #\n\
         #   arrcoc-serve serve --config serve.yaml --bundle engines/MODEL/fp32-cpu\n\
         #   arrcoc-serve config check serve.yaml\n\
         #\n\
         # A flag (--limits-body) outranks the environment (ARRCOC_LIMITS_BODY), which outranks this file, which outranks\n\
         # the default. Sizes are bytes or have KiB, MiB, GiB; times have ms, s, m.\n",
    );
    let mut current = "";
    for key in KEYS {
        let (section, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if section != current {
            current = section;
            writeln!(text, "\n{section}:").unwrap();
        } else {
            text.push('\n');
        }
        let indent = if section.is_empty() { "" } else { "  " };
        writeln!(text, "{indent}# {}", key.help).unwrap();
        if key.default.is_empty() {
            let example = if key.value.ends_with('S') && !matches!(key.value, "TOKENS" | "PIXELS") {
                format!("[{}]", key.value)
            } else {
                key.value.to_owned()
            };
            writeln!(text, "{indent}# {name}: {example}").unwrap();
        } else {
            writeln!(text, "{indent}{name}: {}", key.default).unwrap();
        }
    }
    text
}
