//! Running other programs from a step: one place where output is captured, missing tools are named, and
//! a failure shows what the program said.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Why a check could not run here; the runner turns it into a failure or a printed SKIP.
#[derive(Debug)]
pub struct CannotRun {
    /// What is not here, and how to get it.
    pub reason: String,
    /// True when no installation would help, such as a CPU feature that nothing here can emulate:
    /// then it is a SKIP in CI too.
    pub even_in_ci: bool,
}

impl fmt::Display for CannotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for CannotRun {}

/// A tool that an installation would bring: a failure in CI, a SKIP elsewhere.
pub fn missing(what: &str, how: &str) -> anyhow::Error {
    let reason = format!("{what} is not here; {how}");
    CannotRun {
        reason,
        even_in_ci: false,
    }
    .into()
}

/// Something this machine cannot do whatever is installed: a SKIP everywhere.
pub fn impossible(reason: impl Into<String>) -> anyhow::Error {
    CannotRun {
        reason: reason.into(),
        even_in_ci: true,
    }
    .into()
}

/// Fails with [`missing`] unless `program` is on the PATH.
pub fn need(program: &str, how: &str) -> Result<PathBuf> {
    find(program).ok_or_else(|| missing(program, how))
}

/// Where `program` is on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}

/// The cargo that runs this program, with `args`.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// What a finished program left.
#[derive(Debug)]
pub struct Output {
    /// Exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `command` without a terminal and returns what it left, whatever its exit status.
pub fn output(command: &mut Command) -> Result<Output> {
    let out = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Output {
        code: out.status.code(),
        stdout: text(out.stdout),
        stderr: text(out.stderr),
    })
}

/// Runs `command` to success and returns its standard output; a failure carries the end of what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let out = output(command)?;
    if out.code == Some(0) {
        return Ok(out.stdout);
    }
    let how = out.code.map_or("a signal".to_owned(), |c| format!("exit status {c}"));
    bail!(
        "{} ended with {how}\n{}{}",
        line(command),
        tail(&out.stdout),
        tail(&out.stderr)
    )
}

/// The command as a person would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The last lines of a program's output: a compiler's errors stand at its end.
fn tail(text: &str) -> String {
    const LINES: usize = 60;
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LINES);
    lines[from..].iter().map(|l| format!("    {l}\n")).collect()
}
