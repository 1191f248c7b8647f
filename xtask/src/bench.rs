//! `bench`: builds the runtime for one or several targets and measures it, alone or in alternation with another engine.
//!
//! A round is one run of every contestant, so that a slow minute of a shared machine is slow for all of them; ratios are
//! taken within rounds.

mod figures;
mod rounds;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cpu::Machine;
use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::{compile, machine, print, targets, tool, workspace};
use figures::{Figure, Kind, Pattern};
use rounds::{Comparison, Outcome};

/// Build the runtime and measure it with a model, alone or against others
///
/// One target and nothing to compare with: runs `sterna bench` of that build. Otherwise all contestants take turns, one run each a
/// round; a first round warms up and does not count.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench model.gguf
  cargo xtask bench model.gguf --target native,avx2,universal -- --threads 2 --context 0
  cargo xtask bench model.gguf --compare 'llama-bench -m model.gguf -t 2 -p 128 -n 64' \\
      -- --threads 2 --prefill 128 --context 0

What the other command prints is understood when it is llama-bench's table or JSON, the timings that llama.cpp's programs
end with, or a report of `sterna bench --json`.")]
pub struct Args {
    /// GGUF file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Builds to measure: names, aliases, paths, `native`; several by comma, the first is what others are compared with
    #[arg(
        long,
        visible_alias = "targets",
        value_name = "TARGET",
        value_delimiter = ',',
        default_value = "native"
    )]
    target: Vec<String>,
    /// Shell command of another engine's benchmark; may be given several times
    #[arg(long, value_name = "COMMAND")]
    compare: Vec<String>,
    /// Regular expression for its output: groups named `prefill` and `decode`, or the first group for decode; the last match counts
    #[arg(long, value_name = "REGEX", requires = "compare")]
    compare_pattern: Option<String>,
    /// Tokens that the command generates, where it prints no rate: it is then taken from the whole command's time
    #[arg(long, value_name = "N", requires = "compare", conflicts_with = "compare_pattern")]
    compare_tokens: Option<u64>,
    /// Rounds that count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Arguments for `sterna bench`; in rounds, `--repeats 1` unless given
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Who takes part in a round.
#[derive(Debug)]
enum Contestant {
    Ours { name: String, binary: PathBuf },
    Theirs { name: String, command: String },
}

/// Builds, runs, compares.
pub fn run(args: &Args) -> Result<()> {
    let pattern = args.compare_pattern.as_deref().map(Pattern::new).transpose()?;
    let specs = targets::resolve(&workspace::targets_dir(), &args.target)?;
    let here = Machine::detect();
    if let Some(spec) = specs.iter().find(|spec| !machine::runs(&here, spec)) {
        bail!(
            "this machine cannot run the target {}: `cargo xtask detect` shows which it can",
            spec.name
        );
    }
    if !args.model.exists() {
        bail!("{} does not exist", args.model.display());
    }
    let progress = Progress::new();
    let mut contestants = Vec::new();
    for spec in &specs {
        let toolchain = Toolchain::find(spec.arch)?;
        let binary = compile::compile(spec, &toolchain, &progress)?.binary;
        let name = spec.name.clone();
        let binary = store(&name, &binary)?;
        contestants.push(Contestant::Ours { name, binary });
    }
    if let ([Contestant::Ours { binary, .. }], []) = (&contestants[..], &args.compare[..]) {
        progress.finish();
        return alone(binary, args);
    }
    contestants.extend(args.compare.iter().map(|command| Contestant::Theirs {
        name: short_name(command),
        command: command.clone(),
    }));
    let pattern = pattern.unwrap_or_default();
    let turns = u64::from(args.rounds + 1) * contestants.len() as u64;
    progress.stage(turns, "taking turns");
    let mut all = Vec::new();
    for round in 0..=args.rounds {
        let mut outcomes = Vec::new();
        for contestant in &contestants {
            progress.step(&format!("round {round} of {}: {}", args.rounds, contestant.name()));
            outcomes.push(contestant.turn(args, &pattern)?);
        }
        if round > 0 {
            all.push(outcomes);
        }
    }
    progress.finish();
    let names = contestants
        .iter()
        .map(|contestant| contestant.name().to_owned())
        .collect();
    let comparison = Comparison::new(names, &all);
    print(&if args.json {
        serde_json::to_string_pretty(&comparison)? + "\n"
    } else {
        comparison.table()
    })
}

/// `sterna bench` as it is, on this terminal.
fn alone(binary: &Path, args: &Args) -> Result<()> {
    let mut command = Command::new(binary);
    command.arg("bench").arg(&args.model).args(&args.args);
    if args.json {
        command.arg("--json");
    }
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    if !status.success() {
        bail!("sterna bench ended with {status}");
    }
    Ok(())
}

impl Contestant {
    fn name(&self) -> &str {
        match self {
            Contestant::Ours { name, .. } | Contestant::Theirs { name, .. } => name,
        }
    }

    fn turn(&self, args: &Args, pattern: &Pattern) -> Result<Outcome> {
        let began = Instant::now();
        match self {
            Contestant::Ours { binary, .. } => {
                let mut command = Command::new(binary);
                command.arg("bench").arg(&args.model).arg("--json").args(&args.args);
                if !args.args.iter().any(|arg| arg.starts_with("--repeats")) {
                    command.args(["--repeats", "1"]);
                }
                let figures = Pattern::default().read(&tool::run(&mut command)?);
                let wall_s = began.elapsed().as_secs_f64();
                Ok(Outcome { figures, wall_s })
            }
            Contestant::Theirs { command, .. } => {
                let output = tool::output(Command::new("sh").args(["-c", command]))?;
                let wall_s = began.elapsed().as_secs_f64();
                let text = output.stdout + "\n" + &output.stderr;
                if output.code != Some(0) {
                    let end: Vec<&str> = text.lines().rev().take(20).collect();
                    let end: Vec<&str> = end.into_iter().rev().collect();
                    bail!("`{command}` failed:\n{}", end.join("\n"));
                }
                let mut figures = pattern.read(&text);
                figures.extend(args.compare_tokens.map(|tokens| whole(tokens, wall_s)));
                Ok(Outcome { figures, wall_s })
            }
        }
    }
}

/// All of a command's time for the tokens that it generates.
fn whole(tokens: u64, wall_s: f64) -> Figure {
    Figure {
        kind: Kind::Decode,
        tokens: None,
        context: 0,
        threads: None,
        sequences: 1,
        tokens_per_s: tokens as f64 / wall_s,
    }
}

/// Stores a binary in the target folder, where it can be run.
pub fn store(name: &str, binary: &[u8]) -> Result<PathBuf> {
    let path = workspace::target_dir().join("bench").join(name).join("sterna");
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().context("a path with a folder")?).with_context(failed)?;
    // Not over a binary that somebody may be running.
    let new = path.with_extension("new");
    fs::write(&new, binary).with_context(failed)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).with_context(failed)?;
    fs::rename(&new, &path).with_context(failed)?;
    Ok(path)
}

/// The program of a command line, for a column's head: `llama-bench` of `OMP_NUM_THREADS=2 ./bin/llama-bench -m x`.
fn short_name(command: &str) -> String {
    let program = command.split_whitespace().find(|word| !word.contains('='));
    let program = program.and_then(|program| program.rsplit('/').next());
    program.unwrap_or(command).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_named_after_its_program() {
        assert_eq!(short_name("OMP_NUM_THREADS=2 ./bin/llama-bench -m x"), "llama-bench");
        assert_eq!(short_name("bench"), "bench");
        assert_eq!(short_name(""), "");
    }

    #[test]
    fn another_command_s_turn_is_parsed_timed_and_its_failure_shown() {
        let args = |tokens| Args {
            model: PathBuf::from("m"),
            target: Vec::new(),
            compare: Vec::new(),
            compare_pattern: None,
            compare_tokens: tokens,
            rounds: 1,
            json: false,
            args: Vec::new(),
        };
        let turn = |command: &str, tokens, pattern: &str| {
            let theirs = Contestant::Theirs {
                name: String::new(),
                command: command.to_owned(),
            };
            let pattern = if pattern.is_empty() {
                Pattern::default()
            } else {
                Pattern::new(pattern).unwrap()
            };
            theirs.turn(&args(tokens), &pattern)
        };
        // Standard error counts as well, as llama.cpp's programs report there.
        let outcome = turn("echo 'rate 12.5 t/s' >&2", None, r"rate ([\d.]+)").unwrap();
        assert_eq!(outcome.figures.len(), 1);
        assert_eq!(outcome.figures[0].tokens_per_s, 12.5);
        let outcome = turn("sleep 0.05", Some(10), "").unwrap();
        assert!((1.0..=200.0).contains(&outcome.figures[0].tokens_per_s), "{outcome:?}");
        assert!(outcome.wall_s >= 0.05);
        assert!(turn("true", None, "").unwrap().figures.is_empty());
        let error = turn("echo no model; exit 3", None, "").unwrap_err().to_string();
        assert!(error.contains("no model"), "{error}");
    }
}
