//! What memory there is, whether an engine fits, and giving memory back.

use std::fmt;
use std::path::Path;

use arrcoc_runtime::model::{MemoryNeed, Mib};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

mod cgroup;
mod limits;
#[cfg(test)]
mod tests;

/// The place of a [`Shortage`] on a GPU.
pub(crate) const GPU: &str = "the GPU's memory";

/// What something lets this process take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// What sets the limit, for messages.
    pub place: String,
    /// Bytes that are left.
    pub free: u64,
    /// What counts towards it.
    pub counts: Counts,
}

/// What counts towards a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Memory that was touched.
    Memory,
    /// Address space, whether it was touched or not.
    AddressSpace,
}

impl Allowance {
    fn memory(place: String, free: u64) -> Self {
        Self { place, free, counts: Counts::Memory }
    }
}

/// An engine needs more than there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Whose memory it is.
    pub place: String,
    /// By purpose.
    pub need: MemoryNeed,
    /// What counts of it, bytes.
    pub needed: u64,
    /// What there is, bytes.
    pub free: u64,
    /// What engines that are kept for later hold there, bytes.
    pub kept: u64,
}

impl std::error::Error for Shortage {}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, need, needed, free, kept: _ } = self;
        let (needed, free) = (Mib(*needed), Mib(*free));
        write!(
            f,
            "the engine needs {needed} of {place} ({need}), and {free} are free there; {}",
            advice(need)
        )
    }
}

/// What makes the largest parts of a need smaller.
fn advice(need: &MemoryNeed) -> String {
    let mut parts = [
        (need.kv_cache, "lower engine.slots or engine.context_length for the KV cache"),
        (need.weights.saturating_add(need.copies), "take a bundle of int8 or int4 for the weights"),
        (need.caches, "lower engine.feature_cache and engine.token_cache for the caches"),
        (need.pictures, "lower limits.image_pixels for the pictures"),
        (
            need.activations,
            "lower engine.context_length, engine.prefill_chunk, engine.slots, or engine.image_size where a model has several, for the activations",
        ),
    ];
    parts.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let largest = parts.iter().filter(|(bytes, _)| *bytes > need.total() / 10);
    let largest: Vec<&str> = largest.map(|(_, advice)| *advice).collect();
    format!("{}; or give it more memory", largest.join(", "))
}

/// Everything that limits this process's memory: the system, its control groups, its own limits.
pub fn allowances() -> Vec<Allowance> {
    allowances_below(Path::new("/"))
}

fn allowances_below(root: &Path) -> Vec<Allowance> {
    let system =
        Allowance::memory("the system's memory".into(), limits::available(root).unwrap_or_else(available));
    [system].into_iter().chain(cgroup::allowance(root)).chain(limits::allowances(root)).collect()
}

/// Where there is no `/proc`.
fn available() -> u64 {
    let memory = MemoryRefreshKind::nothing().with_ram();
    System::new_with_specifics(RefreshKind::nothing().with_memory(memory)).available_memory()
}

/// Memory that this process holds, bytes, where the system tells.
pub fn resident() -> Option<u64> {
    limits::held_bytes(Path::new("/"), "VmRSS")
}

/// Most memory that this process held so far, bytes, where the system tells.
pub fn peak() -> Option<u64> {
    limits::held_bytes(Path::new("/"), "VmHWM")
}

/// Whether an engine fits into what is left, of which `promised` bytes belong to other engines and to
/// requests' bodies that have not touched them yet. `gpu` is what is free on the GPU, where engines run on
/// one: weights pass through the system's memory on their way there.
///
/// # Errors
/// [`Shortage`]: the first limit that it exceeds.
pub fn check(
    need: &MemoryNeed,
    gpu: Option<u64>,
    promised: u64,
    allowances: &[Allowance],
) -> Result<(), Shortage> {
    let here = match gpu {
        Some(_) => need.beside_gpu(),
        None => *need,
    };
    for allowance in allowances {
        let (promised, needed) = match allowance.counts {
            Counts::Memory => (promised, here.total()),
            // CUDA reserves far more of it than it uses.
            Counts::AddressSpace if gpu.is_some() => continue,
            Counts::AddressSpace => (0, here.address_space()),
        };
        let free = allowance.free.saturating_sub(promised);
        if needed > free {
            return Err(Shortage { place: allowance.place.clone(), need: here, needed, free, kept: 0 });
        }
    }
    match gpu {
        Some(free) if need.engine() > free => {
            let need = MemoryNeed { states: 0, caches: 0, pictures: 0, ..*need };
            Err(Shortage { place: GPU.into(), need, needed: need.engine(), free, kept: 0 })
        }
        _ => Ok(()),
    }
}

/// What a library's threads and a process itself take of the data segment besides what is counted, bytes.
const TRIAL_BASE: u64 = 1 << 30;
/// The stack of a library's thread, bytes.
const STACK_BYTES: u64 = 8 << 20;

/// Most data that an engine may allocate in its trial: what there is, and what is reserved and never touched.
pub(crate) fn trial_limit(need: &MemoryNeed) -> u64 {
    let memory = allowances().into_iter().filter(|allowance| allowance.counts == Counts::Memory);
    let free = memory.map(|allowance| allowance.free).min().unwrap_or(u64::MAX);
    free.saturating_add(TRIAL_BASE).saturating_add(need.threads.saturating_mul(STACK_BYTES))
}

/// Makes this process the one that suffers when an engine is tried out in it: it may allocate `data` bytes at
/// most, it is the first to be ended when memory runs out, it leaves no core file, and it ends with the
/// process that started it.
///
/// # Errors
/// The system refuses.
pub fn confine(data: Option<u64>) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // Where there is no such file, the system chooses as it would have.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        let parent = std::os::unix::process::parent_id();
        // SAFETY: `prctl` with these arguments takes no pointer.
        let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if done != 0 {
            return Err(std::io::Error::last_os_error());
        }
        if std::os::unix::process::parent_id() != parent {
            return Err(std::io::Error::other("the server that asked has ended"));
        }
    }
    limit(libc::RLIMIT_CORE, 0)?;
    match data {
        Some(bytes) => limit(libc::RLIMIT_DATA, bytes),
        None => Ok(()),
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type Resource = libc::c_int;

/// Lowers a limit of this process; one that is lower stays.
fn limit(resource: Resource, bytes: u64) -> std::io::Result<()> {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live value of the type that the call fills.
    if unsafe { libc::getrlimit(resource, &raw mut limits) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    limits.rlim_cur = limits.rlim_cur.min(bytes as libc::rlim_t);
    // SAFETY: as above; the call only reads it.
    match unsafe { libc::setrlimit(resource, &raw const limits) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// From this many bytes on an allocation is a mapping of its own, which goes back to the system as soon as it
/// is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING_BYTES: libc::c_int = 1 << 20;

/// Has the C library give every large allocation a mapping of its own, for as long as the process lives. By
/// itself glibc raises that limit, up to 32 MiB, with every mapping that is freed: the weights of the engines
/// after the first then lie between small things that outlive them, and twenty swaps of a small model under
/// load left 190 MiB behind where now they leave none. To be called before there are threads.
pub fn keep_large_allocations_apart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes no pointer and locks what it writes. Should it refuse, memory is given back
    // later than it could be.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
    }
}

/// Gives the system back what the C library keeps of memory that was freed. glibc keeps it per thread that
/// allocated it, and an engine's threads are gone with it: without this, thirty swaps of a small model held
/// 600 MiB more than none.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes no pointer, locks each arena while it looks at it, and touches free memory
    // only.
    unsafe {
        libc::malloc_trim(0);
    }
}
