//! `cargo xtask test`: every test of the workspace, with debug assertions.

use std::fmt;
use std::ops::AddAssign;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::tool;

/// Counts of one run of the tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that are ignored unless asked for by name.
    pub skipped: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

/// Runs every test and prints what the runner prints.
pub fn run() -> Result<()> {
    let counts = run_tests()?;
    println!("{counts}");
    if counts.failed > 0 {
        bail!("{} tests failed", counts.failed);
    }
    Ok(())
}

/// Runs every test of the workspace, with `cargo nextest` if it is there (which leaves the documentation's examples to
/// `cargo test`). An error means that the tests could not be built or counted.
pub fn run_tests() -> Result<Counts> {
    if tool::find("cargo-nextest").is_none() {
        return count(
            &mut tool::cargo(&["test", "--workspace", "--no-fail-fast"]),
            count_libtest,
        );
    }
    let quiet = ["--status-level", "fail", "--final-status-level", "fail"];
    let nextest = ["nextest", "run", "--workspace", "--no-fail-fast"];
    let mut counts = count(tool::cargo(&nextest).args(quiet), count_nextest)?;
    counts += count(
        &mut tool::cargo(&["test", "--workspace", "--doc", "--no-fail-fast"]),
        count_libtest,
    )?;
    Ok(counts)
}

/// Runs one cargo command and reads its counts with `read`; prints what it said if a test failed.
pub fn count(command: &mut Command, read: fn(&str) -> Option<Counts>) -> Result<Counts> {
    let out = tool::output(command)?;
    let text = format!("{}{}", out.stdout, out.stderr);
    match read(&text) {
        Some(counts) if (out.code == Some(0)) == (counts.failed == 0) => {
            if counts.failed > 0 {
                print!("{text}");
            }
            Ok(counts)
        }
        _ => bail!("the tests did not build or run\n{text}"),
    }
}

/// Reads `Summary [   0.1s] 3 tests run: 2 passed, 1 failed, 4 skipped`.
fn count_nextest(text: &str) -> Option<Counts> {
    let line = text.lines().rev().find(|l| l.trim_start().starts_with("Summary ["))?;
    let (_, counts) = line.split_once("run:")?;
    let mut sum = Counts::default();
    add(&mut sum, counts, ',');
    Some(sum)
}

/// Adds up every `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
pub fn count_libtest(text: &str) -> Option<Counts> {
    let mut sum = None;
    for line in text.lines() {
        if let Some((_, counts)) = line.split_once("test result: ") {
            let (_, counts) = counts.split_once(". ").context("a verdict before the counts").ok()?;
            add(sum.get_or_insert_default(), counts, ';');
        }
    }
    sum
}

fn add(sum: &mut Counts, text: &str, separator: char) {
    for part in text.split(separator) {
        let mut words = part.split_whitespace();
        let (Some(number), Some(what)) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next()) else {
            continue;
        };
        match what {
            "passed" => sum.passed += number,
            "failed" => sum.failed += number,
            "ignored" | "skipped" => sum.skipped += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_both_runners() {
        let libtest = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                       test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(
            count_libtest(libtest),
            Some(Counts {
                passed: 4,
                failed: 2,
                skipped: 1
            })
        );
        let nextest = "     Summary [   0.012s] 12 tests run: 11 passed (1 slow), 1 failed, 3 skipped";
        assert_eq!(
            count_nextest(nextest),
            Some(Counts {
                passed: 11,
                failed: 1,
                skipped: 3
            })
        );
        assert_eq!(count_libtest("error: could not compile"), None);
        assert_eq!(count_nextest(""), None);
    }
}
