//! From what the machine says of itself to a [`TargetSpec`].

use std::collections::BTreeMap;

use sterna_codegen::target::{Arch, Cache, Caches, Cores, Feature, TargetSpec};

use crate::cpu::{self, Machine};

/// The machine as a target of that name. `source` says who claims so.
pub fn spec(machine: &Machine, name: &str, source: &str) -> TargetSpec {
    let cache = |cache: cpu::Cache| Cache {
        bytes: cache.bytes,
        sharers: cache.sharers,
    };
    TargetSpec {
        name: name.to_owned(),
        description: describe(machine),
        aliases: Vec::new(),
        arch: arch(machine),
        universal: false,
        vendor: machine.vendor.clone(),
        microarchitecture: machine.microarchitecture.map(str::to_owned),
        features: machine.features.iter().map(|name| feature(name)).collect(),
        cache: Caches {
            line_bytes: machine.line_bytes,
            l1d: machine.l1d.map(cache),
            l2: machine.l2.map(cache),
            l3: machine.l3.map(cache),
        },
        cores: Cores {
            physical: machine.physical_cores,
            logical: machine.logical_cores,
        },
        sources: vec![source.to_owned()],
        tuned: None,
        candidates: BTreeMap::new(),
    }
}

/// This machine as the target `native`: everything it has, nothing it has not. Its source carries no date, so
/// that building it again tomorrow gives the same bytes.
pub fn native() -> TargetSpec {
    spec(&Machine::detect(), "native", "cargo xtask detect")
}

/// Whether an image for `target` runs on the machine.
pub fn runs(machine: &Machine, target: &TargetSpec) -> bool {
    target.arch.rust_name() == machine.arch && target.features.iter().all(|feature| machine.has(feature.name()))
}

fn describe(machine: &Machine) -> String {
    let model = machine
        .model_name
        .as_deref()
        .or(machine.vendor.as_deref())
        .unwrap_or("a machine of unknown make");
    match machine.microarchitecture {
        Some(name) => format!("{model} ({name})"),
        None => model.to_owned(),
    }
}

fn arch(machine: &Machine) -> Arch {
    match machine.arch {
        "x86_64" => Arch::X86_64,
        "aarch64" => Arch::Aarch64,
        other => panic!("xtask was compiled for {other}, which has no kernels; run it on x86_64 or aarch64"),
    }
}

/// The detection's names are the generator's names; the test below holds them together.
fn feature(name: &str) -> Feature {
    name.parse()
        .unwrap_or_else(|_| panic!("detection knows {name} and the generator does not"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn detection_and_generator_know_the_same_features() {
        let detected: BTreeSet<Feature> = cpu::known_features().into_iter().map(feature).collect();
        let compiled = |feature: &Feature| feature.arch() == Arch::Aarch64 || cfg!(target_arch = "x86_64");
        assert_eq!(detected, Feature::ALL.iter().copied().filter(compiled).collect());
    }

    #[test]
    fn a_spec_says_what_the_machine_said() {
        let machine = Machine {
            arch: "x86_64",
            vendor: Some("AuthenticAMD".to_owned()),
            model_name: Some("AMD EPYC".to_owned()),
            microarchitecture: Some("zen4"),
            features: vec!["sse2", "avx2"],
            line_bytes: Some(64),
            l1d: Some(cpu::Cache {
                bytes: 32 << 10,
                sharers: Some(2),
            }),
            l2: None,
            l3: None,
            physical_cores: None,
            logical_cores: Some(4),
        };
        let spec = spec(&machine, "here", "a test");
        assert_eq!(spec.description, "AMD EPYC (zen4)");
        assert_eq!(spec.features, BTreeSet::from([Feature::Sse2, Feature::Avx2]));
        assert_eq!(
            spec.cache.l1d,
            Some(Cache {
                bytes: 32 << 10,
                sharers: Some(2)
            })
        );
        assert_eq!(
            (spec.cache.l2.clone(), spec.cores.physical, spec.cores.logical),
            (None, None, Some(4))
        );
        assert!(runs(&machine, &spec));
        assert!(!runs(
            &machine,
            &TargetSpec {
                features: BTreeSet::from([Feature::Avx512f]),
                ..spec.clone()
            }
        ));
        assert!(!runs(
            &machine,
            &TargetSpec {
                arch: Arch::Aarch64,
                ..spec
            }
        ));
    }
}
