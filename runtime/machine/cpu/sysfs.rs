//! Cores and caches as Linux tells them under `/sys/devices/system/cpu`.

use std::collections::BTreeSet;

use super::{Cache, Caches};

/// Core counts; `None` is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cores {
    /// Online cores.
    pub physical: Option<u32>,
    /// Online logical processors.
    pub logical: Option<u32>,
}

/// The text of `/sys/devices/system/cpu/{path}`.
pub fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(format!("/sys/devices/system/cpu/{path}")).ok()
}

/// Counts online processors, and the cores they are threads of.
pub fn cores(file: &dyn Fn(&str) -> Option<String>) -> Cores {
    let Some(online) = file("online").and_then(|text| parse_list(&text)) else {
        return Cores::default();
    };
    // Threads of one core name the same set of siblings. `core_cpus_list` is the newer name of the file.
    let siblings = |cpu: &u32| {
        let text = file(&format!("cpu{cpu}/topology/core_cpus_list"))
            .or_else(|| file(&format!("cpu{cpu}/topology/thread_siblings_list")))?;
        parse_list(&text)
    };
    let cores: Option<BTreeSet<Vec<u32>>> = online.iter().map(siblings).collect();
    Cores {
        physical: cores.map(|set| set.len() as u32),
        logical: Some(online.len() as u32),
    }
}

/// The caches of the first processor. On a machine with two kinds of cores that is one kind's.
pub fn caches(file: &dyn Fn(&str) -> Option<String>) -> Caches {
    let mut caches = Caches::default();
    for index in 0.. {
        let item = |name: &str| file(&format!("cpu0/cache/index{index}/{name}")).map(|text| text.trim().to_owned());
        let Some(level) = item("level") else { break };
        let data = item("type").is_some_and(|kind| kind == "Data" || kind == "Unified");
        let slot = match level.as_str() {
            "1" if data => &mut caches.l1d,
            "2" if data => &mut caches.l2,
            "3" if data => &mut caches.l3,
            _ => continue,
        };
        if let Some(bytes) = item("size").and_then(|text| parse_size(&text)) {
            let sharers = item("shared_cpu_list")
                .and_then(|text| parse_list(&text))
                .map(|list| list.len() as u32);
            *slot = Some(Cache { bytes, sharers });
        }
        if caches.line_bytes.is_none() {
            let line = item("coherency_line_size").and_then(|text| text.parse().ok());
            caches.line_bytes = line.filter(|bytes| *bytes > 0);
        }
    }
    caches
}

/// A size as sysfs writes it, `512K`, in bytes.
fn parse_size(text: &str) -> Option<u64> {
    let kib: u64 = text.strip_suffix('K')?.parse().ok()?;
    kib.checked_mul(1024).filter(|bytes| *bytes > 0)
}

/// A processor list as sysfs writes it, `0-3,8`.
fn parse_list(text: &str) -> Option<Vec<u32>> {
    /// More than any Linux is configured for; keeps a nonsensical range from filling the memory.
    const MAX_CPU: u32 = 1 << 16;
    let mut list = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last > MAX_CPU {
            return None;
        }
        list.extend(first..=last);
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files<'a>(table: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |path| {
            table
                .iter()
                .find(|(name, _)| *name == path)
                .map(|(_, text)| format!("{text}\n"))
        }
    }

    #[test]
    fn two_cores_of_two_threads() {
        let file = files(&[
            ("online", "0-3"),
            ("cpu0/topology/core_cpus_list", "0,2"),
            ("cpu1/topology/core_cpus_list", "1,3"),
            ("cpu2/topology/core_cpus_list", "0,2"),
            ("cpu3/topology/thread_siblings_list", "1,3"),
        ]);
        assert_eq!(
            cores(&file),
            Cores {
                physical: Some(2),
                logical: Some(4)
            }
        );
    }

    #[test]
    fn a_missing_file_is_unknown_and_not_one_core() {
        assert_eq!(cores(&files(&[])), Cores::default());
        let file = files(&[("online", "0-1"), ("cpu0/topology/core_cpus_list", "0")]);
        assert_eq!(
            cores(&file),
            Cores {
                physical: None,
                logical: Some(2)
            }
        );
    }

    #[test]
    fn caches_of_a_recorded_machine() {
        let file = files(&[
            ("cpu0/cache/index0/level", "1"),
            ("cpu0/cache/index0/type", "Data"),
            ("cpu0/cache/index0/size", "64K"),
            ("cpu0/cache/index0/shared_cpu_list", "0"),
            ("cpu0/cache/index0/coherency_line_size", "64"),
            ("cpu0/cache/index1/level", "1"),
            ("cpu0/cache/index1/type", "Instruction"),
            ("cpu0/cache/index1/size", "48K"),
            ("cpu0/cache/index2/level", "2"),
            ("cpu0/cache/index2/type", "Unified"),
            ("cpu0/cache/index2/size", "1024K"),
            ("cpu0/cache/index3/level", "3"),
            ("cpu0/cache/index3/type", "Unified"),
            ("cpu0/cache/index3/size", "32768K"),
            ("cpu0/cache/index3/shared_cpu_list", "0-15,32-47"),
        ]);
        let caches = caches(&file);
        assert_eq!(caches.line_bytes, Some(64));
        assert_eq!(
            caches.l1d,
            Some(Cache {
                bytes: 64 << 10,
                sharers: Some(1)
            })
        );
        assert_eq!(
            caches.l2,
            Some(Cache {
                bytes: 1 << 20,
                sharers: None
            })
        );
        assert_eq!(
            caches.l3,
            Some(Cache {
                bytes: 32 << 20,
                sharers: Some(32)
            })
        );
    }

    #[test]
    fn nonsense_is_unknown() {
        for text in ["", "a", "3-1", "0-4294967295", "0,,1", "-1"] {
            assert_eq!(parse_list(text), None, "{text:?}");
        }
        for text in ["", "K", "0K", "32", "32M", "18446744073709551615K"] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }
}
