//! Directories that appear at their destination complete, or not at all.
//!
//! Files are written into a hidden sibling of the destination, which is exchanged with it in one step at the
//! end. A process killed before that leaves only the sibling, which the next one removes; a process killed
//! after it has finished in all but cleaning up. The sibling is locked while in use, so two writers cannot
//! mix their files. What stands at the destination is replaced where it is what the same command writes, and
//! otherwise left alone ([`Owned`]).

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::progress::human_bytes;

mod owned;

pub use owned::{INIT_MARK, Owned};

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
    /// Something stands there that is not ours to replace.
    #[error(
        "{} is not replaced: expected {expected}, found {found}; move it away or choose another destination",
        path.display()
    )]
    Foreign {
        /// What stands there.
        path: PathBuf,
        /// What would be replaced.
        expected: &'static str,
        /// What it is instead.
        found: String,
    },
    /// Another process is at it.
    #[error("{} is being written by another process; wait for it to end", path.display())]
    Busy {
        /// The destination.
        path: PathBuf,
    },
    /// The file system has not enough room.
    #[error("not enough space for {}: {} are needed, {} are free", path.display(), human_bytes(*needed), human_bytes(*available))]
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
    owned: Owned,
    /// Parents that were made for it, the innermost first: they go with it, unless something else has been
    /// put there.
    made: Vec<PathBuf>,
    committed: bool,
    _lock: File,
}

impl Staging {
    /// Starts an empty directory that will become `destination`, and removes what a killed predecessor left.
    /// What stands at the destination must be `owned`, or nothing.
    ///
    /// # Errors
    /// [`StagingError`], when `needed` bytes do not fit the file system, too. Nothing is left behind then.
    pub fn begin(destination: &Path, needed: u64, owned: Owned) -> Result<Self, StagingError> {
        let (parent, temporary) = places(destination)?;
        owned.check(destination)?;
        let existing = existing_ancestor(parent);
        check_space(existing, destination, needed)?;
        let made: Vec<PathBuf> =
            parent.ancestors().take_while(|dir| *dir != existing).map(Path::to_owned).collect();
        let io = |source| StagingError::Io { path: temporary.clone(), source };
        let opened = fs::create_dir_all(parent).and_then(|()| make_directory(&temporary));
        let lock = match opened.map_err(io).and_then(|()| open_directory(&temporary)) {
            Ok(lock) => lock,
            Err(error) => {
                remove_empty(&made);
                return Err(error);
            }
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StagingError::Busy { path: destination.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let destination = destination.to_owned();
        let staging =
            Self { temporary: temporary.clone(), destination, owned, made, committed: false, _lock: lock };
        empty(&temporary).map_err(io)?;
        finish_exchange(&temporary, &staging.destination, owned)?;
        Ok(staging)
    }

    /// Removes what a killed predecessor left of a destination that needs no writing; what a living one
    /// writes stays.
    ///
    /// # Errors
    /// [`StagingError::Io`] or [`StagingError::Foreign`].
    pub fn sweep(destination: &Path, owned: Owned) -> Result<(), StagingError> {
        let (_, temporary) = places(destination)?;
        if temporary.symlink_metadata().is_err() {
            return finish_exchange(&temporary, destination, owned);
        }
        let lock = open_directory(&temporary)?;
        if lock.try_lock().is_err() {
            return Ok(());
        }
        finish_exchange(&temporary, destination, owned)?;
        fs::remove_dir_all(&temporary).map_err(|source| StagingError::Io { path: temporary, source })
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
    /// [`StagingError`]; the destination is then what it was before.
    pub fn commit(mut self) -> Result<(), StagingError> {
        let io = |source| StagingError::Io { path: self.destination.clone(), source };
        // The directory's entries first, then the entry that makes them visible.
        sync_dir(&self.temporary).map_err(io)?;
        // Asked again: writing took time.
        self.owned.check(&self.destination)?;
        self.committed = true;
        let io = |source| StagingError::Io { path: self.destination.clone(), source };
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
        if !self.committed {
            remove_empty(&self.made);
        }
    }
}

/// Where a destination lies, and where it is written until it is complete.
fn places(destination: &Path) -> Result<(&Path, PathBuf), StagingError> {
    let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else {
        return Err(StagingError::Destination { path: destination.to_owned() });
    };
    Ok((parent, parent.join(format!(".{}.partial", name.to_string_lossy()))))
}

/// The innermost directory above a destination that is there already. The parent of a bare name is the empty
/// path, which is always there.
pub(crate) fn existing_ancestor(parent: &Path) -> &Path {
    parent.ancestors().find(|dir| dir.as_os_str().is_empty() || dir.exists()).unwrap_or(parent)
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Opens a directory that is to be emptied: no link to one, for what it leads to is somebody else's.
fn open_directory(path: &Path) -> Result<File, StagingError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(directory) => Ok(directory.into()),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(StagingError::Foreign {
            path: path.to_owned(),
            expected: "a directory that a killed run has left",
            found: "a symbolic link or a file".to_owned(),
        }),
        Err(errno) => Err(StagingError::Io { path: path.to_owned(), source: errno.into() }),
    }
}

/// Removes directories that are empty, the innermost first.
fn remove_empty(directories: &[PathBuf]) {
    // The first that is not empty, or somebody else's to remove, keeps those around it.
    let _ = directories.iter().try_for_each(fs::remove_dir);
}

/// Where [`exchange_in_steps`] keeps what stood at the destination.
fn aside(temporary: &Path) -> PathBuf {
    temporary.with_extension("old")
}

/// Ends what a killed [`exchange_in_steps`] began: what stood at the destination goes back there, or away
/// where its successor has arrived. What has the same name but is not ours stays.
fn finish_exchange(temporary: &Path, destination: &Path, owned: Owned) -> Result<(), StagingError> {
    let aside = aside(temporary);
    if aside.symlink_metadata().is_err() || owned.check(&aside).is_err() {
        return Ok(());
    }
    if destination.symlink_metadata().is_ok() {
        // Only room is lost where that fails.
        let _ = fs::remove_dir_all(&aside);
        return Ok(());
    }
    fs::rename(&aside, destination)
        .map_err(|source| StagingError::Io { path: destination.to_owned(), source })
}

/// Swaps two directories in one step, or in three where the file system knows no such step.
fn exchange(temporary: &Path, destination: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, temporary, CWD, destination, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => exchange_in_steps(temporary, destination),
        Err(errno) => Err(errno.into()),
    }
}

/// Puts `temporary` in the place of `destination`. Killed between the steps, [`finish_exchange`] has the rest
/// to do.
fn exchange_in_steps(temporary: &Path, destination: &Path) -> io::Result<()> {
    let aside = aside(temporary);
    // Fails where something lies there: what was ours is gone since the beginning.
    fs::rename(destination, &aside)?;
    if let Err(error) = fs::rename(temporary, destination) {
        fs::rename(&aside, destination)?;
        return Err(error);
    }
    // Done. What cannot be removed now, the next writer removes.
    let _ = fs::remove_dir_all(&aside);
    Ok(())
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

pub(crate) fn check_space(dir: &Path, destination: &Path, needed: u64) -> Result<(), StagingError> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let stat = rustix::fs::statvfs(dir)
        .map_err(|errno| StagingError::Io { path: dir.to_owned(), source: errno.into() })?;
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed > available {
        return Err(StagingError::NoSpace { path: destination.to_owned(), needed, available });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
