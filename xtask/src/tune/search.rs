//! Which candidates win: each alone against the plan, and then the best of every knob together.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::Serialize;

use super::bencher::Measured;
use super::candidates::{Candidate, Metric};
use super::judge::{Pair, Ratio, Verdict, judge};

/// Compares a candidate, or `None`: the plan itself, with the plan.
pub type Measure<'a> = dyn FnMut(Option<&str>, Metric) -> Result<Measured> + 'a;

/// Name of the variant with all winners.
pub const TOGETHER: &str = "together";

/// What became of a candidate.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub candidate: String,
    pub values: BTreeMap<String, u64>,
    pub metric: Metric,
    /// Threads that it was timed on.
    pub threads: u32,
    /// How many times as fast as the plan; absent where nothing was timed.
    pub ratio: Option<Ratio>,
    /// Taken, or why not.
    pub verdict: String,
    #[serde(skip)]
    pub accepted: bool,
}

/// Judges every candidate alone; and of each knob the best of the accepted ones.
pub fn search(all: &[Candidate], measure: &mut Measure) -> Result<(Vec<Finding>, Vec<Candidate>)> {
    // All of them first: work that the model has no room for fails now, and not after minutes.
    let metrics: BTreeSet<Metric> = all.iter().map(|candidate| candidate.metric).collect();
    let controls = metrics
        .into_iter()
        .map(|metric| Ok((metric, control(metric, measure)?)));
    let controls: BTreeMap<Metric, Vec<Pair>> = controls.collect::<Result<_>>()?;
    let mut findings = Vec::new();
    let mut best: BTreeMap<&str, (f64, &Candidate)> = BTreeMap::new();
    for candidate in all {
        let metric = candidate.metric;
        let finding = finding(&candidate.name, &candidate.values, metric, measure, &controls[&metric])?;
        if let (true, Some(ratio)) = (finding.accepted, finding.ratio) {
            let best = best.entry(candidate.knob).or_insert((ratio.low, candidate));
            if ratio.low > best.0 {
                *best = (ratio.low, candidate);
            }
        }
        findings.push(finding);
    }
    let winners = best.into_values().map(|(_, candidate)| candidate.clone()).collect();
    Ok((findings, winners))
}

/// Judges the winners together, by everything that they are to make faster.
pub fn confirm(winners: &[Candidate], measure: &mut Measure) -> Result<Vec<Finding>> {
    let metrics: BTreeSet<Metric> = winners.iter().map(|winner| winner.metric).collect();
    let mut findings = Vec::new();
    for metric in metrics {
        let control = control(metric, measure)?;
        let values = winners.iter().filter(|winner| winner.metric == metric);
        let values = values.flat_map(|winner| winner.values.clone()).collect();
        findings.push(finding(TOGETHER, &values, metric, measure, &control)?);
    }
    // They were measured together: one that is not exact spoils all.
    if findings.iter().any(|finding| finding.ratio.is_none()) {
        findings.iter_mut().for_each(|finding| finding.accepted = false);
    }
    Ok(findings)
}

/// The plan against itself: what this machine makes of no difference.
fn control(metric: Metric, measure: &mut Measure) -> Result<Vec<Pair>> {
    let measured = measure(None, metric)?;
    if let Some(what) = measured.inexact {
        bail!(
            "the plan itself is not exact ({what}): that is a bug of Sterna, please report it with this machine's `cargo xtask detect`"
        );
    }
    Ok(measured.pairs)
}

fn finding(
    name: &str,
    values: &BTreeMap<String, u64>,
    metric: Metric,
    measure: &mut Measure,
    control: &[Pair],
) -> Result<Finding> {
    let measured = measure(Some(name), metric)?;
    let (ratio, verdict, accepted) = match measured.inexact {
        Some(what) => (None, format!("not exact: {what}"), false),
        None => match judge(&measured.pairs, control) {
            Verdict::Faster(ratio) => (Some(ratio), "faster".to_owned(), true),
            Verdict::Keep { ratio, reason } => (ratio, reason, false),
        },
    };
    Ok(Finding {
        candidate: name.to_owned(),
        values: values.clone(),
        metric,
        threads: measured.threads,
        ratio,
        verdict,
        accepted,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{DECODE, PREFILL, candidate, timings};
    use super::*;

    #[test]
    fn the_best_exact_candidate_of_each_knob_wins() {
        let all = [
            candidate("prefetch_bytes", 0, DECODE),
            candidate("prefetch_bytes", 512, DECODE),
            candidate("prefetch_bytes", 4096, DECODE),
            candidate("prefetch_bytes", 8192, DECODE),
            candidate("token_block", 64, PREFILL),
        ];
        let mut asked = Vec::new();
        let (findings, winners) = search(&all, &mut |name, metric| {
            asked.push((name.map(str::to_owned), metric));
            Ok(match name {
                None => timings(1.0),
                Some("prefetch_bytes_0") => timings(0.7),
                Some("prefetch_bytes_512") => timings(1.08),
                // The fastest by far: it computes something else.
                Some("prefetch_bytes_4096") => Measured {
                    inexact: Some("attn_q, row 3".into()),
                    ..timings(3.0)
                },
                Some("prefetch_bytes_8192") => timings(1.05),
                // Within the noise.
                Some(_) => timings(1.004),
            })
        })
        .unwrap();
        assert_eq!(winners, [all[1].clone()]);
        let verdicts: Vec<&str> = findings.iter().map(|finding| finding.verdict.as_str()).collect();
        assert_eq!(
            verdicts[..4],
            ["slower", "faster", "not exact: attn_q, row 3", "faster"]
        );
        assert!(verdicts[4].starts_with("within the noise"), "{}", verdicts[4]);
        let controls = asked.iter().take_while(|(name, _)| name.is_none()).count();
        assert_eq!(controls, 2, "once for each kind of work, before all candidates");
        assert_eq!(asked.len(), controls + all.len());
    }

    #[test]
    fn winners_are_confirmed_together_or_dropped() {
        let winners = [
            candidate("prefetch_bytes", 512, DECODE),
            candidate("token_block", 64, PREFILL),
        ];
        let confirm = |decode: Measured, prefill: Measured| -> Vec<bool> {
            let findings = confirm(&winners, &mut |name, metric| {
                Ok(match name {
                    None => timings(1.0),
                    Some(TOGETHER) if metric == DECODE => decode.clone(),
                    Some(TOGETHER) => prefill.clone(),
                    Some(other) => panic!("{other}"),
                })
            });
            let findings = findings.unwrap();
            let metrics: Vec<Metric> = findings.iter().map(|finding| finding.metric).collect();
            assert_eq!(metrics, [PREFILL, DECODE]);
            assert_eq!(findings[1].values, winners[0].values);
            findings.iter().map(|finding| finding.accepted).collect()
        };
        assert_eq!(confirm(timings(1.08), timings(1.05)), [true, true]);
        // Luck the first time: only what is confirmed stays.
        assert_eq!(confirm(timings(1.08), timings(1.001)), [false, true]);
        assert_eq!(confirm(timings(1.001), timings(0.9)), [false, false]);
        let inexact = Measured {
            inexact: Some("other logits".into()),
            ..timings(2.0)
        };
        assert_eq!(
            confirm(timings(1.08), inexact),
            [false, false],
            "one inexact spoils all"
        );
    }

    #[test]
    fn a_plan_that_is_not_exact_is_no_measure() {
        let broken = |_: Option<&str>, _| {
            Ok(Measured {
                inexact: Some("attn_q".into()),
                ..timings(1.0)
            })
        };
        let error = search(&[candidate("prefetch_bytes", 512, DECODE)], &mut { broken }).unwrap_err();
        assert!(error.to_string().contains("the plan itself"), "{error}");
    }
}
