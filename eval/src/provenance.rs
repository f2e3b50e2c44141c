//! Where figures were taken: without it they mean nothing.

use serde::{Deserialize, Serialize};

/// Machine and program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Circumstances {
    /// Model name of the processor.
    pub cpu: String,
    /// Its instruction sets that engines make use of.
    pub cpu_features: Vec<String>,
    /// Processors that this program may use.
    pub cores: usize,
    /// Arguments of the program.
    pub command: Vec<String>,
    /// Most memory that was resident at once, bytes, where the system tells.
    pub peak_bytes: Option<u64>,
}

impl Circumstances {
    /// Of this process, now.
    pub fn now() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = field(&cpuinfo, "flags");
        let known = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"];
        let has = |name: &&str| flags.split(' ').any(|flag| flag == *name);
        Self {
            cpu: field(&cpuinfo, "model name").to_owned(),
            cpu_features: known.into_iter().filter(has).map(str::to_owned).collect(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            command: std::env::args().skip(1).collect(),
            peak_bytes: peak_bytes(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()),
        }
    }
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("", |(_, value)| value.trim())
}

/// `VmHWM` of `/proc/self/status`, there in kibibytes.
fn peak_bytes(status: &str) -> Option<u64> {
    let kibibytes: u64 = field(status, "VmHWM").strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_kernels_words() {
        assert_eq!(peak_bytes("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n"), Some(2048 * 1024));
        assert_eq!(peak_bytes("Name:\tx\n"), None);
        assert_eq!(field("model name\t: Some CPU\nflags\t\t: a b", "flags"), "a b");
    }
}
