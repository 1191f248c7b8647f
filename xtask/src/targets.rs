//! What `--target` takes: names and aliases from `images/targets/`, paths, `native`, several by comma.

use std::path::Path;

use anyhow::{Result, bail};
use sterna_codegen::target::{TargetError, TargetSpec};

use crate::machine;

/// The targets in the order asked for, each once.
pub fn resolve(dir: &Path, names: &[String]) -> Result<Vec<TargetSpec>> {
    let mut specs: Vec<TargetSpec> = Vec::new();
    for name in names {
        let spec = one(dir, name.trim())?;
        match specs.iter().find(|other| other.name == spec.name) {
            None => specs.push(spec),
            Some(other) if *other == spec => {} // an alias of one already there
            Some(_) => bail!("two different targets are named `{}`: rename one", spec.name),
        }
    }
    if specs.is_empty() {
        bail!("--target names no target");
    }
    Ok(specs)
}

fn one(dir: &Path, name: &str) -> Result<TargetSpec> {
    if name == "native" {
        return Ok(machine::native());
    }
    TargetSpec::resolve(dir, name).map_err(|error| match error {
        TargetError::Unknown { name, mut known } => {
            known.push("native".to_owned());
            TargetError::Unknown { name, known }.into()
        }
        other => other.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sterna_codegen::target::{Arch, Feature};

    use super::*;
    use crate::workspace;

    fn resolve(names: &[&str]) -> Result<Vec<TargetSpec>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        super::resolve(&workspace::targets_dir(), &names)
    }

    fn names(specs: &[TargetSpec]) -> Vec<&str> {
        specs.iter().map(|spec| spec.name.as_str()).collect()
    }

    #[test]
    fn names_and_aliases_resolve_in_order_and_once() {
        let specs = resolve(&["avx2", "amd-zen3", " baseline", "intel-avx2"]).unwrap();
        assert_eq!(names(&specs), ["avx2", "zen3", "baseline"]);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = resolve(&["avx3"]).unwrap_err().to_string();
        for expected in ["`avx3`", "avx2", "amd-zen4", "universal-arm64", "native"] {
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn native_is_this_machine_and_the_same_every_time() {
        assert_eq!(resolve(&["native"]).unwrap(), resolve(&["native", "native"]).unwrap());
    }

    #[test]
    fn a_path_resolves_and_must_not_shadow_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("box.toml");
        let mut spec = resolve(&["avx2"]).unwrap().remove(0);
        spec.features = BTreeSet::from([Feature::Sse2]);
        std::fs::write(&path, spec.to_toml()).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(resolve(&[path]).unwrap()[0], spec);
        let message = resolve(&["avx2", path]).unwrap_err().to_string();
        assert!(message.contains("two different targets"), "{message}");
        assert!(resolve(&[]).is_err());
    }

    /// What the committed files promise beyond being readable.
    #[test]
    fn the_committed_targets_are_sound() {
        let all = TargetSpec::all(&workspace::targets_dir()).unwrap();
        let mut taken = BTreeSet::from(["native".to_owned(), "latest".to_owned()]);
        for target in &all {
            for name in std::iter::once(&target.name).chain(&target.aliases) {
                assert!(taken.insert(name.clone()), "{name} is taken");
            }
            let baseline = if target.arch == Arch::X86_64 {
                Feature::Sse2
            } else {
                Feature::Neon
            };
            assert!(target.features.contains(&baseline), "{}", target.name);
            if target.microarchitecture.is_some() {
                assert!(
                    !target.sources.is_empty(),
                    "{} states facts without a source",
                    target.name
                );
            }
        }
        for arch in [Arch::X86_64, Arch::Aarch64] {
            assert!(resolve(&[arch.universal_target()]).unwrap()[0].universal);
        }
    }
}
