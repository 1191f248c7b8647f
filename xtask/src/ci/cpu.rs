//! The steps about CPUs that this machine is not: wrong ones get a sentence, and every image gives the same tokens.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sterna_codegen::kernels::Isa;
use sterna_codegen::target::Arch;

use super::Context;
use super::image::{AARCH64, AARCH64_TRIPLE, X86_64, folder, need_aarch64_toolchain};
use super::report::Report;
use crate::test;
use crate::tool;

/// Exit status of the guard.
const WRONG_CPU: i32 = 78;

const QEMU: &str = "install user-mode emulation (Debian: qemu-user-static)";

/// An image, a CPU that cannot run it, a feature that it lacks, and the image to take instead.
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("avx2", "Nehalem", "avx2", "baseline"),
    ("avx512vnni", "Haswell", "avx512vnni", "avx2"),
];

/// The program in an image that [`super::image::build`] built.
fn binary(target: &str) -> Result<PathBuf> {
    let path = folder(target).join("rootfs/sterna");
    ensure!(path.is_file(), "no {}: the step `images` builds it", path.display());
    Ok(path)
}

/// How many times the work of an interpreter the tests may take (`runtime/tests/levels.rs`): qemu translates.
const QEMU_WORK: &str = "4";

/// Tests that are left out on an emulated Arm. The first starts itself again and dies of a signal, both of which qemu does otherwise; the
/// others take minutes there, and what they give to parsers, or ask of logits, does not depend on the CPU.
const LEFT_OUT: [&str; 4] = [
    "a_fault_elsewhere_still_kills",
    "any_requests_get_the_same_tokens_with_the_log_probabilities_of_their_logits",
    "every_changed_byte_of_the_header_is_an_error_or_a_model",
    "hostile_templates_end",
];

/// Images on emulated CPUs without their features end with status 78, the missing feature and the tag to use.
pub fn wrong_cpu(_: &Context, report: &mut Report) -> Result<()> {
    let qemu = tool::need("qemu-x86_64-static", QEMU)?;
    for &(target, cpu, feature, instead) in WRONG {
        report.check(&format!("the {target} image on a {cpu}"), || {
            let out = tool::output(Command::new(&qemu).args(["-cpu", cpu]).arg(binary(target)?))?;
            ensure!(
                out.code == Some(WRONG_CPU),
                "exit status {:?}: {}",
                out.code,
                out.stderr
            );
            ensure!(
                out.stderr.contains(feature) && out.stderr.contains(instead),
                "{}",
                out.stderr
            );
            // qemu itself warns about what it does not emulate.
            out.stderr
                .lines()
                .filter(|l| !l.starts_with("qemu-"))
                .for_each(|l| println!("   {l}"));
            Ok(())
        });
    }
    Ok(())
}

/// The same prompt gives the same greedy tokens in every image, with 1 and with 2 threads.
pub fn same_tokens(ctx: &Context, report: &mut Report) -> Result<()> {
    let mut expected: Option<(String, Value)> = None;
    for (arch, targets) in [("x86_64", X86_64), ("aarch64", AARCH64)] {
        for (target, threads) in targets.iter().flat_map(|t| [(t, "1"), (t, "2")]) {
            let name = format!("{target}, threads: {threads}");
            report.check(&name, || {
                let tokens = greedy_tokens(ctx, arch, target, threads)?;
                let (first, same) = expected.get_or_insert((name.clone(), tokens.clone()));
                ensure!(tokens == *same, "{tokens}, but {first} gave {same}");
                Ok(())
            });
        }
    }
    Ok(())
}

fn greedy_tokens(ctx: &Context, arch: &str, target: &str, threads: &str) -> Result<Value> {
    let binary = binary(target)?;
    let model = ctx.test_model();
    let model = model.to_str().context("the checkout's path is not UTF-8")?;
    let mut args = vec![
        "run",
        model,
        "Once upon a time there was a tern",
        "--json",
        "--threads",
        threads,
    ];
    args.extend(["--max-tokens", "32", "--temperature", "0", "--ignore-eos"]);
    let out = run_anywhere(arch, &binary, &args)?;
    let json: Value = serde_json::from_str(&out).with_context(|| format!("`run --json` printed: {out}"))?;
    let tokens = json
        .get("tokens")
        .context("no `tokens` in what `run --json` printed")?
        .clone();
    ensure!(
        tokens.as_array().is_some_and(|t| t.len() == 32),
        "not 32 tokens: {tokens}"
    );
    Ok(tokens)
}

/// Runs a binary of `arch` on this CPU or, where that cannot run it, on the best that qemu emulates.
fn run_anywhere(arch: &str, binary: &Path, args: &[&str]) -> Result<String> {
    let native = arch == std::env::consts::ARCH;
    if native {
        let out = tool::output(Command::new(binary).args(args))?;
        if out.code != Some(WRONG_CPU) {
            ensure!(out.code == Some(0), "exit status {:?}: {}", out.code, out.stderr);
            return Ok(out.stdout);
        }
    }
    let qemu = tool::need(&format!("qemu-{arch}-static"), QEMU)?;
    let out = tool::output(Command::new(qemu).args(["-cpu", "max"]).arg(binary).args(args))?;
    match out.code {
        Some(0) => Ok(out.stdout),
        Some(WRONG_CPU) => Err(tool::impossible(
            "neither this CPU nor qemu has the features of this image",
        )),
        code => bail!("exit status {code:?} under qemu: {}", out.stderr),
    }
}

/// The runtime's own tests, the kernels' and the golden ones on an emulated Arm.
pub fn aarch64(_: &Context, report: &mut Report) -> Result<()> {
    need_aarch64_toolchain()?;
    let qemu = tool::need("qemu-aarch64-static", QEMU)?;
    let mut tests = tool::cargo(&[
        "test",
        "--package",
        "sterna",
        "--target",
        AARCH64_TRIPLE,
        "--no-fail-fast",
    ]);
    tests.args(["--lib", "--test", "kernels", "--test", "golden"]);
    tests.arg("--");
    for test in LEFT_OUT {
        tests.args(["--skip", test]);
    }
    let levels = Isa::ALL.iter().filter(|isa| isa.arch() == Arch::Aarch64);
    let levels: Vec<&str> = levels.map(|isa| isa.name()).collect();
    tests.env("STERNA_EMULATED_LEVELS", levels.join(","));
    tests.env("STERNA_EMULATED_WORK", QEMU_WORK);
    let variable = |name: &str| format!("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_{name}");
    tests.env(variable("LINKER"), "aarch64-linux-gnu-gcc");
    tests.env(variable("RUNNER"), format!("{} -cpu max", qemu.display()));
    tests.env(variable("RUSTFLAGS"), "-C target-feature=+crt-static -D warnings");
    let counts = test::count(&mut tests, test::count_libtest)?;
    println!("   {counts}");
    report.tests(counts);
    Ok(())
}
