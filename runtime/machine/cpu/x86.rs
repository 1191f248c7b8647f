//! x86-64: everything from CPUID, and from XCR0 which registers the operating system saves.
#![allow(unsafe_code)] // XGETBV is an instruction; no safe wrapper exists at the baseline

use raw_cpuid::{CacheType, CpuId, CpuIdReader, ExtendedFeatures, FeatureInfo};

use super::{Cache, Caches, Identity};

/// Register state that must be switched on in XCR0 before a feature's instructions may run.
/// Intel SDM volume 1, 13.3. Linux grants AMX tile data to a process only on request; that the bit is set
/// says that the request will be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sse = 0,
    Avx = 0b110,
    Avx512 = 0b1110_0110,
    Amx = 0b11 << 17,
}

/// Both CPUID leaves that the features below are read from.
struct Leaves {
    basic: FeatureInfo,
    extended: Option<ExtendedFeatures>,
}

impl Leaves {
    fn extended(&self, has: impl Fn(&ExtendedFeatures) -> bool) -> bool {
        self.extended.as_ref().is_some_and(has)
    }
}

type Row = (&'static str, State, fn(&Leaves) -> bool);

/// From narrow to wide. BMI works on general registers and needs no state.
const FEATURES: &[Row] = &[
    ("sse2", State::Sse, |c| c.basic.has_sse2()),
    ("sse3", State::Sse, |c| c.basic.has_sse3()),
    ("ssse3", State::Sse, |c| c.basic.has_ssse3()),
    ("sse4.1", State::Sse, |c| c.basic.has_sse41()),
    ("sse4.2", State::Sse, |c| c.basic.has_sse42()),
    ("popcnt", State::Sse, |c| c.basic.has_popcnt()),
    ("avx", State::Avx, |c| c.basic.has_avx()),
    ("f16c", State::Avx, |c| c.basic.has_f16c()),
    ("fma", State::Avx, |c| c.basic.has_fma()),
    ("bmi1", State::Sse, |c| c.extended(ExtendedFeatures::has_bmi1)),
    ("bmi2", State::Sse, |c| c.extended(ExtendedFeatures::has_bmi2)),
    ("avx2", State::Avx, |c| c.extended(ExtendedFeatures::has_avx2)),
    ("avxvnni", State::Avx, |c| c.extended(ExtendedFeatures::has_avx_vnni)),
    ("avx512f", State::Avx512, |c| c.extended(ExtendedFeatures::has_avx512f)),
    ("avx512cd", State::Avx512, |c| {
        c.extended(ExtendedFeatures::has_avx512cd)
    }),
    ("avx512bw", State::Avx512, |c| {
        c.extended(ExtendedFeatures::has_avx512bw)
    }),
    ("avx512dq", State::Avx512, |c| {
        c.extended(ExtendedFeatures::has_avx512dq)
    }),
    ("avx512vl", State::Avx512, |c| {
        c.extended(ExtendedFeatures::has_avx512vl)
    }),
    ("avx512vnni", State::Avx512, |c| {
        c.extended(ExtendedFeatures::has_avx512vnni)
    }),
    ("avx512vbmi", State::Avx512, |c| {
        c.extended(ExtendedFeatures::has_avx512vbmi)
    }),
    ("avx512bf16", State::Avx512, |c| {
        c.extended(ExtendedFeatures::has_avx512_bf16)
    }),
    ("amx-tile", State::Amx, |c| c.extended(ExtendedFeatures::has_amx_tile)),
    ("amx-int8", State::Amx, |c| c.extended(ExtendedFeatures::has_amx_int8)),
];

/// Asks the CPU.
pub fn identify() -> Identity {
    let cpuid = CpuId::new();
    let xcr0 = xcr0(&cpuid);
    parse(&cpuid, xcr0)
}

/// The extended control register 0, or 0 where the operating system has not switched XSAVE on.
fn xcr0<R: CpuIdReader>(cpuid: &CpuId<R>) -> u64 {
    if !cpuid.get_feature_info().is_some_and(|info| info.has_oxsave()) {
        return 0;
    }
    // SAFETY: OSXSAVE, tested above, says that XGETBV may be executed; register 0 always exists then.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

fn parse<R: CpuIdReader>(cpuid: &CpuId<R>, xcr0: u64) -> Identity {
    let info = cpuid.get_feature_info();
    let vendor = cpuid.get_vendor_info().map(|vendor| vendor.as_str().to_owned());
    let brand = cpuid
        .get_processor_brand_string()
        .map(|brand| brand.as_str().trim().to_owned());
    let microarchitecture = info
        .as_ref()
        .zip(vendor.as_deref())
        .and_then(|(info, vendor)| microarchitecture(vendor, info.family_id(), info.model_id(), info.stepping_id()));
    let leaves = info.map(|basic| Leaves {
        basic,
        extended: cpuid.get_extended_feature_info(),
    });
    Identity {
        vendor,
        model_name: brand.filter(|brand| !brand.is_empty()),
        microarchitecture,
        features: leaves.map_or_else(Vec::new, |leaves| features(&leaves, xcr0)),
        caches: caches(cpuid),
    }
}

fn features(leaves: &Leaves, xcr0: u64) -> Vec<&'static str> {
    let saved = |state: State| xcr0 & state as u64 == state as u64;
    FEATURES
        .iter()
        .filter(|(_, state, has)| saved(*state) && has(leaves))
        .map(|row| row.0)
        .collect()
}

/// Leaf 4, or 0x8000001D on AMD.
fn caches<R: CpuIdReader>(cpuid: &CpuId<R>) -> Caches {
    let mut caches = Caches::default();
    for cache in cpuid.get_cache_parameters().into_iter().flatten() {
        let slot = match (cache.level(), cache.cache_type()) {
            (1, CacheType::Data | CacheType::Unified) => &mut caches.l1d,
            (2, CacheType::Data | CacheType::Unified) => &mut caches.l2,
            (3, CacheType::Data | CacheType::Unified) => &mut caches.l3,
            _ => continue,
        };
        let factors = [
            cache.associativity(),
            cache.physical_line_partitions(),
            cache.coherency_line_size(),
            cache.sets(),
        ];
        let bytes = factors
            .into_iter()
            .try_fold(1u64, |product, factor| product.checked_mul(factor as u64));
        let sharers = Some(cache.max_cores_for_cache() as u32);
        *slot = bytes.map(|bytes| Cache { bytes, sharers });
        caches.line_bytes.get_or_insert(cache.coherency_line_size() as u32);
    }
    caches
}

/// Names as compilers spell them (`-march`). AMD: model ranges of Linux's `arch/x86/kernel/cpu/amd.c`;
/// Intel: its `arch/x86/include/asm/intel-family.h`.
fn microarchitecture(vendor: &str, family: u8, model: u8, stepping: u8) -> Option<&'static str> {
    Some(match (vendor, family, model) {
        ("AuthenticAMD", 0x17, 0x00..=0x2f | 0x50..=0x5f) => "zen",
        ("AuthenticAMD", 0x17, 0x30..=0x4f | 0x60..=0x7f | 0x90..=0x91 | 0xa0..=0xaf) => "zen2",
        ("AuthenticAMD", 0x19, 0x00..=0x0f | 0x20..=0x5f) => "zen3",
        ("AuthenticAMD", 0x19, 0x10..=0x1f | 0x60..=0xaf) => "zen4",
        ("AuthenticAMD", 0x1a, 0x00..=0x2f | 0x40..=0x4f | 0x60..=0x7f) => "zen5",
        ("GenuineIntel", 6, 0x1a | 0x1e | 0x1f | 0x2e) => "nehalem",
        ("GenuineIntel", 6, 0x25 | 0x2c | 0x2f) => "westmere",
        ("GenuineIntel", 6, 0x2a | 0x2d) => "sandybridge",
        ("GenuineIntel", 6, 0x3a | 0x3e) => "ivybridge",
        ("GenuineIntel", 6, 0x3c | 0x3f | 0x45 | 0x46) => "haswell",
        ("GenuineIntel", 6, 0x3d | 0x47 | 0x4f | 0x56) => "broadwell",
        ("GenuineIntel", 6, 0x4e | 0x5e | 0x8e | 0x9e | 0xa5 | 0xa6) => "skylake",
        ("GenuineIntel", 6, 0x55) if stepping <= 4 => "skylake-avx512",
        ("GenuineIntel", 6, 0x55) if stepping <= 7 => "cascadelake",
        ("GenuineIntel", 6, 0x7d | 0x7e) => "icelake-client",
        ("GenuineIntel", 6, 0x6a | 0x6c) => "icelake-server",
        ("GenuineIntel", 6, 0x8c | 0x8d) => "tigerlake",
        ("GenuineIntel", 6, 0xa7) => "rocketlake",
        ("GenuineIntel", 6, 0x97 | 0x9a) => "alderlake",
        ("GenuineIntel", 6, 0xb7 | 0xba | 0xbf) => "raptorlake",
        ("GenuineIntel", 6, 0xaa | 0xac) => "meteorlake",
        ("GenuineIntel", 6, 0x8f) => "sapphirerapids",
        ("GenuineIntel", 6, 0xcf) => "emeraldrapids",
        ("GenuineIntel", 6, 0xad | 0xae) => "graniterapids",
        ("GenuineIntel", 6, 0xaf) => "sierraforest",
        _ => return None,
    })
}

#[cfg(test)]
pub fn names() -> Vec<&'static str> {
    FEATURES.iter().map(|row| row.0).collect()
}

#[cfg(test)]
mod tests {
    use raw_cpuid::CpuIdResult;

    use super::*;

    /// One recorded leaf: number, subleaf, then eax, ebx, ecx, edx.
    type Leaf = (u32, u32, [u32; 4]);

    /// A Zen 4 server processor as a KVM guest of two processors sees it.
    const ZEN4: &[Leaf] = &[
        (0x0, 0, [0x1c, 0x68747541, 0x444d4163, 0x69746e65]),
        (0x1, 0, [0xa10f11, 0x20800, 0xfffa3203, 0x178bfbff]),
        (0x7, 0, [0x1, 0xf1bf07ab, 0x405fc6, 0x10]),
        (0x7, 1, [0x20, 0x0, 0x0, 0x0]),
        (0x80000000, 0, [0x80000021, 0x68747541, 0x444d4163, 0x69746e65]),
        (0x80000002, 0, [0x20444d41, 0x43595045, 0x0, 0x0]),
        (0x8000001d, 0, [0x121, 0x1c0003f, 0x3f, 0x0]),
        (0x8000001d, 1, [0x122, 0x1c0003f, 0x3f, 0x0]),
        (0x8000001d, 2, [0x143, 0x1c0003f, 0x7ff, 0x2]),
        (0x8000001d, 3, [0x4163, 0x3c0003f, 0x7fff, 0x1]),
    ];

    /// QEMU's `Haswell`: leaf 4, and an AMD leaf full of something else, as Intel processors return.
    const HASWELL: &[Leaf] = &[
        (0x0, 0, [0xd, 0x756e6547, 0x6c65746e, 0x49656e69]),
        (0x1, 0, [0x306c4, 0x800, 0xfed83203, 0x78bfbfd]),
        (0x4, 0, [0x121, 0x1c0003f, 0x3f, 0x1]),
        (0x4, 1, [0x122, 0x1c0003f, 0x3f, 0x1]),
        (0x4, 2, [0x143, 0x3c0003f, 0xfff, 0x1]),
        (0x4, 3, [0x163, 0x3c0003f, 0x3fff, 0x6]),
        (0x7, 0, [0x0, 0x3a9, 0x0, 0x0]),
        (0x80000000, 0, [0x80000008, 0x756e6547, 0x6c65746e, 0x49656e69]),
        (0x80000002, 0, [0x65746e49, 0x6f43206c, 0x50206572, 0x65636f72]),
        (0x80000003, 0, [0x726f7373, 0x61482820, 0x6c657773, 0x296c]),
        (0x8000001d, 0, [0x7, 0x340, 0x340, 0x0]),
    ];

    /// QEMU's `Nehalem`: no AVX, and an operating system without XSAVE.
    const NEHALEM: &[Leaf] = &[
        (0x0, 0, [0xb, 0x756e6547, 0x6c65746e, 0x49656e69]),
        (0x1, 0, [0x106a3, 0x800, 0x80982201, 0x78bfbfd]),
        (0x80000000, 0, [0x80000008, 0x756e6547, 0x6c65746e, 0x49656e69]),
    ];

    fn recorded(leaves: &'static [Leaf]) -> CpuId<impl CpuIdReader> {
        CpuId::with_cpuid_reader(move |leaf, subleaf| {
            let found = leaves.iter().find(|row| (row.0, row.1) == (leaf, subleaf));
            let [eax, ebx, ecx, edx] = found.map_or([0; 4], |row| row.2);
            CpuIdResult { eax, ebx, ecx, edx }
        })
    }

    fn cache(bytes: u64, sharers: u32) -> Option<Cache> {
        Some(Cache {
            bytes,
            sharers: Some(sharers),
        })
    }

    #[test]
    fn a_recorded_zen4() {
        let id = parse(&recorded(ZEN4), 0xe7);
        assert_eq!(id.vendor.as_deref(), Some("AuthenticAMD"));
        assert_eq!(id.model_name.as_deref(), Some("AMD EPYC"));
        assert_eq!(id.microarchitecture, Some("zen4"));
        assert_eq!(
            id.features,
            [
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
                "avx512vbmi",
                "avx512bf16",
            ]
        );
        let caches = Caches {
            line_bytes: Some(64),
            l1d: cache(32 << 10, 1),
            l2: cache(1 << 20, 1),
            l3: cache(32 << 20, 2),
        };
        assert_eq!(id.caches, caches);
    }

    #[test]
    fn a_recorded_haswell() {
        let id = parse(&recorded(HASWELL), 0x7);
        assert_eq!(id.model_name.as_deref(), Some("Intel Core Processor (Haswell)"));
        assert_eq!(id.microarchitecture, Some("haswell"));
        assert_eq!(id.features.last(), Some(&"avx2"));
        assert_eq!(id.caches.l2, cache(4 << 20, 1));
        assert_eq!(id.caches.l3, cache(16 << 20, 1));
    }

    #[test]
    fn a_recorded_nehalem() {
        let id = parse(&recorded(NEHALEM), 0);
        assert_eq!(id.microarchitecture, Some("nehalem"));
        assert_eq!(id.features, ["sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"]);
        assert_eq!(id.caches, Caches::default());
    }

    #[test]
    fn what_the_operating_system_does_not_save_is_not_there() {
        let cpuid = recorded(ZEN4);
        let without_avx512 = parse(&cpuid, 0x7).features;
        assert!(without_avx512.contains(&"avx2") && !without_avx512.contains(&"avx512f"));
        let without_avx = parse(&cpuid, 0x3).features;
        assert!(without_avx.contains(&"bmi2"), "general registers need no state");
        for gone in ["avx", "f16c", "fma", "avx2", "avx512vnni"] {
            assert!(!without_avx.contains(&gone), "{gone}");
        }
        // Opmask registers without the upper halves are not AVX-512.
        assert!(!parse(&cpuid, 0x27).features.contains(&"avx512f"));
    }

    #[test]
    fn a_silent_cpu_is_unknown() {
        assert_eq!(parse(&recorded(&[]), !0).microarchitecture, None);
        assert_eq!(parse(&recorded(&[]), !0).caches, Caches::default());
    }

    #[test]
    fn only_certain_models_have_a_name() {
        let name = |family, model, stepping| microarchitecture("GenuineIntel", family, model, stepping);
        assert_eq!(name(6, 0x55, 4), Some("skylake-avx512"));
        assert_eq!(name(6, 0x55, 7), Some("cascadelake"));
        assert_eq!(name(6, 0x55, 11), None);
        assert_eq!(microarchitecture("AuthenticAMD", 0x19, 0x21, 0), Some("zen3"));
        assert_eq!(microarchitecture("AuthenticAMD", 0x1a, 0xff, 0), None);
        assert_eq!(microarchitecture("HygonGenuine", 0x18, 0x00, 0), None);
    }
}
