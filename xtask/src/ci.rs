//! `cargo xtask ci`: everything that must hold before a change lands, as one list of named steps.
//!
//! A step is a function; what it checks stands in its own file under `ci/`. With `CI` set in the environment
//! a tool that is not installed is a failure; elsewhere it is a printed SKIP. What this CPU cannot run and no
//! emulator can is a printed SKIP in both.

mod avx512;
mod bochs;
mod clone;
mod cpu;
mod demo;
mod deny;
mod docs;
mod e2e;
mod image;
mod initramfs;
mod push;
mod registry;
mod report;
mod rust;
mod tidy;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{tool, workspace};
use report::Report;

/// How long a step waits for a server it started, on a machine that is busy with another step.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs every check that a change must pass.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run only these steps (see --list)
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these steps out
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    skip: Vec<String>,
    /// In the step `avx512`, run only the kernels' tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Print the steps and stop
    #[arg(long)]
    list: bool,
}

/// What every step may ask for.
pub struct Context {
    /// The root of the checkout.
    root: PathBuf,
    /// What the name of a test must contain to run in the step `avx512`.
    filter: Option<String>,
    /// What the first part of the step `avx512` began and the second waits for.
    emulated: Cell<Option<Result<avx512::Emulated>>>,
}

impl Context {
    /// Runs a verb of this program as a user would and returns what it printed.
    fn xtask(&self, args: &[&str]) -> Result<String> {
        tool::run(Command::new(std::env::current_exe()?).args(args))
    }

    /// An empty folder for one step.
    fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = workspace::target_dir().join("ci").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// The small model that the tests serve.
    fn test_model(&self) -> PathBuf {
        self.root.join("runtime/tests/data/nano-i2_s.gguf")
    }

    /// A Python that has `module`: the environment that `.ci/run` makes, or the one on the PATH.
    fn python(&self, module: &str) -> Result<PathBuf> {
        let own = workspace::target_dir().join("ci/venv/bin/python");
        [own, PathBuf::from("python3")]
            .into_iter()
            .find(|python| {
                let import = tool::output(Command::new(python).args(["-c", &format!("import {module}")]));
                import.is_ok_and(|out| out.code == Some(0))
            })
            .ok_or_else(|| tool::missing(module, "run `pip install -r xtask/e2e/requirements.txt`"))
    }
}

type Run = fn(&Context, &mut Report) -> Result<()>;

/// A step's name, what it proves, and its function; in the order in which they run: what fails fastest first. One that takes long on one core
/// has two parts of one name, with other steps between them.
const STEPS: &[(&str, &str, Run)] = &[
    ("fmt", "rustfmt would change nothing", rust::fmt),
    ("tidy", "small rules about the files", tidy::run),
    ("deny", "dependencies obey deny.toml", deny::policy),
    ("advisories", "no known vulnerability", deny::advisories),
    ("clippy", "no warning in any target", rust::clippy),
    ("doc", "the code's documentation, its links included", rust::doc),
    ("workflows", "GitHub's schema accepts them", docs::workflows),
    ("readme", "its commands exist", docs::readme),
    ("test", "every test, with debug assertions", rust::test),
    ("goldens", "the generator renders what was reviewed", rust::goldens),
    ("avx512", "begins, beside other steps", avx512::begin),
    ("aarch64", "the runtime's tests on an emulated Arm", cpu::aarch64),
    ("images", "a target of each kind builds in its budget", image::build),
    ("bench", "a build beside another program", image::bench),
    (
        "clang",
        "the kernels' tests, compiled by the other compiler",
        rust::clang,
    ),
    (
        "avx512",
        "the kernels' tests of levels that this CPU lacks",
        avx512::run,
    ),
    ("wrong-cpu", "a sentence, not a crash", cpu::wrong_cpu),
    ("same-tokens", "these images give the same answer", cpu::same_tokens),
    ("registry", "push and pull on loopback", push::run),
    ("container", "the image as users run it", e2e::run),
    ("demo", "the demo model is what its page says", demo::run),
    (
        "fresh-clone",
        "README's commands as written, and the same digest",
        clone::run,
    ),
];

/// Runs the chosen steps; an error means that something failed.
pub fn run(args: &Args) -> Result<()> {
    let chosen = choose(&args.only, &args.skip)?;
    if args.list {
        for (name, about, _) in chosen {
            println!("{name:12} {about}");
        }
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ lies in the checkout")
        .to_owned();
    std::env::set_current_dir(&root)?;
    let context = Context {
        root,
        filter: args.filter.clone(),
        emulated: Cell::default(),
    };
    rust::print_versions();
    let mut report = Report::new(std::env::var_os("CI").is_some());
    for (name, about, run) in chosen {
        report.step(name, about, |report| run(&context, report));
    }
    drop(context); // with what still runs in it
    if !report.finish() {
        std::process::exit(1);
    }
    Ok(())
}

fn choose(only: &[String], skip: &[String]) -> Result<Vec<(&'static str, &'static str, Run)>> {
    if let Some(name) = only
        .iter()
        .chain(skip)
        .find(|n| STEPS.iter().all(|s| s.0 != n.as_str()))
    {
        let known: Vec<_> = STEPS.iter().map(|s| s.0).collect();
        bail!("no step named `{name}`; steps: {}", known.join(", "));
    }
    let named = |list: &[String], name: &str| list.iter().any(|n| n == name);
    let chosen = |name: &str| (only.is_empty() || named(only, name)) && !named(skip, name);
    Ok(STEPS.iter().copied().filter(|s| chosen(s.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_name() {
        let names = |only: &[&str], skip: &[&str]| -> Result<Vec<&str>> {
            let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
            Ok(choose(&own(only), &own(skip))?.into_iter().map(|s| s.0).collect())
        };
        assert_eq!(names(&["test", "fmt"], &[]).unwrap(), ["fmt", "test"]);
        assert!(!names(&[], &["test"]).unwrap().contains(&"test"));
        assert_eq!(names(&["avx512"], &[]).unwrap(), ["avx512", "avx512"], "both parts");
        assert!(
            names(&["tset"], &[])
                .unwrap_err()
                .to_string()
                .contains("no step named `tset`")
        );
    }
}
