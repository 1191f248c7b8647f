//! From a target to the runtime's static binary: one `cargo build` whose result depends on the source, the
//! target and the compilers, and on nothing else of the machine it runs on.
//!
//! Rust code is always compiled for the architecture's baseline; only the generated kernels are wider. All targets
//! of an architecture share Cargo's target folder and flags, so that the dependencies compile once.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Message, Metadata, MetadataCommand, PackageId};
use sterna_codegen::target::TargetSpec;

use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::workspace;

/// What came out of the compilers.
#[derive(Debug)]
pub struct Compiled {
    /// The static binary.
    pub binary: Vec<u8>,
    /// `plan.json`: every knob of the kernels with its reason.
    pub plan: Vec<u8>,
}

/// Compiles the runtime for `spec`.
pub fn compile(spec: &TargetSpec, toolchain: &Toolchain, progress: &Progress) -> Result<Compiled> {
    let mut command = Command::new(cargo());
    command
        .current_dir(workspace::root())
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "sterna",
            "--bin",
            "sterna",
        ])
        .args([
            "--target",
            &toolchain.triple,
            "--message-format",
            "json-render-diagnostics",
        ])
        .arg("--target-dir")
        .arg(workspace::target_dir())
        .env("STERNA_TARGET", write_spec(spec)?)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain)?)
        .stdout(Stdio::piped());
    if progress.is_bar() {
        command.arg("--quiet"); // two bars would fight
    }
    if let Some((variable, linker)) = &toolchain.linker {
        command.env(variable, linker);
    }
    ignored_variables().for_each(|name| {
        command.env_remove(name);
    });
    progress.stage(
        steps(&toolchain.triple),
        &format!("{}: compiling for {}", spec.name, toolchain.triple),
    );
    let mut child = command.spawn().context("cannot start cargo")?;
    let messages = child.stdout.take().context("cargo has no standard output")?;
    let found = follow(Message::parse_stream(BufReader::new(messages)), &spec.name, progress)?;
    if !child.wait()?.success() {
        bail!("cargo could not build the target {}: see above", spec.name);
    }
    let (binary, out_dir) = found.context("cargo built no `sterna` binary")?;
    let binary = std::fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    if let Some(leak) = find_leak(&binary, &private_paths()) {
        bail!("the binary holds a path of this machine, so it would differ on another: `{leak}`");
    }
    let plan = out_dir.join("plan.json");
    let plan = std::fs::read(&plan).with_context(|| format!("build.rs left no {}", plan.display()))?;
    Ok(Compiled { binary, plan })
}

/// Throws away what Cargo has compiled of the runtime itself, so that the next build is one.
pub fn forget(toolchain: &Toolchain) -> Result<()> {
    let status = Command::new(cargo())
        .current_dir(workspace::root())
        .args([
            "clean",
            "--quiet",
            "--release",
            "--package",
            "sterna",
            "--target",
            &toolchain.triple,
        ])
        .arg("--target-dir")
        .arg(workspace::target_dir())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo could not clean up: see above");
    }
    Ok(())
}

/// Environment variables that would change the image without being part of its source or target. Cargo's own
/// `CARGO_ENCODED_RUSTFLAGS`, which is set above, already overrules every other source of Rust flags.
pub fn ignored_variables() -> impl Iterator<Item = String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| is_ignored(name))
}

fn is_ignored(name: &str) -> bool {
    let c_flags = name == "CFLAGS" || name.starts_with("CFLAGS_") || name.ends_with("_CFLAGS");
    let rust_flags = name == "RUSTFLAGS" || (name.starts_with("CARGO_") && name.ends_with("_RUSTFLAGS"));
    c_flags || rust_flags || name.starts_with("CARGO_PROFILE_")
}

/// Reads cargo's messages to the end: the binary and the package's OUT_DIR, if there was a binary.
fn follow(
    messages: impl Iterator<Item = std::io::Result<Message>>,
    target: &str,
    progress: &Progress,
) -> Result<Option<(PathBuf, PathBuf)>> {
    let mut out_dirs: HashMap<PackageId, PathBuf> = HashMap::new();
    let mut binary = None;
    let (mut compiled, mut reused) = (0, 0);
    for message in messages {
        match message.context("cargo's messages cannot be read")? {
            Message::BuildScriptExecuted(script) => {
                out_dirs.insert(script.package_id, script.out_dir.into_std_path_buf());
            }
            Message::CompilerArtifact(artifact) => {
                *(if artifact.fresh { &mut reused } else { &mut compiled }) += 1;
                progress.step(&format!("{target}: {}", artifact.target.name));
                if let Some(executable) = artifact.executable.filter(|_| artifact.target.name == "sterna") {
                    binary = Some((executable.into_std_path_buf(), artifact.package_id));
                }
            }
            _ => {}
        }
    }
    let Some((binary, package)) = binary else {
        return Ok(None);
    };
    progress.line(&format!("{target}: compiled {compiled} units, reused {reused}"));
    let out_dir = out_dirs
        .remove(&package)
        .context("cargo ran no build script for `sterna`")?;
    Ok(Some((binary, out_dir)))
}

/// Where the resolved target of that name is stored for `build.rs`. Written only when it changes, since Cargo
/// goes by the time of the file.
fn write_spec(spec: &TargetSpec) -> Result<PathBuf> {
    let path = workspace::target_dir()
        .join("xtask/targets")
        .join(format!("{}.toml", spec.name));
    let text = spec.to_toml();
    if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
        std::fs::create_dir_all(path.parent().context("a path with a folder")?)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

/// Static linking, and no path of this machine in panic messages. Joined as `CARGO_ENCODED_RUSTFLAGS` wants it.
fn rustflags(toolchain: &Toolchain) -> Result<OsString> {
    let mut flags = vec![OsString::from("-C"), OsString::from("target-feature=+crt-static")];
    // Of several prefixes that match, rustc takes the last.
    let remapped = [
        (workspace::root(), "/sterna"),
        (workspace::target_dir(), "/sterna/target"),
        (toolchain.sysroot.clone(), "/rust"),
        (cargo_home()?, "/cargo"),
    ];
    for (from, to) in remapped {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flags.push(flag);
    }
    Ok(flags.join(&OsString::from("\x1f")))
}

/// Paths that must not be found in a binary.
fn private_paths() -> Vec<String> {
    let mut paths = vec![workspace::root(), workspace::target_dir()];
    paths.extend(cargo_home().ok());
    // A folder right under the root, `/src`, is found in many an innocent path.
    paths.retain(|path| path.components().count() > 2);
    paths.extend(std::env::home_dir().filter(|home| home.components().count() > 1));
    paths
        .iter()
        .filter_map(|path| path.to_str())
        .map(|path| format!("{path}/"))
        .collect()
}

/// The first text of `binary` that contains one of the paths.
fn find_leak(binary: &[u8], paths: &[String]) -> Option<String> {
    paths.iter().find_map(|path| {
        let start = binary
            .windows(path.len())
            .position(|window| window == path.as_bytes())?;
        let printable = binary[start..]
            .iter()
            .take(200)
            .take_while(|byte| byte.is_ascii_graphic());
        Some(printable.map(|byte| char::from(*byte)).collect())
    })
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(std::path::absolute(home)?);
    }
    Ok(std::env::home_dir()
        .context("no home folder: set CARGO_HOME")?
        .join(".cargo"))
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// About how many units the build has, for the bar; 0 when cargo does not say.
fn steps(triple: &str) -> u64 {
    let manifest: &Path = &workspace::root().join("Cargo.toml");
    let metadata = MetadataCommand::new()
        .manifest_path(manifest)
        .other_options(vec![
            "--locked".to_owned(),
            "--filter-platform".to_owned(),
            triple.to_owned(),
        ])
        .exec();
    metadata.ok().and_then(|metadata| units(&metadata)).unwrap_or(0)
}

/// The packages that `sterna` is built from, and their build scripts.
fn units(metadata: &Metadata) -> Option<u64> {
    let resolve = metadata.resolve.as_ref()?;
    let nodes: HashMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let root = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "sterna")?;
    let mut seen = vec![&root.id];
    let mut next = 0;
    while let Some(id) = seen.get(next) {
        next += 1;
        let built = |kind: DependencyKind| matches!(kind, DependencyKind::Normal | DependencyKind::Build);
        for dependency in &nodes.get(id)?.deps {
            if dependency.dep_kinds.iter().any(|info| built(info.kind)) && !seen.contains(&&dependency.pkg) {
                seen.push(&dependency.pkg);
            }
        }
    }
    let scripts = |id: &PackageId| {
        let package = metadata.packages.iter().find(|package| package.id == *id);
        package.is_some_and(|package| package.targets.iter().any(|target| target.is_custom_build()))
    };
    Some(seen.iter().map(|id| 1 + u64::from(scripts(id))).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_environment_do_not_reach_an_image() {
        for name in [
            "RUSTFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "CFLAGS",
            "CFLAGS_x86_64_unknown_linux_gnu",
            "TARGET_CFLAGS",
            "CARGO_PROFILE_RELEASE_LTO",
        ] {
            assert!(is_ignored(name), "{name}");
        }
        for name in ["CC", "RUSTC", "RUSTC_WRAPPER", "CARGO_HOME", "CARGO_TARGET_DIR", "PATH"] {
            assert!(!is_ignored(name), "{name}");
        }
    }

    #[test]
    fn a_leaked_path_is_found_and_shown() {
        let paths = ["/home/me/".to_owned()];
        let binary = b"\0\x01lib.rs/home/me/sterna/runtime/main.rs\0more";
        assert_eq!(find_leak(binary, &paths).unwrap(), "/home/me/sterna/runtime/main.rs");
        assert_eq!(find_leak(b"/sterna/runtime/main.rs", &paths), None);
    }

    #[test]
    fn the_bar_knows_about_how_long_it_is() {
        let units = steps("x86_64-unknown-linux-gnu");
        assert!((50..1000).contains(&units), "{units}");
    }
}
