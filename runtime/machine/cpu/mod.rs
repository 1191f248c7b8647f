//! What machine this is: ISA features, caches, cores and names, each known or absent, never guessed.
//!
//! Features come from the CPU itself (CPUID and XGETBV; HWCAP on Arm) in code that is compiled for the
//! architecture's baseline. The standard library's `is_x86_feature_detected!` cannot be used: it folds to
//! `true` in any build that enables the feature, and the guard would then die of the instruction it guards.
//!
//! The module stands alone (std, raw-cpuid, libc): the runtime's guard uses it, and so does
//! `cargo xtask detect`, which includes these files because it must not link the runtime. It works as PID 1
//! in an empty container: without `/sys` and `/proc` the facts they hold are unknown.

#[cfg(any(target_arch = "aarch64", test))]
mod arm;
mod sysfs;
#[cfg(target_arch = "x86_64")]
mod x86;

/// A machine as it describes itself. `None` is "unknown".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// As in a Rust target triple: `x86_64`, `aarch64`.
    pub arch: &'static str,
    /// As the CPU names its maker: `AuthenticAMD`, `GenuineIntel`, `ARM`.
    pub vendor: Option<String>,
    /// As the maker names the product: `AMD EPYC 7763 64-Core Processor`.
    pub model_name: Option<String>,
    /// `zen3`, `haswell`, `neoverse-n1`; absent for a model that no table here names for certain.
    pub microarchitecture: Option<&'static str>,
    /// Features that both the CPU has and the operating system has switched on, from narrow to wide, spelled
    /// as Rust's `target_feature`. Only those that some kernel can use.
    pub features: Vec<&'static str>,
    /// Cache line size in bytes.
    pub line_bytes: Option<u32>,
    /// First-level data cache.
    pub l1d: Option<Cache>,
    /// Second-level cache.
    pub l2: Option<Cache>,
    /// Third-level cache.
    pub l3: Option<Cache>,
    /// Cores of the machine that are online, whatever a container may use of them.
    pub physical_cores: Option<u32>,
    /// Logical processors (hardware threads) that are online.
    pub logical_cores: Option<u32>,
}

/// One cache as the first CPU sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Size of one instance in bytes.
    pub bytes: u64,
    /// Logical processors that share one instance.
    pub sharers: Option<u32>,
}

/// The cache hierarchy as one source tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Caches {
    line_bytes: Option<u32>,
    l1d: Option<Cache>,
    l2: Option<Cache>,
    l3: Option<Cache>,
}

/// What only the architecture knows how to ask; the rest is in sysfs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Identity {
    vendor: Option<String>,
    model_name: Option<String>,
    microarchitecture: Option<&'static str>,
    features: Vec<&'static str>,
    caches: Caches,
}

impl Machine {
    /// This machine.
    pub fn detect() -> Machine {
        #[cfg(target_arch = "x86_64")]
        let identity = x86::identify();
        #[cfg(target_arch = "aarch64")]
        let identity = arm::identify();
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let identity = Identity::default();
        Machine::new(identity, &sysfs::read)
    }

    /// `file` gives the text of a file under `/sys/devices/system/cpu`, or `None`.
    fn new(identity: Identity, file: &dyn Fn(&str) -> Option<String>) -> Machine {
        let caches = identity.caches.refined_by(sysfs::caches(file));
        let cores = sysfs::cores(file);
        Machine {
            arch: std::env::consts::ARCH,
            vendor: identity.vendor,
            model_name: identity.model_name,
            microarchitecture: identity.microarchitecture,
            features: identity.features,
            line_bytes: caches.line_bytes,
            l1d: caches.l1d,
            l2: caches.l2,
            l3: caches.l3,
            physical_cores: cores.physical,
            logical_cores: cores.logical,
        }
    }

    /// Whether the machine has the feature of that name.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }
}

impl Caches {
    /// The CPU's own word stands for sizes. For sharers it is only an upper bound (CPUID counts identifiers,
    /// which come in powers of two), so the operating system's count replaces it.
    fn refined_by(self, os: Caches) -> Caches {
        let one = |cpu: Option<Cache>, os: Option<Cache>| match (cpu, os) {
            (Some(cpu), Some(os)) => Some(Cache {
                bytes: cpu.bytes,
                sharers: os.sharers.or(cpu.sharers),
            }),
            (cpu, os) => cpu.or(os),
        };
        Caches {
            line_bytes: self.line_bytes.or(os.line_bytes),
            l1d: one(self.l1d, os.l1d),
            l2: one(self.l2, os.l2),
            l3: one(self.l3, os.l3),
        }
    }
}

/// Every feature that detection can name, for the test that holds these names against the generator's.
#[cfg(test)]
pub fn known_features() -> Vec<&'static str> {
    let names = arm::names().into_iter();
    #[cfg(target_arch = "x86_64")]
    let names = names.chain(x86::names());
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn cache(bytes: u64, sharers: Option<u32>) -> Option<Cache> {
        Some(Cache { bytes, sharers })
    }

    #[test]
    fn sizes_are_the_cpus_and_sharers_the_operating_systems() {
        let cpu = Caches {
            line_bytes: Some(64),
            l1d: cache(32 << 10, Some(2)),
            l2: None,
            l3: cache(8 << 20, Some(16)),
        };
        let os = Caches {
            line_bytes: Some(128),
            l1d: cache(48 << 10, None),
            l2: cache(1 << 20, Some(1)),
            l3: cache(1, Some(12)),
        };
        let both = cpu.refined_by(os);
        assert_eq!(both.line_bytes, Some(64));
        assert_eq!(both.l1d, cache(32 << 10, Some(2)));
        assert_eq!(both.l2, cache(1 << 20, Some(1)));
        assert_eq!(both.l3, cache(8 << 20, Some(12)));
    }

    #[test]
    fn without_sysfs_the_cpu_is_known_and_the_cores_are_not() {
        let identity = Identity {
            features: vec!["sse2"],
            ..Identity::default()
        };
        let machine = Machine::new(identity, &|_| None);
        assert!(machine.has("sse2") && !machine.has("sse"));
        assert_eq!(
            (machine.physical_cores, machine.logical_cores, machine.l2),
            (None, None, None)
        );
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn this_machine_has_its_architectures_baseline() {
        let baseline = if cfg!(target_arch = "x86_64") { "sse2" } else { "neon" };
        assert!(Machine::detect().has(baseline));
    }
}
