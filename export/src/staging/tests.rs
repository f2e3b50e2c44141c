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
    Staging::sweep(&destination, Owned::Bundle).unwrap();
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

/// File systems without an exchange in one step.
#[test]
fn an_exchange_in_steps_loses_nothing_wherever_it_is_killed() {
    let root = tempfile::tempdir().unwrap();
    let (destination, old) = (root.path().join("bundle"), root.path().join(".bundle.old"));
    let generation = || fs::read_to_string(destination.join("decoder.onnx")).unwrap();
    // Killed after the first step: the destination is gone, and the only copy is aside.
    publish(&destination, "one").unwrap();
    for begin in [true, false] {
        fs::rename(&destination, &old).unwrap();
        match begin {
            true => drop(Staging::begin(&destination, 1, Owned::Bundle).unwrap()),
            false => Staging::sweep(&destination, Owned::Bundle).unwrap(),
        }
        assert_eq!((generation(), old.exists(), count(root.path())), ("one".to_owned(), false, 1));
    }
    // Killed after the second: the predecessor is still aside.
    publish(&old, "zero").unwrap();
    publish(&destination, "two").unwrap();
    assert_eq!((generation(), count(root.path())), ("two".to_owned(), 1));
    // All steps.
    let staging = Staging::begin(&destination, 1, Owned::Bundle).unwrap();
    staging.write("decoder.onnx", b"three").unwrap();
    exchange_in_steps(staging.path(), &destination).unwrap();
    drop(staging);
    assert_eq!((generation(), count(root.path())), ("three".to_owned(), 1));
    // Something of that name that is not ours is neither moved nor removed.
    fs::create_dir(&old).unwrap();
    fs::write(old.join("notes.txt"), "a user's").unwrap();
    fs::remove_dir_all(&destination).unwrap();
    publish(&destination, "four").unwrap();
    Staging::sweep(&destination, Owned::Bundle).unwrap();
    assert!(exchange_in_steps(&root.path().join(".bundle.partial"), &destination).is_err());
    assert_eq!(generation(), "four");
    assert!(old.join("notes.txt").is_file());
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
    assert!(matches!(Staging::sweep(&place("bundle"), Owned::Bundle), Err(StagingError::Foreign { .. })));
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
fn checkpoints_and_plans_are_known_by_their_files() {
    let root = tempfile::tempdir().unwrap();
    let (checkpoint, plan) = (root.path().join("checkpoint"), root.path().join("plan"));
    for dir in [&checkpoint, &plan] {
        fs::create_dir(dir).unwrap();
    }
    let config = (arrcoc_models::families::preset("arr-coc-ovis-tiny").unwrap().config)("float32");
    fs::write(checkpoint.join("config.json"), config.to_string()).unwrap();
    fs::write(checkpoint.join("model.safetensors"), "").unwrap();
    // Trained, or from elsewhere: `init` has not written it.
    let refused = Owned::Checkpoint.check(&checkpoint).unwrap_err().to_string();
    assert!(refused.contains("is not replaced"), "{refused}");
    fs::write(checkpoint.join(INIT_MARK), "").unwrap();
    fs::write(plan.join("decoder.onnx"), "").unwrap();
    fs::write(plan.join("decoder_1.engine"), "").unwrap();
    Owned::Checkpoint.check(&checkpoint).unwrap();
    Owned::Plan.check(&plan).unwrap();
    // Trained in the same place.
    let weights = File::options().write(true).open(checkpoint.join("model.safetensors")).unwrap();
    let (now, later) = (std::time::SystemTime::now(), std::time::Duration::from_secs(60));
    weights.set_modified(now + later).unwrap();
    let refused = Owned::Checkpoint.check(&checkpoint).unwrap_err().to_string();
    assert!(refused.contains("`model.safetensors` in it"), "{refused}");
    weights.set_modified(now - later).unwrap();
    for (dir, owned) in [(&checkpoint, Owned::Checkpoint), (&plan, Owned::Plan)] {
        assert!(matches!(Owned::Bundle.check(dir), Err(StagingError::Foreign { .. })));
        fs::write(dir.join("thesis.tex"), "a user's").unwrap();
        let refused = owned.check(dir).unwrap_err().to_string();
        assert!(refused.contains("thesis.tex"), "{refused}");
    }
}
