//! [`TargetSpec`]: what the generator knows about a machine. One TOML file each in `images/targets/`.
//!
//! A value that nobody measured or published is absent (`None`), never a guess: the planner has its
//! own defaults and says in the plan when it had to use one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A machine, or a class of machines, to build for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSpec {
    /// The image tag's architecture part, and the stem of the file: `avx2`, `zen3`.
    pub name: String,
    /// One line for people: which machines this is for.
    pub description: String,
    /// Other names that `--target` takes for it: `amd-zen3`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Instruction-set architecture.
    pub arch: Arch,
    /// True when the image must hold a kernel variant for every level of the architecture and
    /// choose at start-up; `features` is then what every machine of the architecture has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub universal: bool,
    /// CPU vendor as the CPU names itself (`AuthenticAMD`), where one is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Microarchitecture (`zen3`), where one is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub microarchitecture: Option<String>,
    /// What the image may use, and so what the CPU guard will ask for.
    pub features: BTreeSet<Feature>,
    /// Cache geometry.
    #[serde(default)]
    pub cache: Caches,
    /// Core counts of the machine (not of a container on it).
    #[serde(default)]
    pub cores: Cores,
    /// Where the facts above come from: a URL, a document, or `cargo xtask detect` and its date.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Knobs that were measured on the machine to be better than the planner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<Tuned>,
    /// Variants to compile beside the plan's, by name: its best level with other knobs. Only the tuner writes them, for a build
    /// that it measures.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub candidates: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What `cargo xtask tune` found, and its evidence. Everything that is measured is an integer: a target is compared with `==`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// Day of the measurement, as `2026-11-21`.
    pub date: String,
    /// The machine's CPU, as it names itself.
    pub cpu: String,
    /// What compiled the kernels.
    pub compiler: String,
    /// Threads that it was measured on.
    pub threads: u32,
    /// By level, then by knob.
    pub levels: BTreeMap<String, BTreeMap<String, TunedKnob>>,
}

/// One knob's better value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedKnob {
    /// The value to take.
    pub value: u64,
    /// What the planner had.
    pub planned: u64,
    /// What became faster: `decode` or `prefill`, with the weights as they are after a while, or as mapped.
    pub measured: String,
    /// By how many thousandths; with every knob of that work together.
    pub gain_permille: u32,
    /// Half of the gain's confidence interval, in thousandths.
    pub spread_permille: u32,
}

/// Instruction-set architecture, spelled as in a Rust target triple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// As in a Rust target triple: `x86_64`, `aarch64`.
    pub fn rust_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }

    /// As in an OCI platform: `amd64`, `arm64`.
    pub fn oci_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
        }
    }

    /// The target that is built when none is named.
    pub fn universal_target(self) -> &'static str {
        match self {
            Arch::X86_64 => "universal",
            Arch::Aarch64 => "universal-arm64",
        }
    }
}

/// Cache geometry; absent means unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caches {
    /// Cache line size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line_bytes: Option<u32>,
    /// First-level data cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l1d: Option<Cache>,
    /// Second-level cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2: Option<Cache>,
    /// Third-level cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l3: Option<Cache>,
}

/// One cache level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Size in bytes of one instance.
    pub bytes: u64,
    /// Logical processors that share one instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharers: Option<u32>,
}

/// Core counts; absent means unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cores {
    /// Physical cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical: Option<u32>,
    /// Logical processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical: Option<u32>,
}

macro_rules! features {
    ($($variant:ident $name:literal $arch:ident),* $(,)?) => {
        /// A CPU feature that some kernel can use, spelled as Rust's `target_feature`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Feature {
            $(#[doc = $name] #[serde(rename = $name)] $variant,)*
        }

        impl Feature {
            /// Every known feature.
            pub const ALL: &[Feature] = &[$(Feature::$variant,)*];

            /// As Rust's `target_feature` spells it.
            pub fn name(self) -> &'static str {
                match self { $(Feature::$variant => $name,)* }
            }

            /// The architecture that has it.
            pub fn arch(self) -> Arch {
                match self { $(Feature::$variant => Arch::$arch,)* }
            }
        }
    };
}

features! {
    Sse2 "sse2" X86_64, Sse3 "sse3" X86_64, Ssse3 "ssse3" X86_64, Sse41 "sse4.1" X86_64, Sse42 "sse4.2" X86_64,
    Popcnt "popcnt" X86_64, Avx "avx" X86_64, F16c "f16c" X86_64, Fma "fma" X86_64, Bmi1 "bmi1" X86_64,
    Bmi2 "bmi2" X86_64, Avx2 "avx2" X86_64, AvxVnni "avxvnni" X86_64,
    Avx512f "avx512f" X86_64, Avx512cd "avx512cd" X86_64, Avx512bw "avx512bw" X86_64, Avx512dq "avx512dq" X86_64,
    Avx512vl "avx512vl" X86_64, Avx512vnni "avx512vnni" X86_64, Avx512vbmi "avx512vbmi" X86_64,
    Avx512bf16 "avx512bf16" X86_64, AmxTile "amx-tile" X86_64, AmxInt8 "amx-int8" X86_64,
    Neon "neon" Aarch64, Fp16 "fp16" Aarch64, Dotprod "dotprod" Aarch64, I8mm "i8mm" Aarch64,
    Bf16 "bf16" Aarch64, Sve "sve" Aarch64, Sve2 "sve2" Aarch64,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Feature {
    type Err = TargetError;

    fn from_str(s: &str) -> Result<Self, TargetError> {
        Feature::ALL
            .iter()
            .copied()
            .find(|f| f.name() == s)
            .ok_or_else(|| TargetError::UnknownFeature { name: s.to_owned() })
    }
}

/// Why a target could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No such feature.
    #[error("unknown CPU feature `{name}`")]
    UnknownFeature {
        /// What was asked for.
        name: String,
    },
    /// A file that is not there or not readable.
    #[error("cannot read target file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is not a target.
    #[error("{path} is not a valid target: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        message: String,
    },
    /// A name that no file and no alias has.
    #[error("no target named `{name}`; known: {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Every name and alias.
        known: Vec<String>,
    },
}

impl TargetSpec {
    /// Reads one TOML file and checks that it makes sense: features of its own architecture only,
    /// no zero sizes, a name that can stand in an image tag.
    pub fn read(path: &Path) -> Result<Self, TargetError> {
        let text = std::fs::read_to_string(path).map_err(|source| TargetError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// The same for a text that is the file's, or will be.
    pub fn parse(path: &Path, text: &str) -> Result<Self, TargetError> {
        let parse = |message: String| TargetError::Parse {
            path: path.to_owned(),
            message,
        };
        let spec: TargetSpec = toml::from_str(text).map_err(|e| parse(e.to_string()))?;
        spec.check().map_err(parse)?;
        Ok(spec)
    }

    /// The TOML text of this target, as `detect --write` stores it.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a TargetSpec has no value that TOML cannot hold")
    }

    /// Finds a target by file stem or alias in `dir`, or reads `name` as a path when it looks like one
    /// (it holds a `/` or ends in `.toml`).
    pub fn resolve(dir: &Path, name: &str) -> Result<Self, TargetError> {
        if name.contains('/') || name.ends_with(".toml") {
            return Self::read(Path::new(name));
        }
        let all = Self::all(dir)?;
        let known = || {
            let mut names: Vec<String> = all.iter().map(|t| t.name.clone()).collect();
            names.extend(all.iter().flat_map(|t| t.aliases.clone()));
            names
        };
        all.iter()
            .find(|t| t.name == name || t.aliases.iter().any(|a| a == name))
            .cloned()
            .ok_or_else(|| TargetError::Unknown {
                name: name.to_owned(),
                known: known(),
            })
    }

    /// Every target in `dir`, sorted by name.
    pub fn all(dir: &Path) -> Result<Vec<Self>, TargetError> {
        let read = |source| TargetError::Read {
            path: dir.to_owned(),
            source,
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().is_some_and(|e| e == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|p| Self::read(p)).collect()
    }

    fn check(&self) -> Result<(), String> {
        let tag_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        for name in std::iter::once(&self.name).chain(&self.aliases) {
            if name.is_empty() || name.len() > 64 || !name.chars().all(tag_char) {
                return Err(format!(
                    "`{name}` cannot stand in an image tag: use a-z, 0-9, `.`, `_`, `-`"
                ));
            }
        }
        if let Some(f) = self.features.iter().find(|f| f.arch() != self.arch) {
            return Err(format!("{f} is no feature of {}", self.arch.rust_name()));
        }
        let caches = [&self.cache.l1d, &self.cache.l2, &self.cache.l3];
        if caches.into_iter().flatten().any(|c| c.bytes == 0) {
            return Err("a cache of 0 bytes; leave an unknown cache out".to_owned());
        }
        Ok(())
    }
}
