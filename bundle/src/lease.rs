//! Leases on the files of a bundle in service: the system holds off a writer until the process has seen that
//! one waits.
//!
//! Inference libraries map weights into memory. A write to such a file changes answers at once, and a file
//! that becomes shorter ends the process (SIGBUS). With a lease (Linux, `fcntl(2)`, `F_SETLEASE`) the
//! writer's `open` waits instead, for as long as `/proc/sys/fs/lease-break-time` says (45 seconds). In this
//! time the model that reads the file stops. Other systems, network file systems and files of another user
//! have no leases. There a change is noticed afterwards.

use std::fs::File;

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    /// Chooses the signal that tells of a waiting writer (`fcntl(2)`; the crate `libc` does not name it).
    const F_SETSIG: libc::c_int = 10;

    pub(super) fn take(file: &File) -> bool {
        // SAFETY: all three calls take numbers, of a descriptor that is open. The signal in place of SIGIO,
        // which would end the process, is one that does nothing unless it is asked for.
        unsafe {
            let fd = file.as_raw_fd();
            libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
                && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
        }
    }

    pub(super) fn is_wanted(file: &File) -> bool {
        // SAFETY: the call takes numbers, of a descriptor that is open.
        let kind = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
        // While a writer waits, the kind is the one that would let the writer go on.
        kind == libc::F_UNLCK
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    pub(super) fn take(_: &super::File) -> bool {
        false
    }

    pub(super) fn is_wanted(_: &super::File) -> bool {
        false
    }
}

/// Takes a lease, until the file is closed. Whether there is one.
pub(super) fn take(file: &File) -> bool {
    linux::take(file)
}

/// Whether somebody waits to write to a file with a lease.
pub(super) fn is_wanted(file: &File) -> bool {
    linux::is_wanted(file)
}
