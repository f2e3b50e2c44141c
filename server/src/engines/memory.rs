//! What memory there is.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Bytes that this process may still take: what the system calls available, or what its control group leaves where that is less.
pub fn free() -> u64 {
    let system = System::new_with_specifics(
        RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()),
    );
    let group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(group)
}
