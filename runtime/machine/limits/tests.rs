use std::collections::HashMap;

use super::*;

/// The limits that a process with these files and this affinity reads.
fn limits(affinity: &str, files: &[(&str, &str)]) -> Limits {
    let files: HashMap<&str, &str> = files.iter().copied().collect();
    let read = |path: &Path| Some(files.get(path.to_str()?)?.to_string());
    Limits::from_files(affinity.parse().unwrap(), &read)
}

const MIB: u64 = 1 << 20;
const MEMINFO: (&str, &str) = ("/proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");
const V2_MOUNT: (&str, &str) = (
    "/proc/self/mountinfo",
    "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - cgroup2 cgroup rw,nsdelegate\n",
);

#[test]
fn a_bare_machine_offers_everything() {
    let limits = limits("0-7", &[MEMINFO]);
    assert_eq!(limits.threads(), 8);
    assert_eq!(limits.quota_cpus, None);
    assert_eq!(limits.memory_bytes, Some(8192 * MIB));
}

#[test]
fn nothing_readable_still_gives_one_thread() {
    let limits = Limits::from_files(CpuSet::default(), &|_| None);
    assert_eq!((limits.threads(), limits.memory_bytes), (1, None));
}

#[test]
fn docker_on_a_v2_host() {
    let limits = limits(
        "0-7",
        &[
            MEMINFO,
            V2_MOUNT,
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/cpu.max", "250000 100000\n"),
            ("/sys/fs/cgroup/memory.max", "536870912\n"),
        ],
    );
    assert_eq!(limits.threads(), 3);
    assert_eq!(limits.quota_cpus, Some(2.5));
    assert_eq!(limits.memory_bytes, Some(512 * MIB));
}

#[test]
fn the_tightest_of_nested_v2_groups_binds() {
    let limits = limits(
        "0-7",
        &[
            MEMINFO,
            V2_MOUNT,
            ("/proc/self/cgroup", "0::/kubepods/pod1/main\n"),
            ("/sys/fs/cgroup/kubepods/pod1/main/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/kubepods/pod1/cpu.max", "300000 100000\n"),
            ("/sys/fs/cgroup/kubepods/cpu.max", "600000 100000\n"),
            ("/sys/fs/cgroup/kubepods/pod1/main/memory.max", "max\n"),
            ("/sys/fs/cgroup/kubepods/pod1/memory.max", "2147483648\n"),
            ("/sys/fs/cgroup/kubepods/memory.max", "1073741824\n"),
        ],
    );
    assert_eq!(limits.threads(), 3);
    assert_eq!(limits.memory_bytes, Some(1024 * MIB));
}

#[test]
fn a_container_on_a_hybrid_host_without_a_namespace() {
    // The container's group is the mounted root, while /proc/self/cgroup gives its path on the host.
    let limits = limits(
        "0-7",
        &[
            MEMINFO,
            (
                "/proc/self/mountinfo",
                "32 31 0:29 /docker/c1 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
                 35 31 0:32 /docker/c1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                 41 31 0:38 /docker/c1 /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw\n",
            ),
            (
                "/proc/self/cgroup",
                "4:memory:/docker/c1\n1:cpu,cpuacct:/docker/c1\n0::/docker/c1\n",
            ),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            (
                "/sys/fs/cgroup/memory/memory.stat",
                "cache 0\nhierarchical_memory_limit 268435456\n",
            ),
        ],
    );
    assert_eq!(limits.quota_cpus, Some(0.5));
    assert_eq!(limits.threads(), 1);
    assert_eq!(limits.memory_bytes, Some(256 * MIB));
}

#[test]
fn v1_without_limits_is_unlimited() {
    let limits = limits(
        "0-1",
        &[
            MEMINFO,
            (
                "/proc/self/mountinfo",
                "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                 35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            ),
            ("/proc/self/cgroup", "4:memory:/a\n1:cpu:/\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ],
    );
    assert_eq!((limits.threads(), limits.quota_cpus), (2, None));
    assert_eq!(limits.memory_bytes, Some(8192 * MIB));
}

#[test]
fn smt_siblings_count_as_one_core() {
    let siblings = |cpu: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list");
        (path, format!("{},{}\n", cpu % 2, cpu % 2 + 2))
    };
    let files: Vec<(String, String)> = (0..4).map(siblings).collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    assert_eq!(limits("0-3", &files).threads(), 2);
    assert_eq!(limits("0,2", &files).threads(), 1);
    assert_eq!(limits("0-1", &files).threads(), 2);
}

#[test]
fn no_thread_is_started_without_a_cpu() {
    let threads = |affinity: &str, max: &str, asked: &[usize]| -> Vec<usize> {
        let files = [
            MEMINFO,
            V2_MOUNT,
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/cpu.max", max),
        ];
        let limits = limits(affinity, &files);
        let asked = asked.iter().map(|&n| limits.threads_of(n));
        [limits.threads()].into_iter().chain(asked).collect()
    };
    // Automatic; and of 1, 2, 8 that were asked for.
    assert_eq!(threads("0-1", "max 100000", &[1, 2, 8]), [2, 1, 2, 2]);
    assert_eq!(threads("5", "max 100000", &[1, 2, 8]), [1, 1, 1, 1]);
    assert_eq!(threads("0-1", "50000 100000", &[1, 2, 8]), [1, 1, 1, 1]);
    assert_eq!(threads("0-1", "1000 100000", &[8]), [1, 1]);
    // The nearest: one more only for half of a CPU or more.
    assert_eq!(threads("0-3", "149000 100000", &[8]), [1, 1]);
    assert_eq!(threads("0-3", "150000 100000", &[8]), [2, 2]);
    assert_eq!(threads("0-1", "900000 100000", &[8]), [2, 2]);
    assert_eq!(threads("0-3", "max 100000", &[3]), [4, 3]);
}

#[test]
fn two_hardware_threads_of_a_core_are_used_only_when_asked_for() {
    let siblings = ("/sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0-1\n");
    let other = ("/sys/devices/system/cpu/cpu1/topology/core_cpus_list", "0-1\n");
    let limits = limits("0-1", &[siblings, other]);
    assert_eq!([limits.threads(), limits.threads_of(8)], [1, 2]);
}

#[test]
fn cpu_lists_are_read_and_written() {
    for text in ["0", "0-3,6", "1,3,5", "0-1,4-5"] {
        assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), text);
    }
    assert_eq!("2,1,0-1".parse::<CpuSet>().unwrap().to_string(), "0-2");
    for bad in ["", "a", "3-1", "1-", "-1", "0,,1", "0x3", "99999999", "0-8192"] {
        assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
    }
}

#[test]
fn threads_are_auto_or_a_number() {
    assert_eq!("auto".parse(), Ok(Threads::Auto));
    assert_eq!("1".parse::<Threads>().unwrap().resolve(), 1);
    let most = "1024".parse::<Threads>().unwrap();
    assert_eq!(most.resolve(), usable_cpus(), "no thread without a CPU");
    assert!("auto".parse::<Threads>().unwrap().resolve() >= 1);
    for bad in ["0", "-1", "many", "1.5", "100000"] {
        let message = bad.parse::<Threads>().unwrap_err();
        assert!(message.contains(bad), "{message}");
    }
}

#[test]
fn an_affinity_outside_of_what_is_allowed_is_refused() {
    let error = "8191".parse::<Affinity>().unwrap().apply().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot run on CPUs 8191: this process may use "),
        "{error}"
    );
    assert!("3-0".parse::<Affinity>().is_err());
}

#[test]
fn an_affinity_is_applied() {
    // In a thread of its own: the affinity of a thread ends with it.
    std::thread::spawn(|| {
        let first = affinity().unwrap().0.first().copied().unwrap();
        first.to_string().parse::<Affinity>().unwrap().apply().unwrap();
        assert_eq!(affinity().unwrap().to_string(), first.to_string());
        Affinity::Auto.apply().unwrap();
        assert_eq!(usable_cpus(), 1);
    })
    .join()
    .unwrap();
}
