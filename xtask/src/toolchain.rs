//! The compilers for one architecture, tried out before anything long begins.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sterna_codegen::target::Arch;

/// What compiles and links for an architecture.
#[derive(Debug)]
pub struct Toolchain {
    /// Rust target triple.
    pub triple: String,
    /// `rustc --version`.
    pub version: String,
    /// Where rustc keeps its libraries.
    pub sysroot: PathBuf,
    /// The environment variable that names the linker to Cargo, and the linker; none for the host's own.
    pub linker: Option<(String, OsString)>,
}

impl Toolchain {
    /// Finds the compilers and links an empty static program with them; an error says what to install.
    pub fn find(arch: Arch) -> Result<Toolchain> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let ask = |args: &[&str]| -> Result<String> {
            let output = Command::new(&rustc).args(args).output();
            let output = output.context("cannot start rustc: install Rust from https://rustup.rs")?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let verbose = ask(&["-vV"])?;
        let host = verbose
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .unwrap_or_default();
        let triple = format!("{}-unknown-linux-gnu", arch.rust_name());
        let native = host.starts_with(arch.rust_name()) && host.contains("-linux-");
        let toolchain = Toolchain {
            version: verbose.lines().next().unwrap_or_default().to_owned(),
            sysroot: PathBuf::from(ask(&["--print", "sysroot"])?),
            linker: linker(&triple, arch, native, |name| std::env::var_os(name)),
            triple,
        };
        toolchain.probe(&rustc, native)?;
        Ok(toolchain)
    }

    /// Links an empty program, statically, as the image's will be.
    fn probe(&self, rustc: &OsString, native: bool) -> Result<()> {
        let out = std::env::temp_dir().join(format!("sterna-probe-{}", std::process::id()));
        let mut command = Command::new(rustc);
        command.args([
            "-",
            "--crate-name",
            "probe",
            "--crate-type",
            "bin",
            "--target",
            &self.triple,
        ]);
        command.args(["-C", "target-feature=+crt-static", "-o"]).arg(&out);
        if let Some((_, linker)) = &self.linker {
            let mut flag = OsString::from("linker=");
            flag.push(linker);
            command.arg("-C").arg(flag);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start rustc")?;
        child
            .stdin
            .take()
            .context("rustc has no standard input")?
            .write_all(b"fn main() {}")?;
        let output = child.wait_with_output()?;
        let _ = std::fs::remove_file(&out); // not there when the probe failed
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let mut install = missing(&stderr, &self.triple, native);
        // Without the standard library rustc does not come to link: try the linker by itself.
        let linker = self
            .linker
            .as_ref()
            .map_or_else(|| "cc".into(), |(_, linker)| linker.clone());
        let has_linker = Command::new(&linker)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success());
        if !has_linker && !install.contains(&compiler(&self.triple, native)) {
            install.push(compiler(&self.triple, native));
        }
        if install.is_empty() {
            bail!("cannot link a static program for {}:\n{stderr}", self.triple);
        }
        bail!(
            "cannot build for {}: install what is missing\n  {}",
            self.triple,
            install.join("\n  ")
        )
    }
}

/// The user's choice of linker, or for a foreign architecture the customary name of its gcc.
fn linker(
    triple: &str,
    arch: Arch,
    native: bool,
    env: impl Fn(&str) -> Option<OsString>,
) -> Option<(String, OsString)> {
    let variable = format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_"));
    let customary = || (!native).then(|| OsString::from(format!("{}-linux-gnu-gcc", arch.rust_name())));
    let linker = env(&variable).or_else(customary)?;
    Some((variable, linker))
}

/// What to install, judged by what rustc said.
fn missing(stderr: &str, triple: &str, native: bool) -> Vec<String> {
    let mut install = Vec::new();
    if stderr.contains("can't find crate for `std`") {
        install.push(format!(
            "Rust's standard library for {triple}: `rustup target add {triple}`, or set RUSTC to a compiler that has it"
        ));
    }
    if stderr.contains("linker `") && stderr.contains("not found") {
        install.push(compiler(triple, native));
    }
    if stderr.contains("cannot find -lc") || stderr.contains("unable to find library -lc") {
        install.push("the static C library: `libc6-dev` (Debian, Ubuntu), `glibc-static` (Fedora)".to_owned());
    }
    install
}

fn compiler(triple: &str, native: bool) -> String {
    match triple.split('-').next() {
        _ if native => "a C compiler: `gcc` or `clang`".to_owned(),
        Some("aarch64") => "a C compiler for 64-bit Arm: `gcc-aarch64-linux-gnu` and `libc6-dev-arm64-cross` (Debian, \
                            Ubuntu), `gcc-aarch64-linux-gnu` (Fedora), `aarch64-linux-gnu-gcc` (Arch)"
            .to_owned(),
        _ => "a C compiler for x86-64: `gcc-x86-64-linux-gnu` and `libc6-dev-amd64-cross` (Debian, Ubuntu)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM: &str = "aarch64-unknown-linux-gnu";

    #[test]
    fn what_rustc_says_becomes_what_to_install() {
        let no_std = "error[E0463]: can't find crate for `std`\n  = note: the target may not be installed";
        assert!(missing(no_std, ARM, false)[0].contains("rustup target add aarch64-unknown-linux-gnu"));
        let no_linker = "error: linker `aarch64-linux-gnu-gcc` not found";
        assert!(missing(no_linker, ARM, false)[0].contains("gcc-aarch64-linux-gnu"));
        let no_libc = "/usr/bin/ld: cannot find -lc: No such file or directory";
        assert!(missing(no_libc, "x86_64-unknown-linux-gnu", true)[0].contains("glibc-static"));
        assert!(missing("error: something else", ARM, false).is_empty());
    }

    #[test]
    fn the_linker_is_the_users_or_the_customary_one_or_the_hosts() {
        let own = |name: &str| (name == "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER").then(|| "my-gcc".into());
        assert_eq!(linker(ARM, Arch::Aarch64, false, own).unwrap().1, "my-gcc");
        assert_eq!(
            linker(ARM, Arch::Aarch64, false, |_| None).unwrap().1,
            "aarch64-linux-gnu-gcc"
        );
        assert_eq!(linker(ARM, Arch::Aarch64, true, |_| None), None);
    }
}
