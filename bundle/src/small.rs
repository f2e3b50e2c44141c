//! Small files of strangers, for whoever reads one whole: checkpoints' configurations, lists of token ids.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;

/// What stands in a clone in place of a large file, while Git LFS has not brought it
/// (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What to do about a file of which only Git LFS's pointer is there.
pub const LFS_ADVICE: &str = "this is Git LFS's pointer to the file, and not the file: run `git lfs pull` in the clone, or fetch the \
                              checkpoint by its name (`arrcoc-export pull`)";

/// Whether these bytes, or a file that begins with them, are such a pointer.
pub fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER) || (bytes.len() >= 8 && LFS_POINTER.starts_with(bytes))
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// The file cannot be read, is longer, or is no regular file: a pipe or a device may never end.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    // Asked before it is opened: opening a pipe waits for its other end.
    if !path.metadata()?.is_file() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "expected a file, found a pipe, device or directory",
        ));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let expected = format!("expected at most {limit} bytes, found more");
        return Err(Error::new(ErrorKind::FileTooLarge, expected));
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pointers_of_git_lfs_are_known_by_their_first_bytes() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        assert!(is_lfs_pointer(pointer) && is_lfs_pointer(&pointer[..8]));
        assert!(!is_lfs_pointer(b"{\"version\": 1}") && !is_lfs_pointer(b"ver") && !is_lfs_pointer(b""));
    }

    #[test]
    fn what_never_ends_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read(&path, 100).unwrap(), [7; 100]);
        assert_eq!(read(&path, 99).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read(dir.path(), 100).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(read(&dir.path().join("none"), 100).unwrap_err().kind(), ErrorKind::NotFound);
        #[cfg(unix)]
        for endless in ["/dev/zero", "/dev/stdin"] {
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(endless, &link).unwrap();
            if !link.metadata().is_ok_and(|metadata| metadata.is_file()) {
                assert!(read(&link, 100).is_err(), "{endless}");
            }
            std::fs::remove_file(&link).unwrap();
        }
    }
}
