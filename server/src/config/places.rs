//! What a directory is, where it is not what a setting wants: people give the one beside the right one.

use arrcoc_bundle::names::checkpoint::CONFIG;
use std::path::Path;

use arrcoc_bundle::MANIFEST;

/// What is expected in the place of `dir` as `bundle`, and what to do with what it is; `None` where it is a
/// bundle.
pub(super) fn not_a_bundle(dir: &Path) -> Option<String> {
    if is_bundle(dir) {
        return None;
    }
    let expected = format!("a directory with a {MANIFEST}, as `arrcoc-export build` writes it");
    Some(match hint(dir) {
        None if holds_bundles(dir) => {
            format!("{expected}; this one holds bundles: give it as `engines` (--engines DIR)")
        }
        None => expected,
        Some(hint) => format!("{expected}; {hint}"),
    })
}

/// The same for `engines`.
pub(super) fn not_engines(dir: &Path) -> Option<String> {
    if dir.is_dir() && holds_bundles(dir) {
        return None;
    }
    let expected =
        "a directory of bundles of one model, as `arrcoc-export build --out` makes it below its own";
    if is_bundle(dir) {
        return Some(format!("{expected}; this one is a bundle: give it as `bundle` (--bundle DIR)"));
    }
    match hint(dir) {
        Some(hint) => Some(format!("{expected}; {hint}")),
        // Bundles may still come, or be unreadable: listing them says more.
        None if dir.is_dir() => None,
        None => Some(expected.into()),
    }
}

/// Whether a directory is a bundle, and not one of several.
pub(super) fn is_bundle(dir: &Path) -> bool {
    dir.join(MANIFEST).is_file()
}

fn holds_bundles(dir: &Path) -> bool {
    below(dir).any(|path| is_bundle(&path))
}

fn below(dir: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// What else a directory may be.
fn hint(dir: &Path) -> Option<String> {
    if !dir.exists() {
        return Some("there is nothing at this place".into());
    }
    if dir.join(CONFIG).is_file() {
        return Some(
            "this one is a checkpoint: `arrcoc-export build CHECKPOINT --out engines` makes a bundle of it"
                .into(),
        );
    }
    let gguf = |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if gguf(dir) || below(dir).any(|path| gguf(&path)) {
        return Some("GGUF files are llama.cpp's, and not served here".into());
    }
    let model = below(dir).find(|path| holds_bundles(path))?;
    Some(format!("this one holds models: give one of them, such as {}", model.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_beside_the_right_one_is_recognised() {
        let root = tempfile::tempdir().unwrap();
        let dir = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let bundle = dir("engines/tiny/fp32-cpu");
        std::fs::write(bundle.join(MANIFEST), "").unwrap();
        let (model, all) = (bundle.parent().unwrap(), root.path().join("engines"));
        assert_eq!((not_a_bundle(&bundle), not_engines(model)), (None, None));
        assert!(not_a_bundle(model).unwrap().contains("--engines"));
        assert!(not_engines(&bundle).unwrap().contains("--bundle"));
        for found in [not_a_bundle(&all).unwrap(), not_engines(&all).unwrap()] {
            assert!(found.contains("engines/tiny"), "{found}");
        }
        let checkpoint = dir("checkpoint");
        std::fs::write(checkpoint.join("config.json"), "{}").unwrap();
        assert!(not_a_bundle(&checkpoint).unwrap().contains("arrcoc-export build"));
        let gguf = dir("gguf");
        std::fs::write(gguf.join("model.Q4_K_M.gguf"), "").unwrap();
        assert!(
            not_engines(&gguf).unwrap().contains("GGUF") && not_a_bundle(&gguf).unwrap().contains("GGUF")
        );
        for path in [root.path().join("none"), dir("empty")] {
            assert!(not_a_bundle(&path).unwrap().contains(MANIFEST));
        }
        assert!(not_engines(&root.path().join("none")).is_some());
    }
}
