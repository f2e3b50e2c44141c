//! What memory there is, and giving it back.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Bytes that this process may still take: what the system calls available, or what its control group leaves where that is less.
pub fn free() -> u64 {
    let system = System::new_with_specifics(
        RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()),
    );
    let group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(group)
}

/// Gives the system back what the C library keeps of memory that was freed. glibc keeps it per thread that allocated it, and an engine's
/// threads are gone with it: without this, thirty swaps of a small model held 600 MiB more than none.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes no pointer, locks each arena while it looks at it, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
