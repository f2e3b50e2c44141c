#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;

use super::*;

const BUNDLE: &str =
    "tool: arrcoc-export 0.0.1\ngraphs: {decoder: {file: decoder.onnx}}\nfiles: {text: ''}\n";

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// Writes a directory that is a bundle, as far as replacing it goes.
fn publish(destination: &Path, generation: &str) -> Result<(), StagingError> {
    let staging = Staging::begin(destination, 1, Owned::Bundle)?;
    staging.write("decoder.onnx", generation.as_bytes())?;
    staging.write("text", b"x")?;
    staging.write("manifest.yaml", BUNDLE.as_bytes())?;
    staging.commit()
}

#[test]
fn replaces_whole_directories_and_cleans_up() {
    let root = tempfile::tempdir().unwrap();
    let destination = root.path().join("bundle");
    for generation in ["one", "two"] {
        fs::create_dir_all(root.path().join(".bundle.partial/deeper")).unwrap();
        fs::write(root.path().join(".bundle.partial/deeper/stale"), "left by a killed process").unwrap();
        publish(&destination, generation).unwrap();
        assert_eq!(fs::read_to_string(destination.join("decoder.onnx")).unwrap(), generation);
        assert_eq!((count(&destination), count(root.path())), (3, 1));
    }
    fs::create_dir(root.path().join("empty")).unwrap();
    publish(&root.path().join("empty"), "three").unwrap();
}

#[test]
fn second_writer_is_refused_and_abandoned_work_vanishes() {
    let root = tempfile::tempdir().unwrap();
    let destination = root.path().join("new/parents/bundle");
    let first = Staging::begin(&destination, 1, Owned::Bundle).unwrap();
    assert!(matches!(Staging::begin(&destination, 1, Owned::Bundle), Err(StagingError::Busy { .. })));
    Staging::sweep(&destination).unwrap();
    assert!(first.path().is_dir(), "a living writer's directory was swept away");
    drop(first);
    assert_eq!(count(root.path()), 0);
    let full = Staging::begin(&destination, u64::MAX, Owned::Bundle);
    assert!(matches!(full, Err(StagingError::NoSpace { .. })));
    assert_eq!(count(root.path()), 0);
    // Parents that hold something else stay.
    let first = Staging::begin(&destination, 1, Owned::Bundle).unwrap();
    fs::write(root.path().join("new/notes.txt"), "a user's").unwrap();
    drop(first);
    assert!(root.path().join("new/notes.txt").is_file() && !root.path().join("new/parents").exists());
}

#[test]
fn what_is_not_ours_stays() {
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str| root.path().join(name);
    for dir in ["notes", "other", "beside", "sub", "elsewhere"] {
        fs::create_dir(place(dir)).unwrap();
        fs::write(place(dir).join("manifest.yaml"), BUNDLE).unwrap();
    }
    fs::remove_file(place("notes/manifest.yaml")).unwrap();
    fs::write(place("notes/notes.txt"), "a user's").unwrap();
    fs::write(place("other/manifest.yaml"), "apiVersion: v1\ngraphs: {}\n").unwrap();
    fs::write(place("beside/notes.txt"), "a user's").unwrap();
    fs::create_dir(place("sub/notes")).unwrap();
    fs::write(place("file"), "a user's").unwrap();
    symlink(place("elsewhere"), place("link")).unwrap();
    for name in ["notes", "other", "beside", "sub", "file", "link"] {
        let before = place(name).symlink_metadata().unwrap().modified().unwrap();
        let refused = publish(&place(name), "new").unwrap_err();
        assert!(matches!(&refused, StagingError::Foreign { .. }), "{name}: {refused}");
        assert_eq!(place(name).symlink_metadata().unwrap().modified().unwrap(), before, "{name}");
    }
    assert!(place("beside/notes.txt").is_file() && count(root.path()) == 7);
}

#[test]
fn links_are_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str| root.path().join(name);
    fs::create_dir(place("elsewhere")).unwrap();
    fs::write(place("elsewhere/notes.txt"), "a user's").unwrap();
    symlink(place("elsewhere"), place(".bundle.partial")).unwrap();
    assert!(matches!(publish(&place("bundle"), "new"), Err(StagingError::Foreign { .. })));
    assert!(matches!(Staging::sweep(&place("bundle")), Err(StagingError::Foreign { .. })));
    assert!(place("elsewhere/notes.txt").is_file() && !place("bundle").exists());
}

#[test]
fn what_appears_at_the_destination_meanwhile_stays_too() {
    let root = tempfile::tempdir().unwrap();
    let destination = root.path().join("bundle");
    let staging = Staging::begin(&destination, 1, Owned::Bundle).unwrap();
    fs::create_dir(&destination).unwrap();
    fs::write(destination.join("notes.txt"), "a user's").unwrap();
    assert!(matches!(staging.commit(), Err(StagingError::Foreign { .. })));
    assert!(destination.join("notes.txt").is_file() && count(root.path()) == 1);
}

#[test]
fn checkpoints_and_engines_are_known_by_their_files() {
    let root = tempfile::tempdir().unwrap();
    let (checkpoint, engine) = (root.path().join("checkpoint"), root.path().join("engine"));
    for dir in [&checkpoint, &engine] {
        fs::create_dir(dir).unwrap();
    }
    let config = crate::init::Preset::ArrCocOvisTiny.config("float32");
    fs::write(checkpoint.join("config.json"), config.to_string()).unwrap();
    fs::write(checkpoint.join("model.safetensors"), "").unwrap();
    fs::write(engine.join("decoder.onnx"), "").unwrap();
    fs::write(engine.join("decoder_1.engine"), "").unwrap();
    Owned::Checkpoint.check(&checkpoint).unwrap();
    Owned::Engine.check(&engine).unwrap();
    for (dir, owned) in [(&checkpoint, Owned::Checkpoint), (&engine, Owned::Engine)] {
        assert!(matches!(Owned::Bundle.check(dir), Err(StagingError::Foreign { .. })));
        fs::write(dir.join("thesis.tex"), "a user's").unwrap();
        let refused = owned.check(dir).unwrap_err().to_string();
        assert!(refused.contains("thesis.tex"), "{refused}");
    }
}
