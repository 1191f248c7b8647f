//! What several tests need.

use std::collections::BTreeMap;

use sterna_codegen::plan::{KernelPlan, VariantPlan};
use sterna_codegen::target::{TargetSpec, Tuned, TunedKnob};

use super::Args;
use super::bencher::Measured;
use super::candidates::{Candidate, Metric, Work};
use super::judge::Ratio;
use super::report::Report;
use super::search::{Finding, TOGETHER};

pub const DECODE: Metric = Metric {
    work: Work::Decode,
    repacked: true,
};
pub const PREFILL: Metric = Metric {
    work: Work::Prefill,
    repacked: true,
};

/// A target's file.
pub const AVX2: &str = "name = 'box'\ndescription = ''\narch = 'x86_64'\nfeatures = ['sse2', 'avx2', 'f16c', 'fma']\n";

pub fn plan(toml: &str) -> VariantPlan {
    let spec: TargetSpec = toml::from_str(toml).unwrap();
    KernelPlan::new(&spec).unwrap().variants.swap_remove(0)
}

pub fn candidate(knob: &'static str, value: u64, metric: Metric) -> Candidate {
    Candidate {
        name: format!("{knob}_{value}"),
        knob,
        values: BTreeMap::from([(knob.to_owned(), value)]),
        metric,
    }
}

/// Pairs of a variant that is `ratio` times as fast, with a noise of one percent.
pub fn timings(ratio: f64) -> Measured {
    let noise = |i: usize| 1.0 + (i * 37 % 21) as f64 / 1000.0 - 0.01;
    Measured {
        inexact: None,
        threads: 2,
        pairs: (0..40).map(|i| (ratio * noise(i), noise(i + 7))).collect(),
    }
}

/// A report that confirms these.
pub fn report(confirmed: &[(&str, u64, Metric)]) -> Report {
    let finding = |&(knob, value, metric): &(&str, u64, Metric)| Finding {
        candidate: TOGETHER.into(),
        values: BTreeMap::from([(knob.to_owned(), value)]),
        metric,
        threads: 2,
        ratio: Some(Ratio {
            median: 1.05,
            low: 1.04,
            high: 1.06,
        }),
        verdict: "faster".into(),
        accepted: true,
    };
    Report {
        target: "box".into(),
        level: "avx2".into(),
        cpu: "a CPU".into(),
        compiler: "cc 1".into(),
        findings: Vec::new(),
        confirmed: confirmed.iter().map(finding).collect(),
        tuned: None,
        written: None,
    }
}

pub fn tuned(knob: &str, value: u64) -> Tuned {
    let evidence = TunedKnob {
        value,
        planned: 2048,
        measured: "decode".into(),
        gain_permille: 31,
        spread_permille: 10,
    };
    Tuned {
        date: "2026-11-21".into(),
        cpu: "a CPU".into(),
        compiler: "cc 1".into(),
        threads: 2,
        levels: BTreeMap::from([("avx2".into(), BTreeMap::from([(knob.to_owned(), evidence)]))]),
    }
}

pub fn args(target: &str, write: Option<&str>, dry_run: bool) -> Args {
    Args {
        model: None,
        target: target.into(),
        write: write.map(str::to_owned),
        knob: Vec::new(),
        threads: None,
        rounds: 1,
        dry_run,
        json: false,
    }
}
