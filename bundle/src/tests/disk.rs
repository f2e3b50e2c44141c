//! Bundles as disks have them: links, other files, and files that change.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// Moves every file of a bundle to a place of its own and leaves a link, as Hugging Face's cache does.
fn into_cache(dir: &Path, blobs: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            into_cache(&path, blobs);
            continue;
        }
        let blob = blobs.join(digest(&fs::read(&path).unwrap()));
        fs::rename(&path, &blob).unwrap();
        symlink(&blob, &path).unwrap();
    }
}

#[test]
fn links_lead_where_they_like_and_the_hash_decides() {
    let (dir, raw) = valid();
    write(&dir, &raw);
    let blobs = tempfile::tempdir().unwrap();
    into_cache(dir.path(), blobs.path());
    let bundle = Bundle::open(dir.path()).unwrap();
    // By the path in the bundle: beside what the link leads to, a graph's weights have other names.
    assert_eq!(bundle.graph("decoder").unwrap().path, bundle.dir().join("decoder.onnx"));
    bundle.check_unchanged().unwrap();

    let text = dir.path().join("text/tokenizer.json");
    fs::remove_file(&text).unwrap();
    symlink("/etc/passwd", &text).unwrap();
    assert!(matches!(Bundle::open(dir.path()), Err(BundleError::Hash { .. })));
    fs::remove_file(&text).unwrap();
    symlink(blobs.path(), &text).unwrap();
    assert!(matches!(Bundle::open(dir.path()), Err(BundleError::Path { .. })));
}

#[test]
fn files_that_nobody_reads_are_nobodys_business() {
    let (dir, raw) = valid();
    write(&dir, &raw);
    for name in [".gitattributes", ".cache/huggingface/decoder.onnx.metadata", "text/decoder.onnx.data"] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    symlink("nowhere", dir.path().join("broken")).unwrap();
    Bundle::open(dir.path()).unwrap();
}

#[test]
fn what_a_graph_reads_must_be_listed() {
    let with = |location: &str| {
        let (dir, mut raw) = valid();
        for file in ["decoder.onnx.data", "text/other.data"] {
            fs::write(dir.path().join(file), "weights").unwrap();
        }
        raw.files.insert("decoder.onnx.data".to_owned(), digest(b"weights"));
        let graph = model_with_data(location);
        fs::write(dir.path().join("decoder.onnx"), &graph).unwrap();
        raw.graphs.get_mut("decoder").unwrap().sha256 = digest(&graph);
        open(&dir, &raw)
    };
    let bundle = with("decoder.onnx.data").unwrap();
    let external = &bundle.manifest().graphs["decoder"].external;
    assert_eq!(external["decoder.onnx.data"], bundle.dir().join("decoder.onnx.data"));
    for location in ["text/other.data", "none", "../x", "/etc/passwd", "./decoder.onnx.data", ""] {
        let refused = with(location).unwrap_err();
        assert!(matches!(&refused, BundleError::Unlisted { graph, .. } if graph == "decoder"), "{refused}");
    }
}

#[test]
fn a_file_that_is_no_graph_is_named() {
    let text = error_after(|dir, raw| {
        fs::write(dir.path().join("refiner.onnx"), "no protobuf").unwrap();
        raw.graphs.get_mut("refiner").unwrap().sha256 = digest(b"no protobuf");
    });
    assert_mentions(&text, &["graph `refiner`", "not an ONNX model"]);
}

#[test]
fn a_change_after_the_hash_is_noticed_and_a_look_alike_is_not() {
    let (dir, raw) = valid();
    let path = dir.path().join("text/tokenizer.json");
    let bundle = open(&dir, &raw).unwrap();
    // Its times change, and nothing else.
    fs::write(&path, "{}").unwrap();
    fs::hard_link(&path, dir.path().join("another name")).unwrap();
    bundle.check_unchanged().unwrap();
    // Another file takes its name: whoever has the first one open still has it.
    fs::write(dir.path().join("new"), "[]").unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    bundle.hashed_files().check_contents().unwrap();
    assert!(matches!(bundle.check_unchanged(), Err(BundleError::Replaced { .. })));

    for change in ["[]", "", "{} "] {
        let (dir, raw) = valid();
        let bundle = open(&dir, &raw).unwrap();
        let path = dir.path().join("text/tokenizer.json");
        let modified = path.metadata().unwrap().modified().unwrap();
        fs::write(&path, change).unwrap();
        // As `cp --preserve` would have it.
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let noticed = bundle.hashed_files().check_contents();
        assert!(matches!(noticed, Err(BundleError::Hash { .. })), "{change:?}");
    }
}
