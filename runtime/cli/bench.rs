//! `sterna bench MODEL`: how fast this machine runs a model, and what fraction that is of what it could.
//!
//! Speeds on shared machines drift by half and more within minutes, so a number of tokens a second means little
//! alone: every slice of a measurement stands between passes that only read memory, and its fraction of those is what to
//! compare. What each number means: docs/benchmarks.md.

mod ceiling;
mod energy;
mod measure;
mod roofline;
mod start;
mod stats;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;

use super::common::{CommandError, ModelArgs};
use crate::engine::background;
use crate::engine::forward::{Forward, Traffic};
use crate::engine::session::Session;
use crate::kernels::{TARGET, Variant};
use crate::machine::cpu::Machine;
use crate::machine::limits::{Limits, Threads};
use crate::model::{MapOptions, Model, ModelError, Opened};
use crate::text::Tokenizer;
use ceiling::Reader;
use energy::Energy;
pub use measure::BenchError;
use measure::{Bench, Measurement, Setup};
use roofline::{Point, Series};
use start::{Memory, Start};

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sterna bench model.gguf                           everything: minutes for a model of 2B
  sterna bench model.gguf --threads 2 --prefill 0 --context 0   generation only
  sterna bench model.gguf --sequences 1,8 --start   several sequences together, and a server's start
A list may hold 0 where there is nothing to measure.")]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Numbers of threads, or `auto` [default: 1 to auto; above 8 the powers of two, and auto]
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
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1")]
    sequences: Vec<usize>,
    /// Repeats of each measurement, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Also start this binary as a server: time to /health and to the first token, and its memory in the steady state
    #[arg(long)]
    start: bool,
    /// Keep the weights as the file has them, as a server does until it has re-packed them in the background
    #[arg(long)]
    no_repack: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Also draw the results as a roofline
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The object of `bench --json`. Keys are only ever added; `docs/benchmarks.md` explains them.
#[derive(Serialize)]
struct Report {
    schema: u32,
    version: &'static str,
    machine: MachineReport,
    target: &'static str,
    kernel: &'static str,
    model: ModelReport,
    steady: Steady,
    /// By number of threads.
    ceilings: BTreeMap<usize, Ceilings>,
    /// Why no joules are reported; absent where they are.
    energy_unavailable: Option<String>,
    /// Only with `--start`.
    start: Option<Start>,
    results: Vec<Measurement>,
    /// What was asked for and not measured, and why.
    skipped: Vec<String>,
}

#[derive(Serialize)]
struct MachineReport {
    model_name: Option<String>,
    microarchitecture: Option<&'static str>,
    physical_cores: Option<u32>,
    logical_cores: Option<u32>,
    /// What `--threads auto` is here.
    auto_threads: usize,
}

#[derive(Serialize)]
struct ModelReport {
    name: String,
    architecture: String,
    file_bytes: usize,
}

/// The model in use, when nothing is built in the background any more.
#[derive(Serialize)]
struct Steady {
    /// From opening the model to its first token, with its pages in memory.
    first_token_ms: f64,
    /// From then to the steady state.
    settle_ms: f64,
    /// Bytes that a token reads of the ternary matrices, and of the output head.
    body_bytes: usize,
    head_bytes: usize,
    /// Of both, in memory of our own.
    own_bytes: usize,
    /// Of this process, before the buffers of the benchmark.
    memory: Option<Memory>,
}

#[derive(Serialize)]
struct Ceilings {
    /// Reading the mapped file.
    read_file_gb_per_s: f64,
    /// Reading memory of our own, in huge pages where the system gives them.
    read_own_gb_per_s: f64,
    /// The level's dot product on registers alone, in 10^9 multiply-adds.
    dot_gmac_per_s: f64,
}

/// Runs the command.
pub fn run(args: BenchArgs, machine: &Machine) -> Result<(), CommandError> {
    let kernels = args.model.kernels(machine)?;
    let plan = Plan::new(&args)?;
    let first_threads = plan.threads[0];
    // The first time may have to read the file from a disk.
    first_token(&args.model.model, kernels, first_threads)?;
    let first_token_ms = first_token(&args.model.model, kernels, first_threads)?;
    let opened = args.model.open()?;
    let (path, model) = (opened.path, Arc::new(opened.model));
    let plan = plan.within(model.config.context)?;
    let began = Instant::now();
    if !args.no_repack {
        let prepared = background::prepare(&model, kernels, true, 0, &AtomicBool::new(false));
        prepared.map_err(|reason| ModelError::Invalid {
            path: path.clone(),
            reason,
        })?;
    }
    let mut forward = Forward::new(Arc::clone(&model), kernels, first_threads);
    measure::settle(&mut forward)?;
    let settle_ms = began.elapsed().as_secs_f64() * 1e3;
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
        ceilings: BTreeMap::new(),
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
            None => {
                let mut forward = Forward::new(Arc::clone(&model), kernels, threads);
                measure::settle(&mut forward)?;
                forward
            }
        };
        let setup = Setup {
            kernels,
            sequences: plan.decodes.iter().map(|decode| decode.sequences).max().unwrap_or(1),
            capacity: plan.capacity(),
            repeats: args.repeats,
            reader: &mut reader,
            energy: energy.as_ref().ok(),
        };
        let mut bench = Bench::new(forward, setup);
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
    }
    drop(reader);
    if args.start {
        let threads = Limits::read().threads();
        let context = model.config.context.min(2048);
        let measured = start::measure(&path, kernels.name, threads, context);
        report.start = Some(measured.map_err(CommandError::Server)?);
    }
    if let Some(path) = &args.svg {
        let picture = roofline::svg(&report.title(), &report.subtitle(), &report.series());
        fs::write(path, picture).map_err(|source| CommandError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    if args.json {
        let json = serde_json::to_string_pretty(&report).expect("numbers and strings");
        writeln!(out, "{json}")?;
    } else {
        report.write_foot(&mut out)?;
    }
    Ok(())
}

/// What will be measured, on each number of threads.
struct Plan {
    threads: Vec<usize>,
    prefills: Vec<usize>,
    decodes: Vec<Decode>,
    skipped: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Decode {
    sequences: usize,
    context: usize,
    tokens: usize,
}

impl Plan {
    fn new(args: &BenchArgs) -> Result<Plan, CommandError> {
        let mut decodes = Vec::new();
        for &sequences in args.sequences.iter().filter(|&&n| n > 0) {
            for &context in &args.context {
                decodes.extend(args.decode.iter().filter(|&&n| n > 0).map(|&tokens| Decode {
                    sequences,
                    context,
                    tokens,
                }));
            }
        }
        let plan = Plan {
            threads: match &args.threads[..] {
                [] => thread_counts(Limits::read().threads()),
                asked => asked.iter().map(|threads| threads.resolve()).collect(),
            },
            prefills: args.prefill.iter().copied().filter(|&n| n > 0).collect(),
            decodes,
            skipped: Vec::new(),
        };
        if plan.prefills.is_empty() && plan.decodes.is_empty() {
            return Err(CommandError::Nothing("every list holds only 0".to_owned()));
        }
        Ok(plan)
    }

    /// Without what does not fit into the model's context.
    fn within(mut self, trained: usize) -> Result<Plan, CommandError> {
        let mut skipped = Vec::new();
        let mut fits = |what: String, tokens: usize| {
            if tokens > trained {
                skipped.push(format!(
                    "{what} needs room for {tokens} tokens, and the model has room for {trained}"
                ));
            }
            tokens <= trained
        };
        self.prefills
            .retain(|&tokens| fits(format!("prefill of {tokens}"), tokens));
        self.decodes.retain(|decode| {
            let what = format!("decode of {} after {}", decode.tokens, decode.context);
            fits(what, decode.context.saturating_add(decode.tokens).saturating_add(1))
        });
        if self.prefills.is_empty() && self.decodes.is_empty() {
            return Err(CommandError::Nothing(skipped.join("; ")));
        }
        skipped.dedup(); // the same for several numbers of sequences
        Ok(Plan { skipped, ..self })
    }

    /// Tokens of context that the longest measurement needs.
    fn capacity(&self) -> usize {
        let decodes = self.decodes.iter().map(|decode| decode.context + decode.tokens + 1);
        decodes.chain(self.prefills.iter().copied()).max().unwrap_or(1)
    }
}

/// 1 to `all`; of many, the powers of two and all.
fn thread_counts(all: usize) -> Vec<usize> {
    const FEW: usize = 8;
    (1..=all)
        .filter(|&n| n <= FEW && all <= FEW || n.is_power_of_two() || n == all)
        .collect()
}

/// Opens the model anew and takes one token from it; the milliseconds.
fn first_token(path: &Path, kernels: &'static Variant, threads: usize) -> Result<f64, CommandError> {
    let began = Instant::now();
    let Opened { gguf, model, .. } = Model::open(path, MapOptions::default())?;
    let tokenizer = Tokenizer::from_gguf(&gguf, None)?;
    let prompt = tokenizer.encode("Hello", true, true);
    let mut session = Session::new(Arc::new(model), kernels, threads, prompt.len(), prompt.len());
    session.feed(&prompt)?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

impl Report {
    /// Takes a result; an error when the same work has another output on another number of threads.
    fn add(&mut self, result: Measurement) -> Result<(), CommandError> {
        let other = self.results.iter().find(|other| other.same_work(&result));
        if let Some(other) = other.filter(|other| other.output_hash != result.output_hash) {
            return Err(BenchError::Unsteady {
                work: format!("{} on {} and on {} threads", result.kind, other.threads, result.threads),
                one: other.output_hash.clone(),
                other: result.output_hash,
            }
            .into());
        }
        self.results.push(result);
        Ok(())
    }

    fn write_head(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "machine  {}", self.machine_name())?;
        writeln!(out, "target   {}, kernels {}", self.target, self.kernel)?;
        writeln!(
            out,
            "model    {} ({}): a token reads {} of ternary matrices and {} of head, {} of them copied",
            self.model.name,
            self.model.architecture,
            megabytes(self.steady.body_bytes),
            megabytes(self.steady.head_bytes),
            megabytes(self.steady.own_bytes),
        )?;
        for skipped in &self.skipped {
            writeln!(out, "skipped  {skipped}")?;
        }
        writeln!(out, "\n{}", Measurement::HEADER)
    }

    fn write_foot(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out)?;
        for (threads, ceilings) in &self.ceilings {
            writeln!(
                out,
                "{threads} threads: reading alone {:.1} GB/s from the file and {:.1} from memory of our own, dot products \
                 alone {:.1} GMAC/s",
                ceilings.read_file_gb_per_s, ceilings.read_own_gb_per_s, ceilings.dot_gmac_per_s
            )?;
        }
        let steady = &self.steady;
        writeln!(
            out,
            "first token {:.0} ms after opening the model, steady state {:.0} ms after it",
            steady.first_token_ms, steady.settle_ms
        )?;
        write_memory(out, "memory of this process in the steady state", steady.memory)?;
        if let Some(reason) = &self.energy_unavailable {
            writeln!(out, "energy unavailable: {reason}")?;
        }
        if let Some(start) = &self.start {
            writeln!(
                out,
                "server: /health {:.0} ms and first token {:.0} ms after its start, on {} threads",
                start.health_ms, start.first_token_ms, start.threads
            )?;
            let what = format!(
                "memory of the server in the steady state, with {} tokens of context",
                start.context
            );
            write_memory(out, &what, Some(start.memory))?;
        }
        Ok(())
    }

    fn machine_name(&self) -> &str {
        self.machine.model_name.as_deref().unwrap_or("unknown machine")
    }

    fn title(&self) -> String {
        format!("{} on {}", self.model.name, self.machine_name())
    }

    fn subtitle(&self) -> String {
        format!(
            "Sterna {}, target {}, kernels {}; ceilings measured in the same run",
            self.version, self.target, self.kernel
        )
    }

    /// For the picture: each token's bytes come at the rate of their memory, so the roof is that of the model's mixture.
    fn series(&self) -> Vec<Series> {
        let Steady {
            body_bytes,
            head_bytes,
            own_bytes,
            ..
        } = self.steady;
        let (total, own) = ((body_bytes + head_bytes) as f64, own_bytes as f64);
        let of = |(&threads, ceilings): (&usize, &Ceilings)| {
            let rates = ceiling::Rates {
                file: ceilings.read_file_gb_per_s * 1e9,
                own: ceilings.read_own_gb_per_s * 1e9,
            };
            let results = self.results.iter().filter(|result| result.threads == threads);
            Series {
                name: format!("{threads} thread{}", if threads == 1 { "" } else { "s" }),
                read: total / rates.seconds(total, own),
                dot: ceilings.dot_gmac_per_s * 1e9,
                points: results.map(Measurement::point).collect(),
            }
        };
        self.ceilings.iter().map(of).collect()
    }
}

impl Measurement {
    fn point(&self) -> Point {
        let what = match (self.kind, self.context, self.sequences) {
            ("prefill", ..) => format!("prefill {}", self.tokens),
            (kind, 0, 1) => kind.to_owned(),
            (kind, context, 1) => format!("{kind} at {context}"),
            (kind, 0, sequences) => format!("{kind} of {sequences} sequences"),
            (kind, context, sequences) => format!("{kind} of {sequences} sequences at {context}"),
        };
        Point {
            label: format!("{what}: {:.0} tokens/s", self.tokens_per_s),
            macs_per_byte: self.macs_per_token / self.bytes_per_token,
            macs_per_s: self.macs_per_token * self.tokens_per_s,
        }
    }
}

fn write_memory(out: &mut impl Write, what: &str, memory: Option<Memory>) -> io::Result<()> {
    let Some(memory) = memory else { return Ok(()) };
    writeln!(
        out,
        "{what}: {} resident, {} of it its own and {} of files; {} at most",
        megabytes(memory.resident as usize),
        megabytes(memory.anonymous as usize),
        megabytes(memory.file as usize),
        megabytes(memory.peak as usize)
    )
}

fn megabytes(bytes: usize) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_one_to_all_or_powers_of_two() {
        assert_eq!(thread_counts(1), [1]);
        assert_eq!(thread_counts(6), [1, 2, 3, 4, 5, 6]);
        assert_eq!(thread_counts(24), [1, 2, 4, 8, 16, 24]);
        assert_eq!(thread_counts(64), [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn what_does_not_fit_is_skipped_and_said() {
        let plan = |context| Plan {
            threads: vec![1],
            prefills: vec![128, 512],
            decodes: vec![
                Decode {
                    sequences: 1,
                    context: 0,
                    tokens: 64,
                },
                Decode {
                    sequences: 1,
                    context,
                    tokens: 64,
                },
            ],
            skipped: Vec::new(),
        };
        let fits = plan(2048).within(2113).unwrap();
        assert_eq!((fits.skipped.len(), fits.capacity()), (0, 2113));
        let less = plan(2048).within(511).unwrap();
        assert_eq!((&less.prefills[..], less.decodes.len()), (&[128][..], 1));
        assert_eq!(less.skipped.len(), 2);
        assert!(less.skipped[1].contains("2113 tokens"), "{:?}", less.skipped);
        let nothing = plan(usize::MAX).within(5).err().expect("nothing fits").to_string();
        assert!(nothing.contains("room for 5"), "{nothing}");
    }
}
