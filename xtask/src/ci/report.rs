//! What `cargo xtask ci` counts and prints: steps with their times, checks inside them, and the last line.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::test::Counts;
use crate::tool::CannotRun;

/// Counts of everything that ran, and the sentences to repeat at the end.
pub struct Report {
    /// In CI a missing tool is a failure, not a SKIP.
    strict: bool,
    counts: Counts,
    times: Vec<(&'static str, Duration)>,
    failures: Vec<String>,
    skips: Vec<String>,
    step: &'static str,
}

impl Report {
    /// An empty report; `strict` makes a missing tool a failure.
    pub fn new(strict: bool) -> Self {
        Report {
            strict,
            counts: Counts::default(),
            times: Vec::new(),
            failures: Vec::new(),
            skips: Vec::new(),
            step: "",
        }
    }

    /// Runs one step. A step that made no check of its own counts as one.
    pub fn step(&mut self, name: &'static str, about: &str, run: impl FnOnce(&mut Report) -> Result<()>) {
        println!("\n== {name}: {about}");
        self.step = name;
        let before = self.counts;
        let start = Instant::now();
        let result = run(self);
        if result.is_err() || self.counts == before {
            self.count(name, result);
        }
        let time = start.elapsed();
        println!("   {name} took {:.1} s", time.as_secs_f64());
        self.times.push((name, time));
    }

    /// Runs one named check of the current step; a failing one does not stop the others.
    pub fn check(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        self.count(name, run());
    }

    /// Adds a test runner's own counts.
    pub fn tests(&mut self, counts: Counts) {
        self.counts += counts;
        if counts.failed > 0 {
            self.failures.push(format!("{}: {} tests", self.step, counts.failed));
        }
    }

    fn count(&mut self, name: &str, result: Result<()>) {
        let Err(error) = result else {
            self.counts.passed += 1;
            println!("   ok      {name}");
            return;
        };
        let what = if name == self.step {
            name.to_owned()
        } else {
            format!("{}: {name}", self.step)
        };
        let skip = error
            .downcast_ref::<CannotRun>()
            .is_some_and(|c| c.even_in_ci || !self.strict);
        if skip {
            self.counts.skipped += 1;
            println!("   SKIP    {name}: {error:#}");
            self.skips.push(format!("{what}: {error:#}"));
        } else {
            self.counts.failed += 1;
            println!("   FAILED  {name}: {error:#}");
            self.failures.push(what);
        }
    }

    /// Prints the times, every SKIP and failure, and last the counts. True when nothing failed.
    pub fn finish(&self) -> bool {
        println!("\n== summary");
        for (name, time) in &self.times {
            println!("   {:>7.1} s  {name}", time.as_secs_f64());
        }
        let total: Duration = self.times.iter().map(|(_, t)| *t).sum();
        println!("   {:>7.1} s  in all", total.as_secs_f64());
        for skip in &self.skips {
            println!("SKIP {skip}");
        }
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        println!("{}", self.counts);
        self.counts.failed == 0
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::tool::{impossible, missing};

    #[test]
    fn missing_tools_fail_only_where_that_is_asked_for() {
        for (strict, failed) in [(true, 1), (false, 0)] {
            let mut report = Report::new(strict);
            report.step("s", "", |r| {
                r.check("tool", || {
                    Err(missing("frobnicator", "install it").context("while starting"))
                });
                r.check("cpu", || Err(impossible("no amx here")));
                Ok(())
            });
            assert_eq!(
                report.counts,
                Counts {
                    passed: 0,
                    failed,
                    skipped: 2 - failed
                }
            );
            assert_eq!(report.finish(), failed == 0);
        }
    }

    #[test]
    fn a_step_counts_its_checks_or_itself() {
        let mut report = Report::new(true);
        report.step("silent", "", |_| Ok(()));
        report.step("broken", "", |_| Err(anyhow!("no")));
        report.step("checks", "", |r| {
            r.check("one", || Ok(()));
            r.check("two", || Ok(()));
            Err(anyhow!("and then it broke"))
        });
        assert_eq!(
            report.counts,
            Counts {
                passed: 3,
                failed: 2,
                skipped: 0
            }
        );
    }
}
