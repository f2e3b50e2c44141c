//! Finding ONNX Runtime's dynamic library.
//!
//! It is looked for where `ORT_DYLIB_PATH` says (and then nowhere else), in `target/onnxruntime/`, where
//! `cargo xtask` puts it, and beside the executable, in `onnxruntime/` or loose.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The environment variable that names the library.
pub(super) const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The first library found, or where it was looked for.
pub(super) fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("{VARIABLE} names `{}`, which is not a file", path.display()))
        };
    }
    let places = places(&std::env::current_exe().unwrap_or_default());
    places.iter().find_map(|place| library_in(place)).ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|place| format!("`{}`", place.display())).collect();
        format!("expected its library in {}, found none", places.join(" or "))
    })
}

/// Directories that may hold the library for this executable, best first.
fn places(executable: &Path) -> Vec<PathBuf> {
    // Binaries and tests that Cargo built lie below `target`.
    let target = executable.ancestors().find(|path| path.file_name() == Some(OsStr::new("target")));
    let mut places: Vec<_> = target.map(|target| target.join("onnxruntime")).into_iter().collect();
    let working = Path::new("target").join("onnxruntime");
    if let Ok(working) = std::path::absolute(working)
        && !places.contains(&working)
    {
        places.push(working);
    }
    if let Some(beside) = executable.parent() {
        places.extend([beside.join("onnxruntime"), beside.to_path_buf()]);
    }
    places
}

/// The library in a directory; with several versions, the last by name.
fn library_in(dir: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    names.filter(|path| path.is_file() && path.file_name().is_some_and(is_library)).max()
}

fn is_library(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    if cfg!(windows) {
        name == "onnxruntime.dll"
    } else if cfg!(target_os = "macos") {
        name.starts_with("libonnxruntime.") && name.ends_with(".dylib")
    } else {
        name.starts_with("libonnxruntime.so")
    }
}

/// The version in the library's file name (`libonnxruntime.so.1.31.1`), or else what the library says of its
/// build.
pub(super) fn version(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let number = name.trim_end_matches(".dylib").trim_start_matches(|c: char| !c.is_ascii_digit());
    if number.is_empty() { ::ort::info().to_owned() } else { number.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_the_file_name() {
        assert_eq!(version(Path::new("/x/libonnxruntime.so.1.31.1")), "1.31.1");
        assert_eq!(version(Path::new("/x/libonnxruntime.1.31.1.dylib")), "1.31.1");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_newest_library_is_taken_and_providers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(library_in(dir.path()), None);
        assert_eq!(library_in(&dir.path().join("none")), None);
        for name in [
            "libonnxruntime_providers_shared.so",
            "libonnxruntime.so.1.30.0",
            "libonnxruntime.so.1.31.1",
            "notes",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(library_in(dir.path()), Some(dir.path().join("libonnxruntime.so.1.31.1")));
    }

    #[test]
    fn cargo_builds_look_in_their_target_directory() {
        let places = places(Path::new("/x/target/debug/arrcoc-serve"));
        assert_eq!(places[0], Path::new("/x/target/onnxruntime"));
    }

    #[test]
    fn installed_programs_look_beside_themselves() {
        let places = places(Path::new("/opt/arrcoc/arrcoc-serve"));
        let beside = [Path::new("/opt/arrcoc/onnxruntime"), Path::new("/opt/arrcoc")];
        assert_eq!(places[places.len() - 2..], beside);
    }
}
