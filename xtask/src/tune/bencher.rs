//! Builds binaries with candidates in them, and has them compared with the plan.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;
use sterna_codegen::target::TargetSpec;

use super::candidates::{Metric, Work};
use super::judge::Pair;
use crate::bench;
use crate::compile;
use crate::progress::Progress;
use crate::tool;
use crate::toolchain::Toolchain;

/// What a comparison of two variants gave.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Where the candidate is not exact: then it was not timed.
    pub inexact: Option<String>,
    /// Threads that it was timed on.
    pub threads: u32,
    /// The timings.
    pub pairs: Vec<Pair>,
}

/// Builds binaries and runs them.
pub struct Bencher<'a> {
    pub model: &'a Path,
    pub spec: &'a TargetSpec,
    pub level: &'static str,
    /// `None`: as many as the runtime takes by itself.
    pub threads: Option<u32>,
    pub rounds: u32,
    pub toolchain: Toolchain,
    pub progress: &'a Progress,
}

/// The part of `sterna bench --against --json` that matters here.
#[derive(Deserialize)]
struct Output {
    against: Vec<Against>,
}

#[derive(Deserialize)]
struct Against {
    inexact: Option<String>,
    pairs: Vec<Pairs>,
}

#[derive(Deserialize)]
struct Pairs {
    threads: u32,
    seconds: Vec<Pair>,
}

impl Bencher<'_> {
    /// A binary that holds the plan and these candidates.
    pub fn build(&self, candidates: BTreeMap<String, BTreeMap<String, u64>>) -> Result<PathBuf> {
        let spec = TargetSpec {
            name: format!("{}-tune", self.spec.name),
            candidates,
            ..self.spec.clone()
        };
        let binary = compile::compile(&spec, &self.toolchain, self.progress)?.binary;
        bench::store(&spec.name, &binary)
    }

    /// Compares a candidate, or `None`: the plan itself, with the plan.
    pub fn compare(&self, binary: &Path, candidate: Option<&str>, metric: Metric) -> Result<Measured> {
        let name = candidate.map_or_else(|| self.level.to_owned(), |name| format!("{}__{name}", self.level));
        let what = candidate.unwrap_or("the plan against itself");
        let what = format!("{}, {what}", metric.work.name());
        self.progress.step(&what);
        if !self.progress.is_bar() {
            self.progress.line(&what); // a log shows that it goes on
        }
        let (prefill, decode, context, repeats) = match metric.work {
            Work::Prefill => ("128", "0", "0", self.rounds),
            // As many pairs as of generation, since each is as short as a slice of that.
            Work::SmallPrefill => ("8,24", "0", "0", 8 * self.rounds),
            Work::Decode => ("0", "64", "0", self.rounds),
            Work::LongDecode => ("0", "64", "1024", self.rounds),
        };
        let threads = self.threads.map_or_else(|| "auto".to_owned(), |n| n.to_string());
        let mut command = Command::new(binary);
        command.arg("bench").arg(self.model);
        command.args(["--kernel", self.level, "--against", &name, "--json"]);
        command.args(["--prefill", prefill, "--decode", decode, "--context", context]);
        command.args(["--threads", &threads, "--repeats", &repeats.to_string()]);
        if !metric.repacked {
            command.arg("--no-repack");
        }
        measured(&tool::run(&mut command)?)
    }
}

/// Reads the report of one comparison.
fn measured(json: &str) -> Result<Measured> {
    let output: Output = serde_json::from_str(json).context("sterna bench printed something else")?;
    let mut against = output.against.into_iter();
    let against = against.next().context("sterna bench compared nothing")?;
    Ok(Measured {
        inexact: against.inexact,
        threads: against.pairs.first().map_or(0, |pairs| pairs.threads),
        pairs: against.pairs.into_iter().flat_map(|pairs| pairs.seconds).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_read_from_the_runtimes_report() {
        let json = r#"{"schema": 1, "kernel": "avx2", "against": [{"kernel": "avx2__x", "inexact": null, "pairs": [
            {"kind": "decode", "threads": 2, "tokens": 8, "context": 0, "seconds": [[0.5, 0.25], [0.5, 0.5]]}]}]}"#;
        let read = measured(json).unwrap();
        assert_eq!((read.inexact, read.threads), (None, 2));
        assert_eq!(read.pairs, [(0.5, 0.25), (0.5, 0.5)]);
        let inexact = r#"{"against": [{"inexact": "attn_q, row 3", "pairs": []}]}"#;
        assert_eq!(measured(inexact).unwrap().inexact.as_deref(), Some("attn_q, row 3"));
        for other in ["", "{}", r#"{"against": []}"#] {
            assert!(measured(other).is_err(), "{other}");
        }
    }
}
