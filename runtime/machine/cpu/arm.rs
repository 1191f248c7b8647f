//! aarch64: features from HWCAP, the maker and the core's name from `/proc/cpuinfo`.

use super::{Caches, Identity};

/// Which word of the auxiliary vector holds a feature's bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Hwcap,
    Hwcap2,
}

/// Bits as in Linux's `arch/arm64/include/uapi/asm/hwcap.h`. The kernel sets one only where it has the
/// registers switched on. `fp16` is half-precision in scalar (bit 9) and vector (bit 10) instructions.
const FEATURES: &[(&str, Word, u64)] = &[
    ("neon", Word::Hwcap, 1 << 1),
    ("fp16", Word::Hwcap, 1 << 9 | 1 << 10),
    ("dotprod", Word::Hwcap, 1 << 20),
    ("i8mm", Word::Hwcap2, 1 << 13),
    ("bf16", Word::Hwcap2, 1 << 14),
    ("sve", Word::Hwcap, 1 << 22),
    ("sve2", Word::Hwcap2, 1 << 1),
];

/// Implementer and part number of the main identification register, as `/proc/cpuinfo` prints them.
const CORES: &[(u32, u32, &str)] = &[
    (0x41, 0xd03, "cortex-a53"),
    (0x41, 0xd05, "cortex-a55"),
    (0x41, 0xd07, "cortex-a57"),
    (0x41, 0xd08, "cortex-a72"),
    (0x41, 0xd09, "cortex-a73"),
    (0x41, 0xd0a, "cortex-a75"),
    (0x41, 0xd0b, "cortex-a76"),
    (0x41, 0xd0c, "neoverse-n1"),
    (0x41, 0xd0d, "cortex-a77"),
    (0x41, 0xd40, "neoverse-v1"),
    (0x41, 0xd41, "cortex-a78"),
    (0x41, 0xd49, "neoverse-n2"),
    (0x41, 0xd4f, "neoverse-v2"),
    (0xc0, 0xac3, "ampere1"),
    (0xc0, 0xac4, "ampere1a"),
];

const IMPLEMENTERS: &[(u32, &str)] = &[
    (0x41, "ARM"),
    (0x46, "Fujitsu"),
    (0x48, "HiSilicon"),
    (0x4e, "NVIDIA"),
    (0x51, "Qualcomm"),
    (0x61, "Apple"),
    (0x6d, "Microsoft"),
    (0xc0, "Ampere"),
];

/// Asks the kernel.
#[cfg(target_arch = "aarch64")]
pub fn identify() -> Identity {
    #![allow(unsafe_code)] // getauxval is a C function
    // SAFETY: getauxval reads a table that the kernel gave the process; it takes no pointer and cannot fail.
    let (hwcap, hwcap2) = unsafe { (libc::getauxval(libc::AT_HWCAP), libc::getauxval(libc::AT_HWCAP2)) };
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    parse(hwcap, hwcap2, &cpuinfo)
}

fn parse(hwcap: u64, hwcap2: u64, cpuinfo: &str) -> Identity {
    let implementer = field(cpuinfo, "CPU implementer");
    let core = implementer.zip(field(cpuinfo, "CPU part"));
    Identity {
        vendor: implementer
            .and_then(|id| IMPLEMENTERS.iter().find(|row| row.0 == id))
            .map(|row| row.1.to_owned()),
        model_name: None,
        microarchitecture: core
            .and_then(|(id, part)| CORES.iter().find(|row| (row.0, row.1) == (id, part)))
            .map(|row| row.2),
        features: features(hwcap, hwcap2),
        caches: Caches::default(), // no instruction tells; sysfs does
    }
}

fn features(hwcap: u64, hwcap2: u64) -> Vec<&'static str> {
    let word = |word| if word == Word::Hwcap { hwcap } else { hwcap2 };
    FEATURES
        .iter()
        .filter(|(_, w, bits)| word(*w) & bits == *bits)
        .map(|row| row.0)
        .collect()
}

/// The value that every processor gives for `key`; `None` where two kinds of cores differ.
fn field(cpuinfo: &str, key: &str) -> Option<u32> {
    let mut values = cpuinfo.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| u32::from_str_radix(value.trim().trim_start_matches("0x"), 16).ok())
    });
    let first = values.next()??;
    values.all(|value| value == Some(first)).then_some(first)
}

#[cfg(test)]
pub fn names() -> Vec<&'static str> {
    FEATURES.iter().map(|row| row.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neoverse_n1() {
        // AWS Graviton2, which lists fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid
        // asimdrdm lrcpc dcpop asimddp ssbs.
        let info = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\n\
                    CPU part\t: 0xd0c\n\nprocessor\t: 1\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        let id = parse(0x1011_9fff, 0, info);
        assert_eq!(id.vendor.as_deref(), Some("ARM"));
        assert_eq!(id.microarchitecture, Some("neoverse-n1"));
        assert_eq!(id.features, ["neon", "fp16", "dotprod"]);
    }

    #[test]
    fn every_bit_set_is_every_feature_and_none_is_none() {
        assert_eq!(features(!0, !0).len(), FEATURES.len());
        assert!(features(0, 0).is_empty());
        assert_eq!(features(1 << 9 | 1 << 1, 0), ["neon"], "half precision needs both bits");
    }

    #[test]
    fn two_kinds_of_cores_have_no_one_name() {
        let info = "CPU implementer : 0x41\nCPU part : 0xd0b\nCPU implementer : 0x41\nCPU part : 0xd05\n";
        let id = parse(2, 0, info);
        assert_eq!((id.vendor.as_deref(), id.microarchitecture), (Some("ARM"), None));
    }

    #[test]
    fn cpuinfo_of_another_architecture_names_nothing() {
        let id = parse(2, 0, "vendor_id : AuthenticAMD\nmodel name : AMD EPYC\n");
        assert_eq!((id.vendor, id.microarchitecture), (None, None));
    }
}
