//! What this process's own control groups leave it, on version 1, version 2 and both together.
//!
//! A group's limit holds for everything below it, so the groups from the process's own one up to the mount
//! are asked, and the least counts. Files that were read once and could be dropped (`inactive_file`) are
//! charged to a group, too, and do not stop it from growing.

use std::fs;
use std::path::{Path, PathBuf};

use super::Allowance;

/// From here on version 1 means "no limit": the largest multiple of a page in 63 bits, and whatever is near
/// it.
const NO_LIMIT: u64 = 1 << 62;

/// A hierarchy of groups with a memory controller, as it is mounted.
struct Hierarchy {
    version: Version,
    /// Where it is mounted.
    mount: PathBuf,
    /// The group that lies there.
    root: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Names of a version's files.
struct Files {
    limit: &'static str,
    usage: &'static str,
    reclaimable: &'static str,
}

impl Version {
    fn files(self) -> Files {
        match self {
            Self::One => Files {
                limit: "memory.limit_in_bytes",
                usage: "memory.usage_in_bytes",
                reclaimable: "total_inactive_file",
            },
            Self::Two => Files { limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file" },
        }
    }
}

/// What the tightest group leaves; `None` where no group sets a limit. `root` is `/`, and another directory
/// in tests.
pub(super) fn allowance(root: &Path) -> Option<Allowance> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let left = mounts.lines().filter_map(hierarchy).filter_map(|hierarchy| {
        let own = own_group(&groups, hierarchy.version)?;
        tightest(root, &hierarchy, Path::new(own))
    });
    left.min_by_key(|allowance| allowance.free)
}

/// Reads a line of `mountinfo`: numbers, root, mount point, options, optional fields, `-`, type, source,
/// options of the file system.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, system) = line.split_once(" - ")?;
    let mut system = system.split(' ');
    let version = match (system.next()?, system.nth(1)) {
        ("cgroup", Some(options)) if options.split(',').any(|option| option == "memory") => Version::One,
        ("cgroup2", _) => Version::Two,
        _ => return None,
    };
    let mut fields = mount.split(' ').skip(3);
    let (root, mount) = (unescaped(fields.next()?), unescaped(fields.next()?));
    Some(Hierarchy { version, mount: mount.into(), root: root.into() })
}

/// Blanks, line ends and backslashes are written as a backslash and three octal digits.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// The process's group in a hierarchy, from a line `number:controllers:path`; version 2 names no controllers.
fn own_group(groups: &str, version: Version) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match version {
            Version::One => controllers.split(',').any(|controller| controller == "memory"),
            Version::Two => controllers.is_empty(),
        };
        found.then_some(path)
    })
}

/// What the tightest group leaves from the process's own one up to the mount. A group that is not visible
/// here, as in a container without a name space of its own for groups, is looked for at the mount itself.
fn tightest(root: &Path, hierarchy: &Hierarchy, own: &Path) -> Option<Allowance> {
    let outside = own.components().any(|part| part.as_os_str() == "..");
    let below = own.strip_prefix(&hierarchy.root).ok().filter(|_| !outside);
    let mount = root.join(hierarchy.mount.strip_prefix("/").unwrap_or(&hierarchy.mount));
    let group = mount.join(below.unwrap_or(Path::new("")));
    let groups = group.ancestors().take_while(|group| group.starts_with(&mount));
    groups.filter_map(|group| left_in(root, group, hierarchy.version)).min_by_key(|allowance| allowance.free)
}

fn left_in(root: &Path, group: &Path, version: Version) -> Option<Allowance> {
    let Files { limit: limit_file, usage, reclaimable } = version.files();
    let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let statistics = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let limit = number(limit_file);
    // Version 1 tells of limits above that cannot be seen from here.
    let above = statistic(&statistics, "hierarchical_memory_limit");
    let limit = limit.into_iter().chain(above).min().filter(|&limit| limit < NO_LIMIT)?;
    let used = number(usage).unwrap_or(0);
    let reclaimable = statistic(&statistics, reclaimable).unwrap_or(0);
    let shown = Path::new("/").join(group.strip_prefix(root).unwrap_or(group));
    let place =
        format!("the control group {} (limit {})", shown.display(), arrcoc_runtime::model::Mib(limit));
    Some(Allowance::memory(place, limit.saturating_sub(used.saturating_sub(reclaimable))))
}

fn statistic(statistics: &str, name: &str) -> Option<u64> {
    statistics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
