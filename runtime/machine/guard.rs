//! The CPU guard: refuses to start on a CPU that lacks what the image was compiled for, and says which tag
//! to use instead. Without it the first wide instruction would end the process by SIGILL.
//!
//! Everything here is compiled for the architecture's baseline and takes its facts as arguments, so every
//! wrong CPU can be tested on any CPU.

use std::fmt;

use super::cpu::{Cache, Machine};

/// A tag that images are published under: name, architecture (as in a Rust target triple), features.
pub type Tag<'a> = (&'a str, &'a str, &'a [&'a str]);

/// The steps by which people name what a CPU can do, from narrow to wide; for messages only.
const LEVELS: &[&str] = &[
    "sse2",
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "avx",
    "avx2",
    "avxvnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512vnni",
    "avx512vbmi",
    "amx-int8",
    "neon",
    "dotprod",
    "i8mm",
    "sve",
    "sve2",
];

/// The image needs features that the CPU has not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct WrongCpu {
    /// What the image needs and the CPU lacks, in the image's order; never empty.
    pub missing: Vec<String>,
    /// The CPU by name, as far as it tells one.
    pub cpu: Option<String>,
    /// The widest level that the CPU has.
    pub has: Option<&'static str>,
    /// The tag that makes the most of this CPU.
    pub tag: Option<String>,
}

impl fmt::Display for WrongCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this image needs {}; this CPU", self.missing.join(", "))?;
        if let Some(cpu) = &self.cpu {
            write!(f, " ({cpu})")?;
        }
        match self.has {
            Some(level) => write!(f, " has {level}; ")?,
            None => write!(f, " has none of the known features; ")?,
        }
        match &self.tag {
            Some(tag) => write!(f, "use the tag {tag}"),
            None => write!(
                f,
                "no published tag runs on it: build one with `cargo xtask build-image --target native`"
            ),
        }
    }
}

/// Compares what the image `required` with what the machine has; `tags` are those to recommend from.
pub fn check(required: &[&str], machine: &Machine, tags: &[Tag<'_>]) -> Result<(), WrongCpu> {
    let missing: Vec<String> = required
        .iter()
        .filter(|f| !machine.has(f))
        .map(|f| (*f).to_owned())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(WrongCpu {
        missing,
        cpu: machine
            .model_name
            .clone()
            .or_else(|| machine.microarchitecture.map(str::to_owned)),
        has: LEVELS.iter().rev().find(|level| machine.has(level)).copied(),
        tag: best_tag(machine, tags).map(str::to_owned),
    })
}

/// Of the tags that run on the machine, the one of the widest level, then with the most features, then the first.
pub fn best_tag<'a>(machine: &Machine, tags: &[Tag<'a>]) -> Option<&'a str> {
    let runs = |tag: &&Tag<'a>| tag.1 == machine.arch && tag.2.iter().all(|f| machine.has(f));
    let level = |feature: &&str| LEVELS.iter().position(|level| level == feature);
    let rank = |tag: &Tag<'a>| (tag.2.iter().filter_map(level).max(), tag.2.len());
    let best = tags.iter().filter(runs).map(rank).max()?;
    tags.iter().filter(runs).find(|tag| rank(tag) == best).map(|tag| tag.0)
}

/// A sentence for every cache that is smaller than what the image's kernels were planned for. The image runs
/// all the same, only slower than it could; a larger cache, or one of unknown size, is nothing to report.
pub fn cache_warnings(planned_l1d: Option<u64>, planned_l2: Option<u64>, machine: &Machine) -> Vec<String> {
    let one = |name: &str, planned: Option<u64>, cache: Option<Cache>| {
        let (planned, real) = (planned?, cache?.bytes);
        (real < planned).then(|| {
            format!(
                "kernels were planned for {name} of {} KiB and this CPU has {} KiB: it works, but \
                 `cargo xtask build-image --target native` would fit better",
                planned >> 10,
                real >> 10
            )
        })
    };
    let l1d = one("a first-level data cache", planned_l1d, machine.l1d);
    let l2 = one("a second-level cache", planned_l2, machine.l2);
    l1d.into_iter().chain(l2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &[&str] = &["sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"];
    const AVX2: &[&str] = &[
        "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "f16c", "fma", "bmi1", "bmi2", "avx2",
    ];
    const VNNI: &[&str] = &[
        "sse2",
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "avx",
        "f16c",
        "fma",
        "bmi1",
        "bmi2",
        "avx2",
        "avx512f",
        "avx512cd",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512vnni",
    ];
    const TAGS: &[Tag<'_>] = &[
        ("avx2", "x86_64", AVX2),
        ("avx512vnni", "x86_64", VNNI),
        ("dotprod", "aarch64", &["neon", "dotprod"]),
        ("universal", "x86_64", &["sse2"]),
        ("baseline", "x86_64", &["sse2"]),
    ];

    fn machine(arch: &'static str, features: &[&'static str]) -> Machine {
        Machine {
            arch,
            vendor: None,
            model_name: None,
            microarchitecture: None,
            features: features.to_vec(),
            line_bytes: None,
            l1d: None,
            l2: None,
            l3: None,
            physical_cores: None,
            logical_cores: None,
        }
    }

    fn refusal(required: &[&str], machine: &Machine) -> String {
        check(required, machine, TAGS).unwrap_err().to_string()
    }

    #[test]
    fn the_same_or_a_wider_cpu_passes() {
        assert_eq!(check(AVX2, &machine("x86_64", AVX2), TAGS), Ok(()));
        assert_eq!(check(AVX2, &machine("x86_64", VNNI), TAGS), Ok(()));
        assert_eq!(check(&[], &machine("x86_64", &[]), TAGS), Ok(()));
    }

    #[test]
    fn an_avx512_image_on_haswell() {
        let mut haswell = machine("x86_64", AVX2);
        haswell.model_name = Some("Intel Core Processor (Haswell)".to_owned());
        assert_eq!(
            refusal(VNNI, &haswell),
            "this image needs avx512f, avx512cd, avx512bw, avx512dq, avx512vl, avx512vnni; this CPU (Intel Core \
             Processor (Haswell)) has avx2; use the tag avx2"
        );
    }

    #[test]
    fn an_avx2_image_on_nehalem() {
        let message = refusal(AVX2, &machine("x86_64", V2));
        assert!(message.starts_with("this image needs avx, f16c, fma, bmi1, bmi2, avx2; this CPU has sse4.2; "));
        assert!(message.ends_with("use the tag universal"), "{message}");
    }

    #[test]
    fn one_missing_feature_is_named_alone() {
        let without_vnni: Vec<&str> = VNNI.iter().copied().filter(|f| *f != "avx512vnni").collect();
        let skylake = machine("x86_64", &without_vnni);
        assert_eq!(
            refusal(VNNI, &skylake),
            "this image needs avx512vnni; this CPU has avx512vl; use the tag avx2"
        );
    }

    #[test]
    fn only_tags_of_the_same_architecture_are_recommended() {
        let a72 = machine("aarch64", &["neon"]);
        let message = refusal(&["neon", "dotprod"], &a72);
        assert!(
            message.contains("has neon; no published tag runs on it: build one"),
            "{message}"
        );
        let a76 = machine("aarch64", &["neon", "dotprod"]);
        assert!(refusal(&["neon", "i8mm"], &a76).ends_with("use the tag dotprod"));
        // A level may be stated by its last step alone: as many features, but a wider one.
        let short: &[Tag<'_>] = &[("any", "aarch64", &["neon"]), ("dot", "aarch64", &["dotprod"])];
        assert_eq!(best_tag(&a76, short), Some("dot"));
    }

    #[test]
    fn a_cpu_without_a_single_known_feature() {
        let message = refusal(&["sse2"], &machine("x86_64", &[]));
        assert!(
            message.contains("this CPU has none of the known features; no published tag"),
            "{message}"
        );
    }

    #[test]
    fn only_a_smaller_cache_warns() {
        let mut cpu = machine("x86_64", AVX2);
        cpu.l1d = Some(Cache {
            bytes: 32 << 10,
            sharers: None,
        });
        assert!(
            cache_warnings(Some(32 << 10), Some(1 << 20), &cpu).is_empty(),
            "unknown is no mismatch"
        );
        assert!(
            cache_warnings(Some(16 << 10), None, &cpu).is_empty(),
            "larger is no mismatch"
        );
        let warnings = cache_warnings(Some(48 << 10), None, &cpu);
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("48 KiB and this CPU has 32 KiB"),
            "{}",
            warnings[0]
        );
    }
}
