//! Directories that appear at their destination complete, or not at all.
//!
//! Files are written into a hidden sibling of the destination, which is exchanged with it in one step at the end. A
//! process killed before that leaves only the sibling, which the next one removes; a process killed after it has
//! finished in all but cleaning up. The sibling is locked while in use, so two writers cannot mix their files.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

/// A directory cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagingError {
    /// The destination has no name, `/` or `..` for example.
    #[error("{} cannot be a destination: expected the path of a directory to create", path.display())]
    Destination {
        /// The destination.
        path: PathBuf,
    },
    /// Another process is at it.
    #[error("{} is being written by another process; wait for it to end", path.display())]
    Busy {
        /// The destination.
        path: PathBuf,
    },
    /// The file system has not enough room.
    #[error("not enough space for {}: {needed} bytes are needed, {available} are free", path.display())]
    NoSpace {
        /// The destination.
        path: PathBuf,
        /// Bytes to be written.
        needed: u64,
        /// Bytes free to this user.
        available: u64,
    },
    /// The file system refused.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A directory in the making; dropped before [`Staging::commit`], it is removed.
#[derive(Debug)]
pub struct Staging {
    temporary: PathBuf,
    destination: PathBuf,
    _lock: File,
}

impl Staging {
    /// Starts an empty directory that will become `destination`, and removes what a killed predecessor left.
    ///
    /// # Errors
    /// [`StagingError`], when `needed` bytes do not fit the file system, too.
    pub fn begin(destination: &Path, needed: u64) -> Result<Self, StagingError> {
        let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else {
            return Err(StagingError::Destination { path: destination.to_owned() });
        };
        let temporary = parent.join(format!(".{}.partial", name.to_string_lossy()));
        let io = |source| StagingError::Io { path: temporary.clone(), source };
        fs::create_dir_all(&temporary).map_err(io)?;
        let lock = File::open(&temporary).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StagingError::Busy { path: destination.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        empty(&temporary).map_err(io)?;
        check_space(&temporary, destination, needed)?;
        Ok(Self { temporary, destination: destination.to_owned(), _lock: lock })
    }

    /// The directory to write into.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Writes one small file and waits until it is on the disk.
    ///
    /// # Errors
    /// [`StagingError::Io`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StagingError> {
        let path = self.temporary.join(name);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|source| StagingError::Io { path, source })
    }

    /// Puts the directory in its place, atomically also where one stands there already.
    ///
    /// # Errors
    /// [`StagingError::Io`]; the destination is then what it was before.
    pub fn commit(self) -> Result<(), StagingError> {
        let io = |source| StagingError::Io { path: self.destination.clone(), source };
        // The directory's entries first, then the entry that makes them visible.
        sync_dir(&self.temporary).map_err(io)?;
        if self.destination.exists() {
            exchange(&self.temporary, &self.destination).map_err(io)?;
        } else {
            fs::rename(&self.temporary, &self.destination).map_err(io)?;
        }
        self.destination.parent().map_or(Ok(()), sync_dir).map_err(io)
        // What stood there before now has the temporary name, which `drop` removes.
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the next writer tries again.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// Swaps two directories in one step, or in three where the file system knows no such step.
fn exchange(temporary: &Path, destination: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, temporary, CWD, destination, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let aside = temporary.with_extension("old");
            let _ = fs::remove_dir_all(&aside);
            fs::rename(destination, &aside)?;
            if let Err(error) = fs::rename(temporary, destination) {
                fs::rename(&aside, destination)?;
                return Err(error);
            }
            fs::remove_dir_all(&aside)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?
        } else {
            fs::remove_file(entry.path())?
        }
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    // The parent of a bare name is the empty path.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

fn check_space(dir: &Path, destination: &Path, needed: u64) -> Result<(), StagingError> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|errno| StagingError::Io { path: dir.to_owned(), source: errno.into() })?;
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed > available {
        return Err(StagingError::NoSpace { path: destination.to_owned(), needed, available });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn replaces_whole_directories_and_cleans_up() {
        let root = tempfile::tempdir().unwrap();
        let destination = root.path().join("bundle");
        for generation in ["one", "two"] {
            fs::create_dir_all(root.path().join(".bundle.partial")).unwrap();
            fs::write(root.path().join(".bundle.partial/stale"), "left by a killed process").unwrap();
            let staging = Staging::begin(&destination, 1).unwrap();
            staging.write(generation, b"x").unwrap();
            staging.commit().unwrap();
            let names: Vec<_> = fs::read_dir(&destination).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, [generation]);
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn second_writer_is_refused_and_abandoned_work_vanishes() {
        let root = tempfile::tempdir().unwrap();
        let destination = root.path().join("bundle");
        let first = Staging::begin(&destination, 1).unwrap();
        assert!(matches!(Staging::begin(&destination, 1), Err(StagingError::Busy { .. })));
        drop(first);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(matches!(Staging::begin(&destination, u64::MAX), Err(StagingError::NoSpace { .. })));
    }
}
