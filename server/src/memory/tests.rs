#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use super::*;

const MIB: u64 = 1 << 20;
const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";
const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

/// A directory that looks like `/` to the code that reads limits.
struct Root(tempfile::TempDir);

impl Root {
    fn new(groups: &str, mounts: &str) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        let status =
            "Name:\tserver\nVmSize:\t  204800 kB\nVmData:\t 102400 kB\nVmHWM:\t 90 kB\nVmRSS:\t 80 kB\n";
        root.with("proc/self/cgroup", groups)
            .with("proc/self/mountinfo", mounts)
            .with("proc/self/status", status)
            .with("proc/meminfo", "MemTotal:       33554432 kB\nMemAvailable:   16777216 kB\n")
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A group of version 1 with a limit, usage and droppable files in MiB.
    fn v1(self, group: &str, [limit, usage, file]: [u64; 3]) -> Self {
        let dir = format!("sys/fs/cgroup/memory{group}");
        self.with(&format!("{dir}/memory.limit_in_bytes"), &format!("{}\n", limit * MIB))
            .with(&format!("{dir}/memory.usage_in_bytes"), &format!("{}\n", usage * MIB))
            .with(&format!("{dir}/memory.stat"), &format!("cache 1\ntotal_inactive_file {}\n", file * MIB))
    }

    fn v2(self, group: &str, limit: &str, [usage, file]: [u64; 2]) -> Self {
        let dir = format!("sys/fs/cgroup{group}");
        self.with(&format!("{dir}/memory.max"), &format!("{limit}\n"))
            .with(&format!("{dir}/memory.current"), &format!("{}\n", usage * MIB))
            .with(&format!("{dir}/memory.stat"), &format!("anon 5\ninactive_file {}\n", file * MIB))
    }

    /// What the groups leave, MiB.
    fn left(&self) -> Option<u64> {
        cgroup::allowance(self.0.path()).map(|allowance| allowance.free / MIB)
    }
}

#[test]
fn version_1_is_asked_for_the_processs_own_group_and_those_above_it() {
    let root = Root::new("9:name=systemd:/\n4:cpuset,memory:/box/own\n0::/\n", V1);
    let root = root.v1("/box/own", [800, 300, 100]).v1("", [1 << 43, 9000, 0]);
    assert_eq!(root.left(), Some(600));
    // Another process's group says nothing about this one.
    let root = root.v1("/box/other", [10, 9, 0]);
    assert_eq!(root.left(), Some(600));
    let root = root.v1("/box", [1000, 700, 50]);
    assert_eq!(root.left(), Some(350));
    let allowance = cgroup::allowance(root.0.path()).unwrap();
    assert_eq!(allowance.place, "the control group /sys/fs/cgroup/memory/box (limit 1000 MiB)");
}

/// Limits above what a container sees stand in its own statistics.
#[test]
fn version_1_tells_of_limits_out_of_sight() {
    let root = Root::new("4:memory:/\n", V1).v1("", [1 << 43, 100, 0]);
    assert_eq!(root.left(), None);
    let text = format!("hierarchical_memory_limit {}\ntotal_inactive_file {}\n", 512 * MIB, 10 * MIB);
    let root = root.with("sys/fs/cgroup/memory/memory.stat", &text);
    assert_eq!(root.left(), Some(422));
}

#[test]
fn version_2_is_asked_the_same_and_knows_a_word_for_no_limit() {
    let root = Root::new("0::/kubepods/pod1/ctr\n", V2);
    let root = root.v2("/kubepods/pod1/ctr", "max", [200, 50]).v2("/kubepods", "max", [9000, 0]);
    assert_eq!(root.left(), None);
    let root = root.v2("/kubepods/pod1", &(2048 * MIB).to_string(), [500, 100]);
    assert_eq!(root.left(), Some(1648));
    // More in use than allowed, as after a limit was lowered.
    let root = root.v2("/kubepods/pod1/ctr", &(100 * MIB).to_string(), [500, 100]);
    assert_eq!(root.left(), Some(0));
}

/// Version 2 mounted beside version 1, which has the memory controller.
#[test]
fn both_versions_at_once() {
    let mounts = format!("{V1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    let root = Root::new("4:memory:/own\n0::/own\n", &mounts).v1("/own", [800, 100, 0]);
    assert_eq!(root.left(), Some(700));
    let root = root.v2("/unified/own", &(300 * MIB).to_string(), [100, 0]);
    assert_eq!(root.left(), Some(200));
}

/// A container whose groups are mounted from its own on, and one that is told of a group outside of what it
/// sees.
#[test]
fn groups_seen_from_within_a_container() {
    let mounts = V1.replace("0:32 / ", "0:32 /docker/abc ");
    let root = Root::new("4:memory:/docker/abc\n", &mounts).v1("", [500, 100, 0]);
    assert_eq!(root.left(), Some(400));
    let root = Root::new("4:memory:/docker/abc/sub\n", &mounts).v1("", [500, 100, 0]).v1("/sub", [50, 1, 0]);
    assert_eq!(root.left(), Some(49));
    let root = Root::new("0::/../../elsewhere\n", V2).v2("", &(64 * MIB).to_string(), [4, 0]);
    assert_eq!(root.left(), Some(60));
}

#[test]
fn mount_points_may_have_blanks() {
    let mounts = V2.replace("/sys/fs/cgroup", "/sys/fs/c\\040group");
    let root = Root::new("0::/a\n", &mounts);
    let root = root.with("sys/fs/c group/a/memory.max", "1048576\n");
    assert_eq!(root.left(), Some(1));
}

#[test]
fn files_that_are_missing_or_nonsense_are_no_limit() {
    assert_eq!(cgroup::allowance(Path::new("/nonexistent")), None);
    for (groups, mounts) in
        [("", V2), ("0::/a\n", ""), ("garbage", "garbage - x"), ("4:memory:/a\n", V1), ("0::\n", V2)]
    {
        assert_eq!(Root::new(groups, mounts).left(), None, "{groups:?}");
    }
    let root = Root::new("0::/a\n", V2).v2("/a", "many", [1, 1]);
    assert_eq!(root.left(), None);
}

#[test]
fn limits_of_the_process_count_address_space() {
    let limits = |space: &str, data: &str| {
        let text = format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max data size             {data}            unlimited            bytes     \n\
             Max address space         {space}           unlimited            bytes     \n"
        );
        Root::new("", "").with("proc/self/limits", &text)
    };
    let root = limits("unlimited", "unlimited");
    assert_eq!(limits::allowances(root.0.path()), []);
    let root = limits("314572800", "209715200");
    let found = allowances_below(root.0.path());
    let found: Vec<_> = found.iter().map(|one| (one.place.as_str(), one.free / MIB, one.counts)).collect();
    let expected = [
        ("the system's memory", 16384, Counts::Memory),
        ("the process's limit `ulimit -v` (300 MiB)", 100, Counts::AddressSpace),
        ("the process's limit `ulimit -d` (200 MiB)", 100, Counts::AddressSpace),
    ];
    assert_eq!(found, expected);
}

fn need() -> MemoryNeed {
    let mib = |n: u64| n * MIB;
    MemoryNeed {
        weights: mib(600),
        copies: mib(150),
        kv_cache: mib(3584),
        states: 0,
        activations: mib(200),
        caches: mib(320),
        pictures: mib(400),
        threads: 14,
    }
}

#[test]
fn what_does_not_fit_is_told_in_numbers_with_what_to_lower() {
    let left = |free: u64| [Allowance::memory("the control group /box (limit 2048 MiB)".into(), free * MIB)];
    assert_eq!(check(&need(), None, 0, &left(5254)), Ok(()));
    let text = check(&need(), None, 0, &left(2000)).unwrap_err().to_string();
    let expected = "the engine needs 5254 MiB of the control group /box (limit 2048 MiB) (weights 600 MiB, copies of weights 150 MiB, \
                    KV cache 3584 MiB, activations 200 MiB, caches 320 MiB, pictures 400 MiB), and 2000 MiB are free there; lower \
                    engine.slots or engine.context_length for the KV cache, take a bundle of int8 or int4 for the weights; or give \
                    it more memory";
    assert_eq!(text, expected);
    // What another engine was promised is not free, though nothing of it was touched.
    let shortage = check(&need(), None, 100 * MIB, &left(5300)).unwrap_err();
    assert_eq!((shortage.needed, shortage.free), (5254 * MIB, 5200 * MIB));
}

#[test]
fn on_a_gpu_weights_only_pass_through() {
    let left = [Allowance::memory("the system's memory".into(), 1320 * MIB)];
    assert_eq!(check(&need(), Some(4534 * MIB), 0, &left), Ok(()));
    let shortage = check(&need(), Some(4533 * MIB), 0, &left).unwrap_err();
    assert_eq!((shortage.place.as_str(), shortage.needed), (GPU, 4534 * MIB));
    let left = [Allowance::memory("the system's memory".into(), 1319 * MIB)];
    assert_eq!(check(&need(), Some(u64::MAX), 0, &left).unwrap_err().needed, 1320 * MIB);
    // What recurrent layers remember stays in the system's memory.
    let need = MemoryNeed { states: MIB, ..need() };
    assert_eq!(check(&need, Some(4534 * MIB), 0, &left).unwrap_err().needed, 1321 * MIB);
}

/// Numbers of a hostile manifest stop at the largest there is.
#[test]
fn needs_beyond_all_numbers_do_not_wrap() {
    let all = u64::MAX;
    let need = MemoryNeed {
        weights: all,
        copies: all,
        kv_cache: all,
        states: all,
        activations: all,
        caches: all,
        pictures: all,
        threads: all,
    };
    assert_eq!((need.total(), need.address_space(), need.measured(all).working()), (all, all, all));
    let left = [Allowance::memory("the system's memory".into(), all - 1)];
    assert_eq!(check(&need, None, 0, &left).unwrap_err().needed, all);
}

/// The machine that this runs on has memory, and this process some of it.
#[test]
fn this_machine_is_read() {
    let found = allowances();
    assert!(found.iter().all(|allowance| allowance.free > 0), "{found:?}");
    let resident = resident().unwrap();
    assert!(resident > MIB && peak().unwrap() >= resident / 2);
}
