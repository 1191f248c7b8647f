//! What was found, for people, for programs, and for the target file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use serde::Serialize;
use sterna_codegen::plan::VariantPlan;
use sterna_codegen::target::{TargetSpec, Tuned, TunedKnob};

use super::destination::Written;
use super::search::Finding;
use crate::cpu::Machine;
use crate::tool;

/// The object of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub target: String,
    pub level: String,
    pub cpu: String,
    pub compiler: String,
    pub findings: Vec<Finding>,
    /// The winners together, measured once more.
    pub confirmed: Vec<Finding>,
    /// What the planner will take; absent when the plan stays as it is.
    pub tuned: Option<Tuned>,
    /// The file, if it changed.
    pub written: Option<Written>,
}

impl Report {
    pub fn new(
        here: &Machine,
        spec: &TargetSpec,
        plan: &VariantPlan,
        findings: Vec<Finding>,
        confirmed: Vec<Finding>,
    ) -> Report {
        let mut report = Report {
            target: spec.name.clone(),
            level: plan.isa.name().to_owned(),
            cpu: here.model_name.clone().unwrap_or_else(|| "unknown".to_owned()),
            compiler: compiler(),
            findings,
            confirmed,
            tuned: None,
            written: None,
        };
        report.tuned = report.tuned(plan);
        report
    }

    /// The table for the target file: what was confirmed; `None` when the plan stays as it is.
    fn tuned(&self, plan: &VariantPlan) -> Option<Tuned> {
        let mut knobs = BTreeMap::new();
        for finding in self.confirmed.iter().filter(|finding| finding.accepted) {
            let ratio = finding.ratio?;
            for (name, &value) in finding.values.iter().filter(|(name, value)| plan.knob(name) != **value) {
                let knob = TunedKnob {
                    value,
                    planned: plan.knob(name),
                    measured: finding.metric.name(),
                    gain_permille: ((ratio.median - 1.0) * 1000.0).round() as u32,
                    spread_permille: (ratio.spread() * 1000.0).round() as u32,
                };
                knobs.insert(name.clone(), knob);
            }
        }
        (!knobs.is_empty()).then(|| Tuned {
            date: chrono::Local::now().format("%Y-%m-%d").to_string(),
            cpu: self.cpu.clone(),
            compiler: self.compiler.clone(),
            threads: self.threads(),
            levels: BTreeMap::from([(self.level.clone(), knobs)]),
        })
    }

    fn threads(&self) -> u32 {
        self.findings
            .iter()
            .chain(&self.confirmed)
            .map(|f| f.threads)
            .max()
            .unwrap_or(0)
    }

    /// For people.
    pub fn table(&self, dry_run: bool) -> String {
        let mut out = format!(
            "{}, {} threads, {}; level {}\n\n{:<28} {:<32} {:>6}  {:>14}  VERDICT\n",
            self.cpu,
            self.threads(),
            self.compiler,
            self.level,
            "CANDIDATE",
            "WORK",
            "RATIO",
            "98 % INTERVAL"
        );
        for finding in self.findings.iter().chain(&self.confirmed) {
            let (ratio, interval) = finding.ratio.map_or(("-".to_owned(), "-".to_owned()), |ratio| {
                (
                    format!("{:.3}", ratio.median),
                    format!("{:.3} .. {:.3}", ratio.low, ratio.high),
                )
            });
            let _ = writeln!(
                out,
                "{:<28} {:<32} {ratio:>6}  {interval:>14}  {}",
                finding.candidate,
                finding.metric.name(),
                finding.verdict
            );
        }
        out += "\n";
        out += &self.outcome();
        match &self.written {
            Some(written) => out += &format!("{written}\n"),
            None if dry_run => out += "nothing written: --dry-run\n",
            None => out += "nothing written: the file says so already\n",
        }
        out
    }

    /// What changes, a line a kind of work: its knobs were measured together.
    fn outcome(&self) -> String {
        let Some(tuned) = &self.tuned else {
            return "No gain over the plan beyond the noise: the plan stays.\n".to_owned();
        };
        let mut works: BTreeMap<&str, (&TunedKnob, Vec<String>)> = BTreeMap::new();
        for (name, knob) in tuned.levels.values().flatten() {
            let change = format!("{name} = {} instead of {}", knob.value, knob.planned);
            works.entry(&knob.measured).or_insert((knob, Vec::new())).1.push(change);
        }
        let line = |(work, (knob, changes)): (&str, (&TunedKnob, Vec<String>))| {
            let percent = |permille| f64::from(permille) / 10.0;
            let (gain, spread) = (percent(knob.gain_permille), percent(knob.spread_permille));
            format!("{}: {work} {gain:.1} % (± {spread:.1}) faster\n", changes.join(", "))
        };
        works.into_iter().map(line).collect()
    }
}

/// The C compiler that the kernels were compiled with, as it names itself.
fn compiler() -> String {
    let program = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = tool::run(Command::new(program).arg("--version")).unwrap_or_default();
    output.lines().next().unwrap_or("unknown").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::judge::Ratio;
    use super::super::testing::{AVX2, DECODE, PREFILL, plan, report};
    use super::*;

    #[test]
    fn what_was_confirmed_is_written_with_its_evidence() {
        let plan = plan(AVX2);
        let mut report = report(&[("prefetch_bytes", 8192, DECODE), ("token_block", 256, PREFILL)]);
        report.confirmed[0].ratio = Some(Ratio {
            median: 1.0314,
            low: 1.02,
            high: 1.04,
        });
        let tuned = report.tuned(&plan).unwrap();
        let knobs = &tuned.levels["avx2"];
        let knob = &knobs["prefetch_bytes"];
        assert_eq!((knob.value, knob.planned), (8192, plan.knob("prefetch_bytes")));
        assert_eq!((knob.gain_permille, knob.spread_permille), (31, 10));
        assert_eq!((knob.measured.as_str(), tuned.threads), ("decode", 2));
        assert_eq!(knobs["token_block"].measured, "prefill");
        report.tuned = Some(tuned);
        let path = PathBuf::from("box.toml");
        report.written = Some(Written { path, dropped: false });
        let text = report.table(false);
        assert!(
            text.contains(&format!(
                "prefetch_bytes = 8192 instead of {}: decode 3.1 % (± 1.0) faster",
                plan.knob("prefetch_bytes")
            )),
            "{text}"
        );
        assert!(text.contains("wrote box.toml"), "{text}");
        report.confirmed[0].accepted = false;
        let left = report.tuned(&plan).unwrap();
        assert_eq!(left.levels["avx2"].keys().collect::<Vec<_>>(), ["token_block"]);
        report.confirmed[1].accepted = false;
        assert_eq!(report.tuned(&plan), None);
    }

    #[test]
    fn what_is_not_better_is_said_to_stay() {
        let text = report(&[]).table(true);
        assert!(text.contains("the plan stays") && text.contains("--dry-run"), "{text}");
    }
}
