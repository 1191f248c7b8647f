//! Compiles the kernels of one target: `$STERNA_TARGET` -> plan -> C -> `cc`.
//!
//! `STERNA_TARGET` is a name or alias from `images/targets/`, or the path of a target file; without it the build
//! is universal for the architecture. The CPU that this runs on is never inspected: a build for another machine is an
//! ordinary build. Results in OUT_DIR: `bindings.rs` and `abi.rs` for `runtime/kernels`, `plan.json`, the C sources, and one static library a level.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use sterna_codegen::kernels::Isa;
use sterna_codegen::plan::KernelPlan;
use sterna_codegen::render::{self, Templates, Unit};
use sterna_codegen::target::{Arch, TargetError, TargetSpec};

fn main() -> ExitCode {
    let Err(error) = build() else { return ExitCode::SUCCESS };
    // Cargo shows these as errors of the build, and not what a failing `main` would print: a dump of the value.
    error
        .to_string()
        .lines()
        .for_each(|line| println!("cargo::error={line}"));
    ExitCode::FAILURE
}

fn build() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let targets = root.join("images/targets");
    println!("cargo:rerun-if-env-changed=STERNA_TARGET");
    println!("cargo:rerun-if-changed={}", targets.display());

    let arch = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => Arch::X86_64,
        "aarch64" => Arch::Aarch64,
        other => return Err(format!("sterna has no kernels for {other}: build for x86_64 or aarch64").into()),
    };
    let name = env::var("STERNA_TARGET").unwrap_or_else(|_| arch.universal_target().to_owned());
    if name.contains('/') || name.ends_with(".toml") {
        println!("cargo:rerun-if-changed={name}");
    }
    let target = TargetSpec::resolve(&targets, &name).map_err(|error| explain(error, &name))?;
    if target.arch != arch {
        let (wants, is) = (target.arch.rust_name(), arch.rust_name());
        return Err(format!("target {name} is for {wants}, this build is for {is}: pass the matching --target").into());
    }

    let templates = Templates::read(&root.join("templates"))?;
    let plan = templates.share(KernelPlan::new(&target)?)?;
    println!("cargo:rerun-if-changed={}", root.join("templates").display());
    templates
        .files()
        .iter()
        .for_each(|f| println!("cargo:rerun-if-changed={}", f.display()));
    let units = templates.render(&plan)?;
    for variant in plan.variants.iter().filter(|variant| variant.candidate.is_none()) {
        // Its candidates are compiled with it: they are the same level.
        compile(variant.isa, units.iter().filter(|u| u.isa == variant.isa), &out)?;
    }
    fs::write(out.join("bindings.rs"), render::bindings(&plan)?)?;
    fs::write(out.join("abi.rs"), render::abi())?;
    fs::write(out.join("plan.json"), plan.to_json())?;
    Ok(())
}

/// Errors about `STERNA_TARGET`, with the next step.
fn explain(error: TargetError, name: &str) -> String {
    match error {
        TargetError::Unknown { .. } if name == "native" => {
            "STERNA_TARGET=native: a build depends on files alone, never on the \
            CPU that it runs on. Describe this machine with `cargo xtask detect --write NAME` and build with \
            STERNA_TARGET=NAME, or use `cargo xtask build-image --target native`, which does both for an image"
                .to_owned()
        }
        error => format!("STERNA_TARGET={name}: {error}"),
    }
}

/// One static library for one level: its flags reach no other code.
fn compile<'a>(isa: Isa, units: impl Iterator<Item = &'a Unit>, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut build = cc::Build::new();
    build
        .std("gnu11")
        .opt_level(3)
        .debug(false)
        .warnings(true)
        .extra_warnings(true);
    // Not -Werror for users: a newer compiler's new warning must not break their build. CI asks for it (`.ci/run`).
    println!("cargo:rerun-if-env-changed=STERNA_DENY_WARNINGS");
    build.warnings_into_errors(env::var_os("STERNA_DENY_WARNINGS").is_some());
    if build.try_get_compiler()?.is_like_clang() {
        // The partials are vocabularies, of which a unit uses a part: gcc takes their inline functions for that.
        build.flag("-Wno-unused-function");
    }
    // Rounding is part of the kernels' definition: no fused multiply-add. The other two let loops vectorise and change
    // no value: nothing reads errno or the floating-point exception flags.
    build
        .flag("-ffp-contract=off")
        .flag("-fno-math-errno")
        .flag("-fno-trapping-math");
    build
        .flag("-fvisibility=hidden")
        .flag("-ffunction-sections")
        .flag("-fdata-sections");
    isa.flags().iter().for_each(|flag| {
        build.flag(flag);
    });
    for unit in units {
        let path = out.join("kernels").join(&unit.path);
        fs::create_dir_all(path.parent().ok_or("a unit has a folder")?)?;
        fs::write(&path, &unit.source)?;
        build.file(path);
    }
    build.try_compile(&format!("sterna_kernels_{}", isa.name()))?;
    Ok(())
}
