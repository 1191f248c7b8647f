//! The steps that ask the Rust toolchain: format, lints, tests.

use std::process::Command;

use anyhow::Result;

use super::Context;
use super::report::Report;
use crate::test;
use crate::tool;

/// Prints which compilers ran and what this CPU can do, so that a log explains itself.
pub fn print_versions() {
    let first_line = |program: &str, args: &[&str]| match tool::run(Command::new(program).args(args)) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(_) => "not here".to_owned(),
    };
    println!("== versions");
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    for (program, args) in [
        ("rustc", ["--version"]),
        ("cargo", ["--version"]),
        (cc.as_str(), ["--version"]),
        ("aarch64-linux-gnu-gcc", ["--version"]),
        ("podman", ["--version"]),
        ("docker", ["--version"]),
        ("qemu-x86_64-static", ["--version"]),
        ("docker-registry", ["--version"]),
    ] {
        println!("   {program}: {}", first_line(program, &args));
    }
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for key in ["model name", "flags", "Features"] {
        if let Some(line) = cpuinfo.lines().find(|l| l.starts_with(key)) {
            println!("   {}", line.replace('\t', ""));
        }
    }
}

/// `cargo fmt --check`.
pub fn fmt(_: &Context, _: &mut Report) -> Result<()> {
    tool::run(&mut tool::cargo(&["fmt", "--all", "--check"]))?;
    Ok(())
}

/// `cargo clippy` with warnings as errors.
pub fn clippy(_: &Context, _: &mut Report) -> Result<()> {
    tool::run(&mut tool::cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(())
}

/// `cargo xtask test`.
pub fn test(_: &Context, report: &mut Report) -> Result<()> {
    let counts = test::run_tests()?;
    println!("   {counts}");
    report.tests(counts);
    Ok(())
}

/// `cargo xtask codegen --check`: the committed renderings are what the generator makes.
pub fn goldens(ctx: &Context, _: &mut Report) -> Result<()> {
    ctx.xtask(&["codegen", "--check"]).map(drop)
}
