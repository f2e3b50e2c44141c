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

/// From this many bytes on an allocation is a mapping of its own, which goes back to the system as soon as it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING_BYTES: libc::c_int = 1 << 20;

/// Has the C library give every large allocation a mapping of its own, for as long as the process lives. By itself glibc raises that limit,
/// up to 32 MiB, with every mapping that is freed: the weights of the engines after the first then lie between small things that outlive
/// them, and twenty swaps of a small model under load left 190 MiB behind where now they leave none. To be called before there are threads.
pub fn keep_large_allocations_apart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes no pointer and locks what it writes. Should it refuse, memory is given back later than it could be.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
    }
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
