//! The steps that ask the Rust toolchain: format, lints, documentation, tests.

use std::process::Command;

use anyhow::Result;

use super::Context;
use super::report::Report;
use crate::{test, tool};

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
        ("clang", ["--version"]),
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

/// `cargo doc` with warnings as errors: private items too, where most links are; so a link to one is no fault.
pub fn doc(_: &Context, _: &mut Report) -> Result<()> {
    let mut doc = tool::cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
    tool::run(doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"))?;
    Ok(())
}

/// The kernels' tests once more, with kernels from clang where those of the step `test` are from gcc; its warnings are errors. No later step
/// needs the tests that this leaves: the next build compiles them with the common compiler again.
pub fn clang(_: &Context, report: &mut Report) -> Result<()> {
    tool::need("clang", "install it (Debian: clang)")?;
    let mut tests = tool::cargo(&["test", "--package", "sterna", "--test", "kernels", "--no-fail-fast"]);
    tests.env("CC", "clang").env("STERNA_DENY_WARNINGS", "1");
    let counts = test::count(&mut tests, test::count_libtest)?;
    println!("   {counts}");
    report.tests(counts);
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
