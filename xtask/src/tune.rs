//! `tune`: measures knobs around the plan on this machine, and writes those that are better into the machine's target file.
//!
//! All candidates are variants of one binary, each timed in alternation with the plan by `sterna bench --against`. One that computes
//! anything else is out; one whose gain noise could have made is out. What is left is compiled together and confirmed in a
//! second measurement, since the best of many is also the luckiest.

mod bencher;
mod candidates;
mod destination;
mod judge;
mod report;
mod search;
mod synthetic;
#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, bail};
use sterna_codegen::plan::KernelPlan;
use sterna_codegen::target::TargetSpec;

use crate::cpu::Machine;
use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::{machine, print, targets, workspace};
use bencher::Bencher;
use candidates::{Candidate, KNOBS, Metric};
use destination::Destination;
use report::Report;
use search::{TOGETHER, confirm, search};

/// Measure knobs on this machine, and write the better ones into its target file
///
/// Writes a `[tuned]` table with values and evidence into images/targets; the planner then takes those values. What is not
/// better beyond the noise stays as planned, and is said to. No knob changes a token: a candidate that does is rejected. Takes
/// twenty minutes to half an hour, without other work on the machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask tune --dry-run                  what would change here
  cargo xtask tune --write my-server          describe this machine, and tune the description
  cargo xtask tune --target my-server         tune a description that is there
  cargo xtask tune --dry-run --knob prefetch_bytes model.gguf")]
pub struct Args {
    /// Model to measure with [default: random weights in the shapes of the published 2B model]
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Target to tune: this machine must run it, and should be one of those that it is for. `native` is the file in
    /// images/targets whose facts are all true of this machine
    #[arg(long, value_name = "TARGET", default_value = "native")]
    target: String,
    /// For `native`: write a new description, images/targets/NAME.toml
    #[arg(long, value_name = "NAME", conflicts_with = "dry_run")]
    write: Option<String>,
    /// Only these knobs
    #[arg(long, value_name = "KNOBS", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(KNOBS))]
    knob: Vec<String>,
    /// Threads [default: as many as an image would use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Repeats of a comparison: 8 pairs of slices of 8 tokens each, or a pair of prompts each
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures, judges, writes.
pub fn run(args: &Args) -> Result<()> {
    let here = Machine::detect();
    let mut spec = targets::resolve(&workspace::targets_dir(), std::slice::from_ref(&args.target))?.remove(0);
    if spec.universal {
        bail!(
            "{} holds every level and is for no machine: name a target that is, or `native`",
            spec.name
        );
    }
    if !machine::runs(&here, &spec) {
        bail!("this machine cannot run the target {}", spec.name);
    }
    if args.target == "native" && args.write.is_none() {
        match machine::described(TargetSpec::all(&workspace::targets_dir())?, &spec) {
            Ok(file) => spec = file,
            Err(_) if args.dry_run => {} // measures this machine as it describes itself
            Err(error) => return Err(error),
        }
    }
    let destination = Destination::find(args, &spec, &here)?;
    spec.tuned = None; // from the plan anew, not from the last tuning
    let plan = KernelPlan::new(&spec)?.variants.swap_remove(0);
    let line = spec.cache.line_bytes.map_or(64, u64::from);
    let wanted = |candidate: &Candidate| args.knob.is_empty() || args.knob.iter().any(|knob| knob == candidate.knob);
    let all: Vec<Candidate> = candidates::around(&plan, line).into_iter().filter(wanted).collect();
    if all.is_empty() {
        bail!("the level {} has no such knob", plan.isa.name());
    }
    let progress = Progress::new();
    let model = match &args.model {
        Some(model) if !model.exists() => bail!("{} does not exist", model.display()),
        Some(model) => model.clone(),
        None => {
            progress.stage(0, "a model with random weights");
            let folder = workspace::target_dir().join("tune");
            synthetic::model(&folder, synthetic::layers(here.l3.map(|cache| cache.bytes)))?
        }
    };
    let bencher = Bencher {
        model: &model,
        spec: &spec,
        level: plan.isa.name(),
        threads: args.threads,
        rounds: args.rounds,
        toolchain: Toolchain::find(spec.arch)?,
        progress: &progress,
    };

    let binary = bencher.build(all.iter().map(|c| (c.name.clone(), c.values.clone())).collect())?;
    let metrics: BTreeSet<Metric> = all.iter().map(|candidate| candidate.metric).collect();
    progress.stage((all.len() + metrics.len()) as u64, "measuring");
    let (findings, winners) = search(&all, &mut |candidate, metric| {
        bencher.compare(&binary, candidate, metric)
    })?;
    let mut confirmed = Vec::new();
    if !winners.is_empty() {
        let together = winners.iter().flat_map(|winner| winner.values.clone()).collect();
        let binary = bencher.build(BTreeMap::from([(TOGETHER.to_owned(), together)]))?;
        progress.stage(2 * winners.len() as u64, "confirming");
        confirmed = confirm(&winners, &mut |candidate, metric| {
            bencher.compare(&binary, candidate, metric)
        })?;
    }
    let mut report = Report::new(&here, &spec, &plan, findings, confirmed);
    if let Some(destination) = &destination {
        report.written = destination.store(report.tuned.as_ref())?;
    }
    progress.finish();
    print(&if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.table(args.dry_run)
    })
}
