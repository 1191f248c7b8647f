//! `cargo xtask codegen`: the committed renderings of a few kernels, so that a change of a template is reviewed as the
//! C that it makes; and any target's kernels, to read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sterna_codegen::plan::KernelPlan;
use sterna_codegen::render::Templates;
use sterna_codegen::target::TargetSpec;

use crate::workspace;

/// Renders the golden kernels into codegen/golden, or with --target all kernels of one target.
///
/// Examples:
///   cargo xtask codegen --check                     fails when codegen/golden is not what the templates give
///   cargo xtask codegen                             renders codegen/golden anew
///   cargo xtask codegen --target zen4 --output /tmp/kernels
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Compare instead of writing
    #[arg(long, conflicts_with_all = ["target", "output"])]
    check: bool,
    /// A target by name, alias or path
    #[arg(long, requires = "output")]
    target: Option<String>,
    /// Folder for that target's C files and plan.json
    #[arg(long, requires = "target")]
    output: Option<PathBuf>,
}

/// Target and unit of each golden: one of every algorithm and ISA family, short enough to be read in a diff.
const GOLDENS: &[(&str, &str)] = &[
    ("baseline", "baseline/i2s_gemm_portable.c"),
    ("baseline", "baseline/i2s_gemv_portable.c"),
    ("avx2", "avx2/attention.c"),
    ("avx2", "avx2/i2s_gemv_avx2.c"),
    ("avxvnni", "avxvnni/i2s_gemv_avxvnni.c"),
    ("avx512", "avx512/i2s_gemv_avx512bw.c"),
    ("avx512vbmi", "avx512vbmi/packed_vnni.c"),
    ("avx512vnni", "avx512vnni/head.c"),
    ("avx512vnni", "avx512vnni/head_coarse.c"),
    ("avx512vnni", "avx512vnni/i2s_gemv_avx512.c"),
    ("neon", "neon/elementwise.c"),
    ("neon", "neon/i2s_gemv_neon.c"),
    ("dotprod", "dotprod/i2s_gemv_neon.c"),
    ("i8mm", "i8mm/i2s_gemm_i8mm.c"),
    ("i8mm", "i8mm/packed_neon.c"),
];

/// The targets whose plans are golden too: one that states its caches, and the two universal ones.
const PLANS: &[&str] = &["universal", "universal-arm64", "zen3"];

/// Writes, compares or renders.
pub fn run(args: &Args) -> Result<()> {
    if let (Some(target), Some(output)) = (&args.target, &args.output) {
        let target = TargetSpec::resolve(&workspace::targets_dir(), target)?;
        let files = render(&target)?;
        for (path, text) in &files {
            write(&output.join(path), text)?;
        }
        println!("{} files in {}", files.len(), output.display());
        return Ok(());
    }
    let stale = goldens()?
        .into_iter()
        .filter(|(path, text)| std::fs::read_to_string(path).ok().as_ref() != Some(text));
    let stale: Vec<_> = stale.collect();
    let names: Vec<_> = stale.iter().map(|(path, _)| path.display().to_string()).collect();
    if args.check && !stale.is_empty() {
        bail!(
            "{} not what the templates give: run `cargo xtask codegen`, review the diff, commit it",
            names.join(", ")
        );
    }
    for (path, text) in &stale {
        write(path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Path and text of every golden.
fn goldens() -> Result<Vec<(PathBuf, String)>> {
    let folder = workspace::root().join("codegen/golden");
    let resolve = |name: &str| TargetSpec::resolve(&workspace::targets_dir(), name);
    let mut goldens = Vec::new();
    for &(target, unit) in GOLDENS {
        let files = render(&resolve(target)?)?;
        let found = files.into_iter().find(|(path, _)| path == Path::new(unit));
        let (path, text) = found.with_context(|| format!("target {target} renders no {unit}"))?;
        goldens.push((folder.join(path), text));
    }
    for &target in PLANS {
        goldens.push((
            folder.join(format!("plan-{target}.json")),
            KernelPlan::new(&resolve(target)?)?.to_json(),
        ));
    }
    Ok(goldens)
}

fn render(target: &TargetSpec) -> Result<Vec<(PathBuf, String)>> {
    let plan = KernelPlan::new(target)?;
    let units = Templates::read(&workspace::root().join("templates"))?.render(&plan)?;
    let mut files: Vec<_> = units.into_iter().map(|unit| (unit.path, unit.source)).collect();
    files.push((PathBuf::from("plan.json"), plan.to_json()));
    Ok(files)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_goldens_are_what_the_templates_give() {
        for (path, text) in super::goldens().unwrap() {
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == text,
                "{}: run `cargo xtask codegen`, review the diff, commit it",
                path.display()
            );
        }
    }
}
