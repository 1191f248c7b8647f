//! The control groups around this process, and the tightest CPU and memory limit among them.

use std::path::{Path, PathBuf};

use super::Read;

/// Above this, version 1 means "no limit" (it prints the largest multiple of the page size).
const UNLIMITED_BYTES: u64 = 1 << 60;

/// Directories of the control groups of this process, by controller.
pub struct Groups {
    /// Version 2, the process's own group and its ancestors.
    unified: Vec<PathBuf>,
    /// Version 1, controller `cpu`.
    cpu: Vec<PathBuf>,
    /// Version 1, controller `memory`.
    memory: Vec<PathBuf>,
}

impl Groups {
    pub fn of_this_process(read: Read<'_>) -> Self {
        let mounts = parse_mountinfo(&read(Path::new("/proc/self/mountinfo")).unwrap_or_default());
        let memberships = parse_membership(&read(Path::new("/proc/self/cgroup")).unwrap_or_default());
        let dirs = |controller| -> Vec<PathBuf> {
            let path = memberships.iter().find(|m| m.has(controller)).map(|m| m.path.as_str());
            let of_mount = |mount: &Mount| group_dirs(mount, path.unwrap_or("/"));
            mounts.iter().filter(|m| m.has(controller)).flat_map(of_mount).collect()
        };
        Groups {
            unified: dirs(None),
            cpu: dirs(Some("cpu")),
            memory: dirs(Some("memory")),
        }
    }

    /// The tightest quota, in CPUs.
    pub fn cpu_quota(&self, read: Read<'_>) -> Option<f64> {
        let unified = self
            .unified
            .iter()
            .filter_map(|dir| parse_cpu_max(&read(&dir.join("cpu.max"))?));
        let legacy = self.cpu.iter().filter_map(|dir| {
            let number = |name| read(&dir.join(name))?.trim().parse::<f64>().ok();
            cpus(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
        });
        unified.chain(legacy).reduce(f64::min)
    }

    /// The tightest memory limit, in bytes.
    pub fn memory_bytes(&self, read: Read<'_>) -> Option<u64> {
        let bytes = |text: String| text.trim().parse::<u64>().ok();
        let unified = self
            .unified
            .iter()
            .filter_map(|dir| bytes(read(&dir.join("memory.max"))?));
        let legacy = self
            .memory
            .iter()
            .filter_map(|dir| bytes(read(&dir.join("memory.limit_in_bytes"))?));
        // Version 1 also states what its ancestors allow, which may lie outside what is mounted here.
        let inherited = self
            .memory
            .iter()
            .filter_map(|dir| parse_hierarchical_limit(&read(&dir.join("memory.stat"))?));
        unified
            .chain(legacy)
            .chain(inherited)
            .filter(|&bytes| bytes < UNLIMITED_BYTES)
            .min()
    }
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq)]
struct Mount {
    /// Version 1: the controllers; version 2: none.
    controllers: Option<Vec<String>>,
    /// The group that is mounted, as a path in its hierarchy.
    root: String,
    /// Where.
    point: PathBuf,
}

impl Mount {
    fn has(&self, controller: Option<&str>) -> bool {
        has(self.controllers.as_deref(), controller)
    }
}

/// One line of /proc/self/cgroup.
#[derive(Debug, PartialEq)]
struct Membership {
    /// Version 1: the controllers; version 2: none.
    controllers: Option<Vec<String>>,
    /// The process's group, as a path in its hierarchy.
    path: String,
}

impl Membership {
    fn has(&self, controller: Option<&str>) -> bool {
        has(self.controllers.as_deref(), controller)
    }
}

/// `None` asks for the version 2 hierarchy.
fn has(controllers: Option<&[String]>, wanted: Option<&str>) -> bool {
    match (controllers, wanted) {
        (Some(controllers), Some(wanted)) => controllers.iter().any(|name| name == wanted),
        (None, None) => true,
        _ => false,
    }
}

/// The directories under `mount` of group `path` and its ancestors, innermost first.
fn group_dirs(mount: &Mount, path: &str) -> Vec<PathBuf> {
    // A path outside the mounted root (a namespace's view of another group): all we can read is the root.
    let inside = Path::new(path)
        .strip_prefix(&mount.root)
        .ok()
        .filter(|inside| !inside.iter().any(|part| part == ".."))
        .unwrap_or(Path::new(""));
    inside.ancestors().map(|group| mount.point.join(group)).collect()
}

/// The cgroup mounts of /proc/self/mountinfo: `31 23 0:28 ROOT POINT options [tags] - TYPE source SUPER_OPTIONS`.
fn parse_mountinfo(text: &str) -> Vec<Mount> {
    let parse_line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mut right = right.split(' ');
        let kind = right.next()?;
        let controllers = || Some(right.nth(1)?.split(',').map(str::to_owned).collect());
        let controllers = match kind {
            "cgroup2" => None,
            "cgroup" => Some({ controllers }()?),
            _ => return None,
        };
        Some(Mount {
            controllers,
            root: unescape(left.next()?),
            point: unescape(left.next()?).into(),
        })
    };
    text.lines().filter_map(parse_line).collect()
}

/// Undoes the octal escapes of /proc: `\040` is a space.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                out.push(char::from(byte));
                out.push_str(&part[3..]);
            }
            _ => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

/// /proc/self/cgroup: lines `ID:CONTROLLERS:PATH`; version 2 is `0::PATH`.
fn parse_membership(text: &str) -> Vec<Membership> {
    let parse_line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let unified = id == "0" && controllers.is_empty();
        Some(Membership {
            controllers: (!unified).then(|| controllers.split(',').map(str::to_owned).collect()),
            path: path.to_owned(),
        })
    };
    text.lines().filter_map(parse_line).collect()
}

/// cpu.max: `QUOTA PERIOD` in microseconds, or `max PERIOD`.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    cpus(quota.parse().ok()?, period.parse().ok()?)
}

/// A quota of -1 is none.
fn cpus(quota_us: f64, period_us: f64) -> Option<f64> {
    (quota_us > 0.0 && period_us > 0.0).then(|| quota_us / period_us)
}

/// `hierarchical_memory_limit` of memory.stat.
fn parse_hierarchical_limit(text: &str) -> Option<u64> {
    let line = |line: &str| line.strip_prefix("hierarchical_memory_limit ")?.trim().parse().ok();
    text.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_mounts_of_a_hybrid_host() {
        let text = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
41 31 0:38 /a\\040b /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
broken line";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 2);
        assert!(mounts[0].has(Some("cpu")) && !mounts[0].has(Some("memory")) && !mounts[0].has(None));
        assert!(mounts[1].has(None) && !mounts[1].has(Some("cpu")));
        assert_eq!(mounts[1].root, "/a b");
    }

    #[test]
    fn walks_from_the_group_to_the_mounted_root() {
        let mount = |root: &str| Mount {
            controllers: None,
            root: root.into(),
            point: "/cg".into(),
        };
        let dirs = |root, path| group_dirs(&mount(root), path);
        assert_eq!(dirs("/", "/a/b"), ["/cg/a/b", "/cg/a", "/cg/"].map(PathBuf::from));
        assert_eq!(dirs("/a", "/a/b"), ["/cg/b", "/cg/"].map(PathBuf::from));
        assert_eq!(dirs("/docker/x", "/other"), ["/cg/"].map(PathBuf::from));
        assert_eq!(dirs("/", "/../../outside"), ["/cg/"].map(PathBuf::from));
    }

    #[test]
    fn reads_quotas() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        for none in ["max 100000", "-1 100000", "100000 0", "", "1", "a b"] {
            assert_eq!(parse_cpu_max(none), None, "{none}");
        }
    }
}
