//! `sterna bench MODEL`: how fast this machine runs a model, and what fraction that is of what it could.
//!
//! Speeds on shared machines drift by half and more within minutes, so a number of tokens a second means little
//! alone: every slice of a measurement stands between passes that only read memory, and its fraction of those is what to
//! compare. What each number means: docs/benchmarks.md.

mod against;
mod ceiling;
mod energy;
mod labels;
mod measure;
mod plan;
mod report;
mod roofline;
mod runner;
mod start;
mod stats;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::common::{CacheArgs, CacheDirArgs, CommandError, ModelArgs};
use crate::engine::background;
use crate::engine::forward::{Forward, Traffic};
use crate::engine::session::Session;
use crate::kernels::{TARGET, Variant, choose};
use crate::machine::cpu::Machine;
use crate::machine::limits::{Limits, Threads};
use crate::model::{MapOptions, Model, ModelError, Opened};
use crate::text::Tokenizer;
use against::{Against, Work};
use ceiling::Reader;
use energy::Energy;
pub use measure::BenchError;
use measure::{Bench, Measurement, Setup};
use plan::Plan;
use report::{CacheReport, Ceilings, MachineReport, ModelReport, Report, Steady};
use start::Memory;

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sterna bench model.gguf                           everything: minutes for a model of 2B
  sterna bench model.gguf --threads 2 --prefill 0 --context 0   generation only
  sterna bench model.gguf --sequences 1,8 --start   several sequences together, and a server's start
  sterna bench model.gguf --against avx2,baseline   narrower kernels beside the best, in a universal build
A list may hold 0 where there is nothing to measure.")]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Numbers of threads, at most one a CPU, or `auto` [default: 1 to auto; above 8 the powers of two, and auto]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    threads: Vec<Threads>,
    /// Prompt lengths, in tokens
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128,512")]
    prefill: Vec<usize>,
    /// Tokens to generate
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "64")]
    decode: Vec<usize>,
    /// Tokens that precede those generated
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0,2048")]
    context: Vec<usize>,
    /// Sequences that are generated together
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1", value_parser = plan::sequences)]
    sequences: Vec<usize>,
    #[command(flatten)]
    cache: CacheArgs,
    /// Repeats of each measurement, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeats: u32,
    /// Also start this binary as a server: time to /health and to the first token, and its memory in the steady state
    #[arg(long)]
    start: bool,
    /// Keep the weights as the file has them, as a server does until it has re-packed them in the background
    #[arg(long)]
    no_repack: bool,
    #[command(flatten)]
    kept: CacheDirArgs,
    /// Instead, other kernel variants of this binary in alternation with --kernel: how many times as fast they are
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with_all = ["start", "svg"])]
    against: Vec<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Also draw the results as a roofline
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: BenchArgs, machine: &Machine) -> Result<(), CommandError> {
    let kernels = args.model.kernels(machine)?;
    let plan = Plan::new(&args)?;
    if !args.against.is_empty() {
        return run_against(&args, machine, kernels, plan);
    }
    let first_threads = plan.threads[0];
    let (plan, bytes) = fitting(&args, plan, 1)?;
    // The first time may have to read the file from a disk.
    first_token(&args.model.model, kernels, first_threads)?;
    let first_token_ms = first_token(&args.model.model, kernels, first_threads)?;
    let began = Instant::now();
    let (path, model) = prepared(&args, kernels, bytes)?;
    let mut forward = Forward::new(Arc::clone(&model), kernels, first_threads);
    let settle_ms = began.elapsed().as_secs_f64() * 1e3;
    runner::warm(&mut forward)?;
    let Traffic { body, head, own } = forward.traffic();
    let energy = Energy::open(Path::new(energy::POWERCAP));
    let mut report = Report {
        schema: 1,
        version: env!("CARGO_PKG_VERSION"),
        machine: MachineReport {
            model_name: machine.model_name.clone(),
            microarchitecture: machine.microarchitecture,
            physical_cores: machine.physical_cores,
            logical_cores: machine.logical_cores,
            auto_threads: Limits::read().threads(),
        },
        target: TARGET.name,
        kernel: kernels.name,
        model: ModelReport {
            name: model.config.name.clone(),
            architecture: model.config.architecture_name.clone(),
            file_bytes: (*model.mapping).as_ref().len(),
        },
        steady: Steady {
            first_token_ms,
            settle_ms,
            body_bytes: body,
            head_bytes: head,
            own_bytes: own,
            memory: Memory::of("self"),
        },
        cache: CacheReport::new(&model.config, args.cache.types()),
        ceilings: BTreeMap::new(),
        sparsity: Vec::new(),
        energy_unavailable: energy.as_ref().err().cloned(),
        start: None,
        results: Vec::new(),
        skipped: plan.skipped.clone(),
    };
    let mut out = io::stdout().lock();
    if !args.json {
        report.write_head(&mut out)?;
    }
    let mut reader = Reader::new(&model, forward.traffic(), machine.l3.map(|cache| cache.bytes))?;
    let mut forward = Some(forward);
    for &threads in &plan.threads {
        let forward = match forward.take() {
            Some(forward) => forward,
            None => Forward::new(Arc::clone(&model), kernels, threads),
        };
        let setup = Setup {
            kernels,
            sequences: plan.sequences(),
            capacity: plan.capacity(),
            cache: args.cache.types(),
            repeats: args.repeats,
            reader: &mut reader,
            energy: energy.as_ref().ok(),
        };
        let mut bench = Bench::new(forward, setup)?;
        let mut add = |result: Measurement| {
            if !args.json {
                result.write(&mut out)?;
                out.flush()?;
            }
            report.add(result)
        };
        for &tokens in &plan.prefills {
            add(bench.prefill(tokens)?)?;
        }
        for decode in &plan.decodes {
            add(bench.decode(decode.sequences, decode.context, decode.tokens)?)?;
        }
        let (read, dot) = bench.ceilings();
        let ceilings = Ceilings {
            read_file_gb_per_s: read.file / 1e9,
            read_own_gb_per_s: read.own / 1e9,
            dot_gmac_per_s: dot / 1e9,
        };
        report.ceilings.insert(threads, ceilings);
        if !plan.decodes.is_empty() {
            report.sparsity = bench.sparsity();
        }
    }
    drop(reader);
    if args.start {
        let settings = start::Settings {
            model: &path,
            kernel: kernels.name,
            threads: Limits::read().threads(),
            context: model.config.context.min(2048),
            cache: args.cache.types(),
            cache_dir: args.kept.dir(),
        };
        report.start = Some(start::measure(&settings).map_err(CommandError::Server)?);
    }
    if args.json {
        let json = serde_json::to_string_pretty(&report).expect("numbers and strings");
        writeln!(out, "{json}")?;
    } else {
        report.write_foot(&mut out)?;
    }
    if let Some(path) = &args.svg {
        let picture = roofline::svg(&report.title(), &report.subtitle(), &report.series());
        fs::write(path, picture).map_err(|source| CommandError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Runs the command with `--against`.
fn run_against(
    args: &BenchArgs,
    machine: &Machine,
    kernels: &'static Variant,
    mut plan: Plan,
) -> Result<(), CommandError> {
    let others = args.against.iter().map(|name| choose(&machine.features, name));
    let others: Vec<&'static Variant> = others.collect::<Result<_, _>>()?;
    plan.decodes.retain(|decode| decode.sequences == 1);
    if plan.prefills.is_empty() && plan.decodes.is_empty() {
        let why = "--against compares single sequences, and 1 is not among --sequences";
        return Err(CommandError::Nothing(why.to_owned()));
    }
    let (plan, bytes) = fitting(args, plan, 2)?;
    let (_, model) = prepared(args, kernels, bytes)?;
    let decodes: Vec<_> = plan
        .decodes
        .iter()
        .map(|decode| (decode.context, decode.tokens))
        .collect();
    let mut out = io::stdout().lock();
    if !args.json {
        writeln!(
            out,
            "{:32} kind     threads  tokens  context    ratio",
            format!("against {}", kernels.name)
        )?;
    }
    let mut all = Vec::new();
    for &threads in &plan.threads {
        let work = Work {
            threads,
            prefills: &plan.prefills,
            decodes: &decodes,
            repeats: args.repeats,
            cache: args.cache.types(),
        };
        for other in &others {
            // Weights are re-packed for one layout: another needs a model of its own, over the same pages.
            let theirs = if other.packing() == kernels.packing() {
                Arc::clone(&model)
            } else {
                prepared(args, other, bytes)?.1
            };
            let against = Against::measure([(&model, kernels), (&theirs, other)], &work)?;
            if !args.json {
                against.write(&mut out)?;
                out.flush()?;
            }
            all.push(against);
        }
    }
    if args.json {
        let object = serde_json::json!({ "schema": 1, "kernel": kernels.name, "against": all });
        writeln!(out, "{object:#}")?;
    }
    Ok(())
}

/// What of the plan fits into the model's context, and the bytes that its sequences take, on each of `sides`; an error where those do not
/// fit into memory. Before anything that takes long.
fn fitting(args: &BenchArgs, plan: Plan, sides: u64) -> Result<(Plan, u64), CommandError> {
    let config = Model::open(&args.model.model, MapOptions::default())?.model.config;
    let plan = plan.within(config.context)?;
    let memory_bytes = Limits::read().memory_bytes.map(|bytes| bytes / sides);
    let bytes = plan
        .memory(&config, args.cache.types(), memory_bytes)
        .map_err(BenchError::from)?;
    Ok((plan, bytes * sides))
}

/// The model as a server has it after a while, beside `other_bytes` of memory.
fn prepared(
    args: &BenchArgs,
    kernels: &'static Variant,
    other_bytes: u64,
) -> Result<(PathBuf, Arc<Model>), CommandError> {
    let Opened { path, model, .. } = Model::open(&args.model.model, MapOptions::default())?;
    let (model, cache) = (Arc::new(model), args.kept.of(&path));
    let never = AtomicBool::new(false);
    let done = background::prepare(&model, kernels, !args.no_repack, cache.as_ref(), other_bytes, &never);
    done.map_err(|reason| ModelError::Invalid {
        path: path.clone(),
        reason,
    })?;
    Ok((path, model))
}

/// Opens the model anew and takes one token from it; the milliseconds.
fn first_token(path: &Path, kernels: &'static Variant, threads: usize) -> Result<f64, CommandError> {
    let began = Instant::now();
    let Opened { gguf, model, .. } = Model::open(path, MapOptions::default())?;
    let tokenizer = Tokenizer::from_gguf(&gguf, None)?;
    let prompt = tokenizer.encode("Hello", true, true);
    let mut session = Session::new(Arc::new(model), kernels, threads, prompt.len(), prompt.len())?;
    session.feed(&prompt)?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
