//! The step that builds images, which later steps run, push and compare.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::report::Report;
use crate::build_image::{Built, megabytes};
use crate::tool;
use crate::workspace;

/// What this builds for x86-64: the narrowest level, one for AVX2 and one for AVX-512, and the universal image with the kernels of all.
/// The other targets are the same sources with other numbers; `.github/workflows/images.yml` builds every one.
pub const X86_64: &[&str] = &["baseline", "avx2", "avx512vnni", "universal"];
/// What this cross-builds for 64-bit Arm.
pub const AARCH64: &[&str] = &["neon", "dotprod", "universal-arm64"];
/// Rust's name for it.
pub const AARCH64_TRIPLE: &str = "aarch64-unknown-linux-gnu";

/// Everything that an image's folder must hold.
const ARTEFACTS: &[&str] = &[
    "oci/index.json",
    "image.oci.tar",
    "image.docker.tar",
    "digest.txt",
    "plan.json",
    "rootfs/sterna",
];

/// The folder of an image that [`build`] built.
pub fn folder(target: &str) -> PathBuf {
    workspace::images_dir().join(target)
}

/// The digest that a build wrote into `folder`.
pub fn digest(folder: &Path) -> Result<String> {
    let file = folder.join("digest.txt");
    let text = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// Builds [`X86_64`] and [`AARCH64`]; the budget of an image fails its build.
pub fn build(ctx: &Context, report: &mut Report) -> Result<()> {
    report.check("x86-64", || build_all(ctx, X86_64));
    report.check("64-bit Arm", || {
        if cfg!(not(target_arch = "aarch64")) {
            need_aarch64_toolchain()?;
        }
        build_all(ctx, AARCH64)
    });
    Ok(())
}

/// `cargo xtask bench --compare` of the last image's build, which is compiled already, beside a command that prints what llama-bench does.
pub fn bench(ctx: &Context, _: &mut Report) -> Result<()> {
    let theirs = "printf '| threads | test | t/s |\\n| 1 | pp8 | 2.00 ± 0.10 |\\n| 1 | tg8 | 0.50 ± 0.01 |\\n'";
    let model = ctx.test_model();
    let model = model.to_str().context("the checkout's path is not UTF-8")?;
    let bench = [
        "bench",
        model,
        "--target",
        "universal",
        "--compare",
        theirs,
        "--rounds",
        "1",
        "--json",
        "--",
    ];
    let work = ["--threads", "1", "--prefill", "8", "--decode", "8", "--context", "0"];
    let said = ctx.xtask(&[&bench[..], &work].concat())?;
    let comparison: Value = serde_json::from_str(&said).with_context(|| format!("`bench --json` printed: {said}"))?;
    ensure!(comparison["contestants"] == json!(["universal", "printf"]), "{said}");
    for (row, (kind, theirs)) in [("prefill", 2.0), ("decode", 0.5)].into_iter().enumerate() {
        let row = &comparison["rows"][row];
        let ours = row["by"][0]["tokens_per_s"].as_f64().context("no rate of ours")?;
        ensure!(
            row["kind"] == kind && row["by"][1]["tokens_per_s"] == theirs && ours > 0.0,
            "{said}"
        );
        println!("   {kind}: {ours:.0} tokens/s");
    }
    Ok(())
}

fn build_all(ctx: &Context, targets: &[&str]) -> Result<()> {
    let said = ctx.xtask(&["build-image", "--json", "--target", &targets.join(",")])?;
    for built in said.lines().map(serde_json::from_str) {
        let Built {
            name,
            digest,
            compressed_bytes,
            unpacked_bytes,
            folder,
            ..
        } = built?;
        let (compressed, unpacked) = (megabytes(compressed_bytes), megabytes(unpacked_bytes));
        println!("   {name:24} {compressed} compressed, {unpacked} unpacked, {digest}");
        for artefact in ARTEFACTS {
            ensure!(
                folder.join(artefact).exists(),
                "the build left no {artefact} in {}",
                folder.display()
            );
        }
    }
    Ok(())
}

/// What cross-building for Arm takes, each with how to get it.
pub fn need_aarch64_toolchain() -> Result<()> {
    tool::need(
        "aarch64-linux-gnu-gcc",
        "install the cross compiler (Debian: gcc-aarch64-linux-gnu)",
    )?;
    let print = ["--print", "target-libdir", "--target", AARCH64_TRIPLE];
    let libraries = tool::run(Command::new("rustc").args(print))?;
    if !Path::new(libraries.trim()).is_dir() {
        let how = format!("run `rustup target add {AARCH64_TRIPLE}`");
        return Err(tool::missing("Rust's standard library for Arm", &how));
    }
    Ok(())
}
