//! What this process may use of the machine: CPUs by affinity and cgroup quota, memory by cgroup limit.
//!
//! A container sees all of its host's cores and memory; the numbers that bind are the scheduler affinity and
//! the limits of its cgroup and of every group above it, in version 1, version 2 or both (hybrid hosts).
#![allow(unsafe_code)] // sched_getaffinity, sched_setaffinity, getrlimit

mod cgroup;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::str::FromStr;

/// Reads a file as text, or `None` where it is not there: replaced by recorded files in tests.
type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// What this process may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// CPUs the scheduler may put this process on.
    pub cpus: CpuSet,
    /// Cores behind those CPUs: SMT siblings count as one where the kernel shows them.
    pub cores: usize,
    /// CPU time a second of wall time, in CPUs: the tightest quota of the cgroups around us. `None` = unlimited.
    pub quota_cpus: Option<f64>,
    /// Bytes of memory: the tightest cgroup limit, or the machine's memory if that is less. `None` = unknown.
    pub memory_bytes: Option<u64>,
}

impl Limits {
    /// Reads the limits of this process.
    pub fn read() -> Self {
        Self::from_files(affinity().unwrap_or_default(), &|path| fs::read_to_string(path).ok())
    }

    fn from_files(cpus: CpuSet, read: Read<'_>) -> Self {
        let groups = cgroup::Groups::of_this_process(read);
        let machine_bytes = read(Path::new("/proc/meminfo")).and_then(|text| parse_mem_total(&text));
        Limits {
            cores: count_cores(&cpus, read),
            quota_cpus: groups.cpu_quota(read),
            memory_bytes: groups.memory_bytes(read).into_iter().chain(machine_bytes).min(),
            cpus,
        }
    }

    /// `--threads auto`: as many as can run at once, min(cores, quota), at least 1.
    ///
    /// Cores, not CPUs: two threads of a pass on one core compete for the same units and cache.
    pub fn threads(&self) -> usize {
        self.within_quota(self.cores)
    }

    /// `--threads asked`: so many, but no more than CPUs that can work at the same time.
    ///
    /// Without a CPU of its own a thread makes all others wait for its turn, at every join. Measured on 2 cores, generation with
    /// 8 threads ran at 0.70 of the speed of 2; on half a CPU, with 2 at 0.69 of the speed of 1. Outputs depend on none of it.
    pub fn threads_of(&self, asked: usize) -> usize {
        asked.min(self.within_quota(self.cpus.len())).max(1)
    }

    /// Half of a CPU or more is worth a thread: measured on 2 cores with a quota of 1.5, prefill with 2 threads ran at 1.45 times
    /// the speed of 1, and generation at the same.
    fn within_quota(&self, cpus: usize) -> usize {
        let quota = self.quota_cpus.map_or(usize::MAX, |quota| quota.round() as usize);
        cpus.min(quota).max(1)
    }
}

/// Lets the calling thread run only when no other thread wants its CPU (SCHED_IDLE). A system that refuses changes nothing
/// but the speed of others.
pub fn run_when_idle() {
    // SAFETY: all-zero is a valid sched_param; the call affects this thread's scheduling only.
    unsafe {
        let param: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &param);
    }
}

/// CPUs that can work at the same time: min(affinity, quota), at least 1.
pub fn usable_cpus() -> usize {
    let limits = Limits::read();
    limits.within_quota(limits.cpus.len())
}

/// The value of `--threads`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Threads {
    /// As [`Limits::threads`] says.
    #[default]
    Auto,
    /// So many, where there are CPUs for them.
    Count(NonZeroUsize),
}

impl Threads {
    /// The number of threads to start.
    pub fn resolve(self) -> usize {
        let limits = Limits::read();
        let Threads::Count(asked) = self else {
            return limits.threads();
        };
        let threads = limits.threads_of(asked.get());
        if threads < asked.get() {
            tracing::warn!(
                "{asked} threads asked for; running {threads}, for as many CPUs as affinity and cgroup grant"
            );
        }
        threads
    }
}

impl FromStr for Threads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MOST: usize = 1024;
        match text.trim() {
            "auto" | "" => Ok(Threads::Auto),
            number => match number.parse() {
                Ok(count @ 1..=MOST) => Ok(Threads::Count(NonZeroUsize::new(count).expect("at least 1"))),
                _ => Err(format!(
                    "threads must be `auto` or a number from 1 to {MOST}, not `{text}`"
                )),
            },
        }
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Threads::Auto => f.write_str("auto"),
            Threads::Count(count) => count.fmt(f),
        }
    }
}

/// A set of CPU numbers, written as `0-3,6`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuSet(BTreeSet<usize>);

impl CpuSet {
    /// CPUs in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without a CPU.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for CpuSet {
    type Err = AffinityError;

    fn from_str(text: &str) -> Result<Self, AffinityError> {
        let bad = || AffinityError::Syntax { text: text.to_owned() };
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| bad())?;
            let last: usize = last.trim().parse().map_err(|_| bad())?;
            if first > last || last >= MASK_CPUS {
                return Err(bad());
            }
            cpus.extend(first..=last);
        }
        Ok(CpuSet(cpus))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus: Vec<usize> = self.0.iter().copied().collect();
        for (i, run) in cpus.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match run {
                [one] => write!(f, "{comma}{one}")?,
                _ => write!(f, "{comma}{}-{}", run[0], run[run.len() - 1])?,
            }
        }
        Ok(())
    }
}

/// The value of `CPU_AFFINITY`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Affinity {
    /// Leave it to the scheduler.
    #[default]
    Auto,
    /// Run on these CPUs only.
    Only(CpuSet),
}

impl FromStr for Affinity {
    type Err = AffinityError;

    fn from_str(text: &str) -> Result<Self, AffinityError> {
        match text.trim() {
            "auto" | "" => Ok(Affinity::Auto),
            list => list.parse().map(Affinity::Only),
        }
    }
}

/// Why an affinity was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AffinityError {
    /// Not a list of CPUs.
    #[error("`{text}` is not a list of CPUs: write numbers and ranges such as 0-3,6, or `auto`")]
    Syntax {
        /// As given.
        text: String,
    },
    /// CPUs that this process may not use, or that do not exist.
    #[error("cannot run on CPUs {asked}: this process may use {allowed}")]
    NotAllowed {
        /// As asked.
        asked: CpuSet,
        /// What the system grants.
        allowed: CpuSet,
    },
    /// The system call failed.
    #[error("cannot set the CPU affinity: {0}")]
    System(#[from] io::Error),
}

impl Affinity {
    /// Confines the calling thread, and the threads that it will start, to these CPUs. Call it before there are others.
    pub fn apply(&self) -> Result<(), AffinityError> {
        let Affinity::Only(asked) = self else { return Ok(()) };
        let allowed = affinity()?;
        // The kernel would quietly drop the CPUs that it cannot grant.
        if asked.0.is_subset(&allowed.0) {
            set_affinity(asked)?;
            return Ok(());
        }
        let asked = asked.clone();
        Err(AffinityError::NotAllowed { asked, allowed })
    }
}

/// How large the main thread's stack may become (`ulimit -s`).
pub fn main_stack_bytes() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one such structure. Where it does not, nothing is what is granted.
    unsafe { libc::getrlimit(libc::RLIMIT_STACK, &mut limit) };
    limit.rlim_cur
}

/// CPUs in the affinity masks exchanged with the kernel: more than any kernel is built for (`CONFIG_NR_CPUS` <= 8192).
const MASK_CPUS: usize = 8192;
type Mask = [u64; MASK_CPUS / 64];

/// CPUs the calling thread may run on.
fn affinity() -> io::Result<CpuSet> {
    let mut mask: Mask = [0; MASK_CPUS / 64];
    // SAFETY: the kernel writes at most the given size into `mask`; glibc takes any size, not only that of `cpu_set_t`.
    let rc = unsafe { libc::sched_getaffinity(0, size_of::<Mask>(), mask.as_mut_ptr().cast()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    let set = |&cpu: &usize| mask[cpu / 64] >> (cpu % 64) & 1 == 1;
    Ok(CpuSet((0..MASK_CPUS).filter(set).collect()))
}

fn set_affinity(cpus: &CpuSet) -> io::Result<()> {
    let mut mask: Mask = [0; MASK_CPUS / 64];
    for cpu in &cpus.0 {
        mask[cpu / 64] |= 1 << (cpu % 64);
    }
    // SAFETY: the kernel reads at most the given size from `mask`.
    let rc = unsafe { libc::sched_setaffinity(0, size_of::<Mask>(), mask.as_ptr().cast()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Cores behind `cpus`; a CPU whose siblings are not shown counts as a core.
fn count_cores(cpus: &CpuSet, read: Read<'_>) -> usize {
    let core_of = |cpu: &usize| {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology/");
        ["core_cpus_list", "thread_siblings_list"]
            .iter()
            .find_map(|name| read(Path::new(&format!("{topology}{name}"))))
            .and_then(|list| list.parse::<CpuSet>().ok())
            .and_then(|siblings| siblings.0.first().copied())
            .unwrap_or(*cpu)
    };
    cpus.0.iter().map(core_of).collect::<BTreeSet<_>>().len()
}

/// Bytes of `MemTotal` in /proc/meminfo.
fn parse_mem_total(text: &str) -> Option<u64> {
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = kib.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests;
