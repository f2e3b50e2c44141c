//! Through the program, and beside Python's huggingface_hub.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use arrcoc_tests::require::can_run;
use serde_json::Value;

use crate::common::{self, program, run};
use crate::server::{COMMIT, Faults, NAME, tree};
use crate::{Place, repository};

/// The program, or another, with this place's hub and cache.
fn at_home<'a>(command: &'a mut Command, place: &Place) -> &'a mut Command {
    for variable in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"]
    {
        command.env_remove(variable);
    }
    command
        .env("HF_ENDPOINT", &place.server.endpoint)
        .env("HF_HOME", place.dir.path())
        .env("NO_PROXY", "127.0.0.1")
        .current_dir(place.dir.path())
}

#[test]
fn pull_prints_the_directory_and_build_takes_the_name() {
    let place = Place::new();
    let (status, stdout, stderr) = run(at_home(program().args(["pull", NAME]), &place));
    assert_eq!(status, 0, "{stderr}");
    let snapshot = place.cache().join("models--org--tiny-model/snapshots").join(COMMIT);
    assert_eq!(stdout, format!("{}\n", snapshot.display()));
    assert!(
        stderr.contains("model.safetensors") && stderr.contains("org/tiny-model at 0123456789ab"),
        "{stderr}"
    );

    // Nothing is asked of the hub any more, and the bundle is the one of the directory.
    place.server.seen();
    let mut build = program();
    let (status, _, stderr) = run(at_home(build.args(["build", NAME]), &place));
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("from the cache"), "{stderr}");
    assert!(place.server.seen().is_empty());
    let mut direct = program();
    direct.arg("build").arg(common::stock("smolvlm")).args(["--name", "tiny-model", "--out", "direct"]);
    assert_eq!(run(at_home(&mut direct, &place)).0, 0);
    let bundle = |out: &str| common::contents(&place.dir.path().join(out).join("tiny-model/fp32-cpu"));
    assert!(bundle("engines") == bundle("direct"));
}

#[test]
fn build_pulls_what_the_cache_has_not() {
    let place = Place::new();
    let (status, stdout, stderr) = run(at_home(program().args(["build", NAME, "--json"]), &place));
    assert_eq!((status, stderr.as_str()), (0, ""));
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["event"] == "done" && line["step"] == "model.safetensors"));
    assert_eq!(lines.last().unwrap()["bundle"], "engines/tiny-model/fp32-cpu");
    for command in ["inspect", "plan"] {
        let (status, stdout, stderr) = run(at_home(program().args([command, NAME, "--json"]), &place));
        assert_eq!((status, stderr.as_str()), (0, ""), "{command}");
        serde_json::from_str::<Value>(&stdout).unwrap();
    }
    let (status, stdout, _) = run(at_home(program().args(["pull", NAME, "--json"]), &place));
    let result: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(status, 0);
    assert_eq!(
        (&result["event"], &result["commit"], &result["fetched_bytes"]),
        (&"result".into(), &COMMIT.into(), &0.into())
    );
}

#[test]
fn a_directory_goes_before_the_hub_and_errors_name_both() {
    let place = Place::new();
    std::fs::create_dir_all(place.dir.path().join(NAME)).unwrap();
    let (status, _, stderr) = run(at_home(program().args(["build", NAME]), &place));
    assert!(status == 1 && stderr.contains("config.json in org/tiny-model"), "{stderr}");
    let (status, _, stderr) = run(at_home(program().args(["build", "org/misspelt"]), &place));
    assert!(status == 1 && stderr.contains("no directory org/misspelt"), "{stderr}");
    assert!(stderr.contains("check the spelling"), "{stderr}");
    let (status, _, stderr) = run(at_home(program().args(["build", "./no/such/place"]), &place));
    assert!(status == 1 && stderr.contains("is not a directory"), "{stderr}");
    for args in [["pull", "../etc", "--revision=main"], ["pull", NAME, "--revision=../../x"]] {
        let (status, _, stderr) = run(at_home(program().args(args), &place));
        assert!(status == 2 && stderr.contains("expected a"), "{stderr}");
    }
}

#[test]
fn a_secret_is_in_no_message() {
    let place = Place::new();
    place.server.fail(Faults { token: Some("other"), ..Faults::default() });
    let (status, stdout, stderr) =
        run(at_home(program().args(["pull", NAME]), &place).env("HF_TOKEN", "hf_secret"));
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("the owner of this token") && !stderr.contains("hf_secret"), "{stderr}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_ends_a_pull_that_goes_on_later() {
    let place = Place::new();
    // 64 blocks of 512 or 1024 bytes: the first large file does not fit.
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 64; exec \"$0\" pull \"$1\""]).arg(program().get_program()).arg(NAME);
    let (status, _, stderr) = run(at_home(&mut limited, &place));
    assert!(status == 1 && stderr.contains("no space is left for"), "{stderr}");
    place.server.seen();
    let (status, _, stderr) = run(at_home(program().args(["pull", NAME]), &place));
    assert_eq!(status, 0, "{stderr}");
    assert!(place.server.seen().iter().any(|seen| seen.storage && seen.range.is_some()));
}

/// Python with huggingface_hub, where the reference's environment is.
fn python(place: &Place, script: &str, arguments: &[&str]) -> Option<(i32, String, String)> {
    let path = arrcoc_tests::repository("target/venv-reference/bin/python");
    if !can_run("huggingface_hub", &path.metadata().map_err(|error| format!("{}: {error}", path.display()))) {
        return None;
    }
    let mut command = Command::new(path);
    let command = at_home(command.arg("-c").arg(script).args(arguments), place);
    Some(run(command.envs([("HF_HUB_DISABLE_TELEMETRY", "1"), ("HF_HUB_DISABLE_UPDATE_CHECK", "1")])))
}

#[test]
fn huggingface_hub_lays_the_same_cache_and_reads_ours() {
    let (ours, theirs) = (Place::new(), Place::new());
    let pulled = ours.pull().unwrap();
    let names: Vec<&str> = pulled.files.iter().map(|file| file.name.as_str()).collect();
    let script = "import sys\nfrom huggingface_hub import hf_hub_download\n\
                  for name in sys.argv[2:]: print(hf_hub_download(sys.argv[1], name))";
    let Some((status, _, stderr)) = python(&theirs, script, &[&[NAME], &names[..]].concat()) else { return };
    assert_eq!(status, 0, "{stderr}");
    let layout = |place: &Place| -> BTreeMap<String, Vec<u8>> {
        let mut found = tree(&place.cache());
        // Locks, and what a tag is said to have been written by.
        found.retain(|name, _| !name.starts_with(".locks/") && name != "CACHEDIR.TAG");
        found
    };
    let (a, b) = (layout(&ours), layout(&theirs));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    assert!(a == b);
    // Each reads what the other wrote, without the hub.
    assert!(theirs.hub().find(&repository(), &Default::default()).is_some());
    let script = "import os, sys\nos.environ['HF_HUB_OFFLINE'] = '1'\nfrom huggingface_hub import hf_hub_download\n\
                  for name in sys.argv[2:]: print(hf_hub_download(sys.argv[1], name))";
    ours.server.seen();
    let (status, stdout, stderr) = python(&ours, script, &[&[NAME], &names[..]].concat()).unwrap();
    assert_eq!(status, 0, "{stderr}");
    assert!(
        stdout.lines().zip(&names).all(|(line, name)| Path::new(line) == pulled.snapshot.path.join(name))
    );
    assert!(ours.server.seen().is_empty());
}
