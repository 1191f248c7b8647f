//! What `--target` takes: names and aliases from `images/targets/`, paths, `native`, several by comma; and the verb
//! that lists them.

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;
use sterna_codegen::plan::KernelPlan;
use sterna_codegen::target::{TargetError, TargetSpec};

use crate::{machine, print, workspace};

/// List the targets: names, aliases, and the kernel level that each one gets
///
/// Without a microarchitecture a target is a level, for every CPU that has its features. With one it is that level
/// planned for the caches of a machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object a target
    #[arg(long)]
    json: bool,
}

/// One line of the listing.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    arch: &'static str,
    /// Kernel levels, best first; several in a universal image.
    levels: Vec<&'static str>,
    microarchitecture: Option<String>,
    aliases: Vec<String>,
    description: String,
}

/// Prints every target of `images/targets/`.
pub fn run(args: &Args) -> Result<()> {
    let mut text = String::new();
    if !args.json {
        text += &format!("{:<16} {:<8} {:<11} {:<40} FOR\n", "TARGET", "ARCH", "KERNELS", "ALSO");
    }
    for row in rows(TargetSpec::all(&workspace::targets_dir())?)? {
        text += &if args.json {
            serde_json::to_string(&row)? + "\n"
        } else {
            let level = if let [level] = row.levels[..] {
                level
            } else {
                "all levels"
            };
            let also = row.aliases.join(", ");
            format!(
                "{:<16} {:<8} {level:<11} {also:<40} {}\n",
                row.name, row.arch, row.description
            )
        };
    }
    print(&text)
}

/// Levels before machines, the architectures apart.
fn rows(mut targets: Vec<TargetSpec>) -> Result<Vec<Row>> {
    targets.sort_by_key(|t| (t.arch, t.microarchitecture.is_some(), t.name.clone()));
    let row = |target: TargetSpec| {
        let plan = KernelPlan::new(&target)?;
        Ok(Row {
            name: target.name,
            arch: target.arch.oci_name(),
            levels: plan.variants.iter().map(|v| v.isa.name()).collect(),
            microarchitecture: target.microarchitecture,
            aliases: target.aliases,
            description: target.description,
        })
    };
    targets.into_iter().map(row).collect()
}

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

    use sterna_codegen::kernels::Isa;
    use sterna_codegen::render::Templates;
    use sterna_codegen::target::{Arch, Feature};

    use super::*;

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

    /// The CPU guard proposes a level by its name, so that image has to exist.
    #[test]
    fn every_level_has_a_target_of_its_name() {
        let all = TargetSpec::all(&workspace::targets_dir()).unwrap();
        for isa in Isa::ALL {
            let target = all.iter().find(|target| target.name == isa.name());
            let target = target.unwrap_or_else(|| panic!("no target for {isa:?}"));
            let variants = KernelPlan::new(target).unwrap().variants;
            assert_eq!(variants.iter().map(|v| v.isa).collect::<Vec<_>>(), [*isa]);
            assert!(target.microarchitecture.is_none(), "a level is no machine");
        }
    }

    #[test]
    fn every_committed_target_renders() {
        let templates = Templates::read(&workspace::root().join("templates")).unwrap();
        let all = TargetSpec::all(&workspace::targets_dir()).unwrap();
        for target in &all {
            let plan = KernelPlan::new(target).unwrap();
            let units = templates.render(&plan);
            assert!(units.is_ok_and(|units| !units.is_empty()), "{}", target.name);
        }
    }

    #[test]
    fn machines_get_the_level_of_their_features() {
        let levels = rows(TargetSpec::all(&workspace::targets_dir()).unwrap()).unwrap();
        for (name, level) in [
            ("zen2", "avx2"),
            ("zen4", "avx512vbmi"),
            ("skylake-avx512", "avx512"),
            ("cascadelake", "avx512vnni"),
            ("alderlake", "avxvnni"),
            ("neoverse-n1", "dotprod"),
            ("apple-m2", "i8mm"),
        ] {
            let row = levels.iter().find(|row| row.name == name).unwrap();
            assert_eq!(row.levels, [level], "{name}");
        }
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
            assert!(target.candidates.is_empty(), "{}", target.name);
            if target.microarchitecture.is_some() {
                assert!(
                    !target.sources.is_empty(),
                    "{} states facts without a source",
                    target.name
                );
            }
            let caches = [&target.cache.l1d, &target.cache.l2, &target.cache.l3];
            let bytes: Vec<u64> = caches.into_iter().flatten().map(|cache| cache.bytes).collect();
            assert!(
                bytes.is_sorted(),
                "{}: an outer cache is smaller than an inner one",
                target.name
            );
        }
        for arch in [Arch::X86_64, Arch::Aarch64] {
            assert!(resolve(&[arch.universal_target()]).unwrap()[0].universal);
        }
    }
}
