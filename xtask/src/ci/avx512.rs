//! The step about levels of x86-64 that the CPU at hand lacks: their kernels' tests, on an emulated CPU that has them. It takes minutes of
//! one core, so it has two parts: [`begin`], and [`run`] some steps later.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::Message;
use sterna_codegen::kernels::Isa;
use sterna_codegen::target::Arch;

use super::Context;
use super::bochs;
use super::initramfs::Initramfs;
use super::report::Report;
use crate::cpu::Machine;
use crate::test;
use crate::tool;

/// What Bochs has.
const EMULATED: &[Isa] = &[Isa::Avx512, Isa::Avx512vnni, Isa::Avx512vbmi];

/// The tests that run on the emulated CPU: a crate of tests, and what their names contain. Not the library's own, which
/// compare with the baseline's bits: `vcvtps2ph` of Bochs 2.7 rounds half of the smallest f16 up, where SSE2 code rounds to even as it
/// should. So what rounds to f16 is not proved here; references of the crates below use the same instruction.
const TESTS: &[(&str, &str)] = &[("kernels", ""), ("golden", "the_nano_model")];

/// Tests that run on an emulated PC.
pub struct Emulated {
    pc: bochs::Pc,
    /// Files of tests.
    files: usize,
}

/// Begins the tests of what this CPU lacks and Bochs has. [`run`] says what became of them, also where they cannot begin.
pub fn begin(ctx: &Context, _: &mut Report) -> Result<()> {
    if let Ok((emulated, _)) = lacking()
        && !emulated.is_empty()
    {
        ctx.emulated.set(Some(emulate(ctx, &emulated)));
    }
    Ok(())
}

/// Waits for what [`begin`] began; a level that neither this CPU nor Bochs has is a printed SKIP.
pub fn run(ctx: &Context, report: &mut Report) -> Result<()> {
    let (_, neither) = lacking()?;
    if let Some(begun) = ctx.emulated.take() {
        let Emulated { pc, files } = begun?;
        let printed = pc.wait()?;
        let counts = test::count_libtest(&printed).with_context(|| format!("no test ran\n{printed}"))?;
        if counts.failed > 0 {
            print!("{printed}");
        }
        println!("   {counts}");
        report.tests(counts);
        let ended_well = printed.lines().filter(|line| line.ends_with(": exit status 0")).count();
        ensure!(
            counts.failed > 0 || ended_well == files,
            "not every file of tests ended well\n{printed}"
        );
    } else {
        println!("   this CPU has every level of AVX-512: the step `test` ran their kernels, nothing to emulate");
    }
    for isa in neither {
        report.check(isa.name(), || {
            Err(tool::impossible("neither this CPU nor Bochs has it"))
        });
    }
    Ok(())
}

/// Levels of x86-64 that this CPU lacks: those that Bochs has, and the others.
fn lacking() -> Result<(Vec<Isa>, Vec<Isa>)> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(tool::impossible("only an x86-64 machine builds these tests"));
    }
    let here = Machine::detect();
    let lacking = |isa: &Isa| isa.arch() == Arch::X86_64 && !isa.features().iter().all(|f| here.has(f.name()));
    let lacking = Isa::ALL.iter().copied().filter(lacking);
    Ok(lacking.partition(|isa| EMULATED.contains(isa)))
}

fn emulate(ctx: &Context, levels: &[Isa]) -> Result<Emulated> {
    let names: Vec<&str> = levels.iter().map(|isa| isa.name()).collect();
    println!("   emulated: {}", names.join(", "));
    let folder = ctx.scratch("avx512")?;
    let mut archive = Initramfs::new()?;
    let mut list = format!("STERNA_EMULATED_LEVELS={}\n", names.join(","));
    let mut libraries = BTreeSet::new();
    let binaries = binaries()?;
    let tests = match &ctx.filter {
        Some(filter) => vec![("kernels", filter.as_str())],
        None => TESTS.to_vec(),
    };
    for &(name, filter) in &tests {
        let binary = binaries
            .get(name)
            .with_context(|| format!("cargo built no tests named {name}"))?;
        let stripped = folder.join(name);
        tool::run(Command::new("strip").arg("-o").args([&stripped, binary]))?;
        archive.add(format!("bin/{name}"), 0o755, &std::fs::read(&stripped)?)?;
        libraries.extend(shared_libraries(binary)?);
        list += &format!("/bin/{name} --test-threads=1 {filter}\n");
    }
    for library in &libraries {
        archive.add_as_here(library)?;
    }
    archive.add_as_here(&ctx.root.join("runtime/tests/data"))?;
    archive.add("tests", 0o644, list.as_bytes())?;
    Ok(Emulated {
        pc: bochs::start(archive, &folder)?,
        files: tests.len(),
    })
}

/// The tests' binaries as `cargo test` builds and runs them here: after the step `test` they are there already, since the packages are the same.
fn binaries() -> Result<HashMap<String, PathBuf>> {
    let mut build = tool::cargo(&["test", "--workspace", "--no-run", "--message-format", "json"]);
    build.args(["--test", "kernels", "--test", "golden"]);
    let said = tool::run(&mut build)?;
    let mut found = HashMap::new();
    for message in Message::parse_stream(said.as_bytes()) {
        if let Message::CompilerArtifact(artifact) = message?
            && let Some(binary) = artifact.executable.filter(|_| artifact.profile.test)
        {
            found.insert(artifact.target.name, binary.into_std_path_buf());
        }
    }
    Ok(found)
}

/// The loader and the libraries that a program is linked with.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = tool::run(Command::new("ldd").arg(program))?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, and the loader without an arrow.
    let paths = said
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let paths: Vec<_> = paths.map(PathBuf::from).collect();
    if paths.is_empty() {
        bail!("ldd found no library of {}: {said}", program.display());
    }
    Ok(paths)
}
