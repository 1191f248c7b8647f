//! `sterna bench MODEL`: how fast this machine runs a model, and what fraction that is of what it could.
//!
//! Speeds on shared machines drift by half and more within minutes, so a number of tokens a second means little
//! alone: every repeat is paired with a pass that only reads memory, and its fraction of that is what to compare.

mod measure;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::common::{CommandError, ModelArgs};
use crate::engine::SubmitError;
use crate::engine::sampling::argmax;
use crate::engine::session::Session;
use crate::kernels::{TARGET, Variant};
use crate::machine::cpu::Machine;
use crate::machine::limits::{Limits, Threads};
use crate::model::{MapOptions, Model, Opened};
use crate::text::Tokenizer;
use measure::{Bench, Measurement};

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Numbers of threads
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', default_value = "auto")]
    threads: Vec<Threads>,
    /// Prompt lengths, in tokens
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128,512")]
    prefill: Vec<usize>,
    /// Tokens to generate
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "64")]
    decode: Vec<usize>,
    /// Tokens that precede those generated
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0")]
    context: Vec<usize>,
    /// Repeats of each measurement, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// The object of `bench --json`.
#[derive(Serialize)]
struct Report {
    machine: MachineReport,
    target: &'static str,
    kernel: &'static str,
    model: ModelReport,
    /// What a pass that only reads reaches, by number of threads.
    read_gb_per_s: BTreeMap<usize, f64>,
    /// What the ternary matrix product reaches with weights in the cache, in 10^9 multiply-adds, by number of threads.
    dot_gmac_per_s: BTreeMap<usize, f64>,
    start: Start,
    results: Vec<Measurement>,
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
    /// Ternary matrices.
    body_bytes: usize,
    /// Output head.
    head_bytes: usize,
}

#[derive(Serialize)]
struct Start {
    /// Only a server has it.
    health_ms: Option<f64>,
    /// From opening the file, with its pages in memory, to the first token.
    first_token_ms: f64,
    /// Resident memory after that token, the model's pages included.
    resident_bytes: Option<u64>,
}

/// Runs the command.
pub fn run(args: BenchArgs, machine: &Machine) -> Result<(), CommandError> {
    let kernels = args.model.kernels(machine)?;
    let threads: Vec<usize> = args.threads.iter().map(|threads| threads.resolve()).collect();
    let first_threads = threads.first().copied().unwrap_or(1);
    // The first time may have to read the file from a disk.
    first_token(&args.model.model, kernels, first_threads)?;
    let start = first_token(&args.model.model, kernels, first_threads)?;
    let opened = args.model.open()?;
    let capacity = capacity(&args, opened.model.config.context)?;
    let model = Arc::new(opened.model);
    let mut report = Report {
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
            body_bytes: measure::body_bytes(&model),
            head_bytes: model.embedding.data.len(),
        },
        read_gb_per_s: BTreeMap::new(),
        dot_gmac_per_s: BTreeMap::new(),
        start,
        results: Vec::new(),
    };
    let mut out = io::stdout().lock();
    if !args.json {
        report.write_head(&mut out)?;
    }
    let l3_bytes = machine.l3.map(|cache| cache.bytes);
    for &threads in &threads {
        let session = Session::new(Arc::clone(&model), kernels, threads, capacity, 512);
        let mut bench = Bench::new(&model, kernels, session, args.repeats, l3_bytes);
        let prefills = args.prefill.iter().filter(|&&tokens| tokens > 0);
        let mut results: Vec<Measurement> = prefills
            .map(|&tokens| bench.prefill(tokens))
            .collect::<Result<_, _>>()?;
        for &context in &args.context {
            for &tokens in args.decode.iter().filter(|&&tokens| tokens > 0) {
                results.push(bench.decode(context, tokens)?);
            }
        }
        report.read_gb_per_s.insert(threads, bench.read_gb_per_s());
        report.dot_gmac_per_s.insert(threads, bench.dot_gmac_per_s());
        if !args.json {
            results.iter().try_for_each(|result| result.write(&mut out))?;
        }
        report.results.append(&mut results);
    }
    if args.json {
        let json = serde_json::to_string_pretty(&report).expect("numbers and strings");
        writeln!(out, "{json}")?;
    } else {
        report.write_foot(&mut out)?;
    }
    Ok(())
}

/// Tokens of context that the longest measurement needs.
fn capacity(args: &BenchArgs, trained: usize) -> Result<usize, CommandError> {
    let longest = |list: &[usize]| list.iter().copied().max().unwrap_or(0);
    let decode = longest(&args.context)
        .saturating_add(longest(&args.decode))
        .saturating_add(1);
    let tokens = longest(&args.prefill).max(decode);
    if tokens > trained {
        return Err(SubmitError::PromptTooLong {
            tokens,
            context: trained,
        }
        .into());
    }
    Ok(tokens)
}

/// Opens the model anew and takes one token from it.
fn first_token(path: &Path, kernels: &'static Variant, threads: usize) -> Result<Start, CommandError> {
    let began = Instant::now();
    let Opened { gguf, model, .. } = Model::open(path, MapOptions::default())?;
    let tokenizer = Tokenizer::from_gguf(&gguf, None)?;
    let prompt = tokenizer.encode("Hello", true, true);
    let mut session = Session::new(Arc::new(model), kernels, threads, prompt.len(), prompt.len());
    argmax(session.feed(&prompt)?);
    Ok(Start {
        health_ms: None,
        first_token_ms: began.elapsed().as_secs_f64() * 1e3,
        resident_bytes: resident_bytes(),
    })
}

/// `VmRSS` of /proc/self/status.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

impl Report {
    fn write_head(&self, out: &mut impl Write) -> io::Result<()> {
        const MB: f64 = 1e6;
        writeln!(
            out,
            "machine  {}",
            self.machine.model_name.as_deref().unwrap_or("unknown")
        )?;
        writeln!(out, "target   {}, kernels {}", self.target, self.kernel)?;
        writeln!(
            out,
            "model    {} ({}): {:.0} MB ternary, {:.0} MB head",
            self.model.name,
            self.model.architecture,
            self.model.body_bytes as f64 / MB,
            self.model.head_bytes as f64 / MB,
        )?;
        writeln!(out)?;
        writeln!(
            out,
            "kind     threads  tokens  context  tokens/s  spread  MB/token  of read  of dot  output"
        )
    }

    fn write_foot(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out)?;
        for (threads, read) in &self.read_gb_per_s {
            let dot = self.dot_gmac_per_s[threads];
            writeln!(
                out,
                "{threads} threads: reading alone {read:.1} GB/s, matrix products in cache {dot:.1} GMAC/s"
            )?;
        }
        writeln!(out, "first token {:.0} ms after the start", self.start.first_token_ms)?;
        if let Some(bytes) = self.start.resident_bytes {
            writeln!(out, "resident    {:.0} MB after it", bytes as f64 / 1e6)?;
        }
        Ok(())
    }
}
