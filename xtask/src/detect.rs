//! `detect`: this machine as a target description.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use sterna_codegen::target::{Cache, TargetSpec};

use crate::cpu::Machine;
use crate::{machine, print, workspace};

/// Describe this machine: ISA features, caches, cores
///
/// Prints a table, or JSON with --json. What cannot be found out is shown as unknown and left out of files:
/// the planner then says which default it used.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask detect
  cargo xtask detect --write my-server   then: cargo xtask build-image --target my-server")]
pub struct Args {
    /// Print the target description as JSON
    #[arg(long)]
    json: bool,
    /// Store the description as images/targets/NAME.toml, to review and commit
    #[arg(long, value_name = "NAME")]
    write: Option<String>,
    /// Let --write replace a file
    #[arg(long, requires = "write")]
    force: bool,
}

/// Prints, and stores where asked to.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::detect();
    let today = chrono::Local::now().format("%Y-%m-%d");
    let name = args.write.as_deref().unwrap_or("native");
    let spec = machine::spec(&machine, name, &format!("cargo xtask detect, {today}"));
    if args.write.is_some() {
        let path = store(&spec, args.force)?;
        eprintln!(
            "wrote {}: review it, then `cargo xtask build-image --target {name}`",
            path.display()
        );
    }
    let text = if args.json {
        json(&spec)?
    } else {
        table(&spec, &runnable(&machine)?)
    };
    print(&text)
}

fn json(spec: &TargetSpec) -> Result<String> {
    Ok(serde_json::to_string_pretty(spec)? + "\n")
}

/// The committed targets whose images run here.
fn runnable(machine: &Machine) -> Result<Vec<String>> {
    let all = TargetSpec::all(&workspace::targets_dir())?;
    Ok(all
        .into_iter()
        .filter(|target| machine::runs(machine, target))
        .map(|target| target.name)
        .collect())
}

/// The file of a new description; an error where the name is taken, or cannot be one.
pub fn new_file(spec: &TargetSpec, force: bool) -> Result<PathBuf> {
    if spec.name == "native" {
        bail!("`native` always means the machine that builds: choose another name");
    }
    if spec.name.contains('/') {
        bail!("`{}` is no name but a path: use a-z, 0-9, `.`, `_`, `-`", spec.name);
    }
    let path = workspace::targets_dir().join(format!("{}.toml", spec.name));
    if path.exists() && !force {
        bail!(
            "{} exists: choose another name, or replace it with --force",
            path.display()
        );
    }
    if let Ok(other) = TargetSpec::resolve(&workspace::targets_dir(), &spec.name)
        && other.name != spec.name
    {
        bail!(
            "`{}` is an alias of the target `{}`: choose another name",
            spec.name,
            other.name
        );
    }
    Ok(path)
}

fn store(spec: &TargetSpec, force: bool) -> Result<PathBuf> {
    let path = new_file(spec, force)?;
    std::fs::write(&path, spec.to_toml()).with_context(|| format!("cannot write {}", path.display()))?;
    if let Err(error) = TargetSpec::read(&path) {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        return Err(error.into());
    }
    Ok(path)
}

fn table(spec: &TargetSpec, runnable: &[String]) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let count = |value: Option<u32>| value.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let features: Vec<&str> = spec.features.iter().map(|feature| feature.name()).collect();
    let rows = [
        ("machine", spec.description.clone()),
        ("architecture", spec.arch.rust_name().to_owned()),
        ("vendor", text(&spec.vendor)),
        ("microarchitecture", text(&spec.microarchitecture)),
        ("physical cores", count(spec.cores.physical)),
        ("logical cores", count(spec.cores.logical)),
        ("features", features.join(" ")),
        ("targets that run here", runnable.join(" ")),
    ];
    let mut out = format!("{:<22} VALUE\n", "PROPERTY");
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<22} {value}");
    }
    let _ = writeln!(out, "\n{:<22} {:>12}   SHARED BY", "CACHE", "SIZE");
    for (name, cache) in [
        ("L1 data", &spec.cache.l1d),
        ("L2", &spec.cache.l2),
        ("L3", &spec.cache.l3),
    ] {
        let _ = writeln!(
            out,
            "{name:<22} {:>12}   {}",
            size(cache.as_ref()),
            sharers(cache.as_ref())
        );
    }
    let line = spec
        .cache
        .line_bytes
        .map_or_else(|| "unknown".to_owned(), |bytes| format!("{bytes} B"));
    let _ = writeln!(out, "{:<22} {line:>12}", "line");
    out
}

fn size(cache: Option<&Cache>) -> String {
    match cache {
        None => "unknown".to_owned(),
        Some(cache) if cache.bytes % (1 << 20) == 0 => format!("{} MiB", cache.bytes >> 20),
        Some(cache) => format!("{} KiB", cache.bytes >> 10),
    }
}

fn sharers(cache: Option<&Cache>) -> String {
    match cache.and_then(|cache| cache.sharers) {
        None => "unknown".to_owned(),
        Some(1) => "1 logical core".to_owned(),
        Some(n) => format!("{n} logical cores"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_calls_the_unknown_unknown() {
        let mut spec = machine::native();
        spec.cache.l2 = None;
        spec.cache.l1d = Some(Cache {
            bytes: 48 << 10,
            sharers: Some(2),
        });
        spec.cores.physical = None;
        spec.microarchitecture = None;
        let table = table(&spec, &["baseline".to_owned()]);
        let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(table.starts_with("PROPERTY"));
        assert!(row("microarchitecture").ends_with("unknown"));
        assert!(row("physical cores").ends_with("unknown"));
        assert_eq!(row("L2 ").matches("unknown").count(), 2);
        assert!(row("L1 data").contains("48 KiB   2 logical cores"));
        assert!(row("targets that run here").ends_with("baseline"));
    }
}
