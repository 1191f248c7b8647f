//! From what the machine says of itself to a [`TargetSpec`].

use std::collections::BTreeMap;

use anyhow::{Result, bail};
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

/// The one of `files` that describes the machine `here`: it is for a machine, not a level, and all facts that it states agree. What it
/// does not state is not compared; one that states everything comes before others.
pub fn described(files: Vec<TargetSpec>, here: &TargetSpec) -> Result<TargetSpec> {
    let agreeing = files.into_iter().filter(|file| agrees(file, here)).collect::<Vec<_>>();
    let facts = |spec: &TargetSpec| {
        let TargetSpec {
            vendor,
            microarchitecture,
            features,
            cache,
            cores,
            ..
        } = spec.clone();
        (vendor, microarchitecture, features, cache, cores)
    };
    let (whole, part): (Vec<_>, Vec<_>) = agreeing.into_iter().partition(|file| facts(file) == facts(here));
    let mut best = if whole.is_empty() { part } else { whole };
    match best.len() {
        0 => bail!(
            "no file in images/targets describes this machine: `--write NAME` makes one, `--dry-run` only measures"
        ),
        1 => Ok(best.remove(0)),
        _ => {
            let names: Vec<_> = best.iter().map(|file| file.name.as_str()).collect();
            bail!(
                "{} describe this machine alike: say which is meant with `--target NAME`",
                names.join(" and ")
            )
        }
    }
}

/// Whether everything that `file` says of a machine is true of `here`, and it says more than features.
fn agrees(file: &TargetSpec, here: &TargetSpec) -> bool {
    fn same<T: PartialEq>(stated: &Option<T>, here: &Option<T>) -> bool {
        stated.is_none() || stated == here
    }
    let cache = |stated: &Option<Cache>, here: &Option<Cache>| match (stated, here) {
        (None, _) => true,
        (Some(stated), Some(here)) => stated.bytes == here.bytes && same(&stated.sharers, &here.sharers),
        (Some(_), None) => false,
    };
    let (stated, caches) = (&file.cache, &here.cache);
    let of_a_machine = file.vendor.is_some() || file.microarchitecture.is_some() || *stated != Caches::default();
    of_a_machine
        && !file.universal
        && file.arch == here.arch
        && file.features.is_subset(&here.features)
        && same(&file.vendor, &here.vendor)
        && same(&file.microarchitecture, &here.microarchitecture)
        && same(&stated.line_bytes, &caches.line_bytes)
        && cache(&stated.l1d, &caches.l1d)
        && cache(&stated.l2, &caches.l2)
        && cache(&stated.l3, &caches.l3)
        && same(&file.cores.physical, &here.cores.physical)
        && same(&file.cores.logical, &here.cores.logical)
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
    use crate::workspace;

    #[test]
    fn detection_and_generator_know_the_same_features() {
        let detected: BTreeSet<Feature> = cpu::known_features().into_iter().map(feature).collect();
        let compiled = |feature: &Feature| feature.arch() == Arch::Aarch64 || cfg!(target_arch = "x86_64");
        assert_eq!(detected, Feature::ALL.iter().copied().filter(compiled).collect());
    }

    fn committed() -> Vec<TargetSpec> {
        TargetSpec::all(&workspace::targets_dir()).unwrap()
    }

    /// A machine as a file has it, and what no file says.
    fn at(file: &TargetSpec) -> TargetSpec {
        TargetSpec {
            name: "native".into(),
            cores: Cores {
                physical: Some(8),
                logical: Some(16),
            },
            ..file.clone()
        }
    }

    #[test]
    fn each_committed_machine_is_found_by_the_facts_that_its_file_states() {
        let machines = committed().into_iter().filter(|file| file.microarchitecture.is_some());
        for file in machines {
            assert_eq!(described(committed(), &at(&file)).unwrap(), file);
        }
    }

    #[test]
    fn a_machine_is_described_by_the_file_that_says_most_or_by_none() {
        let zen3 = TargetSpec::resolve(&workspace::targets_dir(), "zen3").unwrap();
        let here = at(&zen3);
        let found = |files: &[&TargetSpec], here: &TargetSpec| {
            let files = files.iter().map(|file| (*file).clone()).collect();
            described(files, here)
                .map(|file| file.name)
                .map_err(|error| error.to_string())
        };
        let named = |name: &str, spec: &TargetSpec| TargetSpec {
            name: name.into(),
            ..spec.clone()
        };
        let mine = named("mine", &here);
        assert_eq!(
            found(&[&zen3, &mine], &here).unwrap(),
            "mine",
            "it states the cores too"
        );
        // More features than the file states, and a cache that it does not.
        let mut less = named("less", &zen3);
        less.features.remove(&Feature::Bmi2);
        less.cache.l3 = None;
        assert_eq!(found(&[&less], &here).unwrap(), "less");
        let alike = found(&[&zen3, &less], &here).unwrap_err();
        assert!(
            alike.contains("zen3 and less") && alike.contains("--target NAME"),
            "{alike}"
        );
        // One fact is wrong, or the file is for every machine of a level.
        let mut shared = here.clone();
        shared.cache.l2.as_mut().unwrap().sharers = Some(1);
        let other = TargetSpec {
            microarchitecture: Some("zen2".into()),
            ..here.clone()
        };
        let unknown = TargetSpec {
            cache: Caches::default(),
            ..here.clone()
        };
        let weaker = TargetSpec {
            features: BTreeSet::from([Feature::Sse2]),
            ..here.clone()
        };
        let avx2 = TargetSpec::resolve(&workspace::targets_dir(), "avx2").unwrap();
        for (files, here) in [
            ([&zen3, &mine], &shared),
            ([&zen3, &mine], &other),
            ([&zen3, &mine], &unknown),
            ([&zen3, &mine], &weaker),
            ([&avx2, &avx2], &here),
        ] {
            let error = found(&files, here).unwrap_err();
            assert!(error.contains("--write NAME"), "{error}");
        }
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
