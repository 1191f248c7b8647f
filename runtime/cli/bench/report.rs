//! What `sterna bench` reports: the object of `--json`, the same as a table, and as a picture.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::ceiling;
use super::measure::{BenchError, Measurement};
use super::roofline::{Point, Series};
use super::start::{Memory, Start};
use crate::cli::common::CommandError;
use crate::engine::kv::{CacheType, CacheTypes, KvCache};
use crate::engine::sparsity::{self, Shares};
use crate::model::Config;

/// The object of `bench --json`. Keys are only ever added; `docs/benchmarks.md` explains them.
#[derive(Serialize)]
pub struct Report {
    pub schema: u32,
    pub version: &'static str,
    pub machine: MachineReport,
    pub target: &'static str,
    pub kernel: &'static str,
    pub model: ModelReport,
    pub steady: Steady,
    pub cache: CacheReport,
    /// By number of threads.
    pub ceilings: BTreeMap<usize, Ceilings>,
    /// Of each layer's feed-forward, while generating; empty where nothing was generated.
    pub sparsity: Vec<Shares>,
    /// Why no joules are reported; absent where they are.
    pub energy_unavailable: Option<String>,
    /// Only with `--start`.
    pub start: Option<Start>,
    pub results: Vec<Measurement>,
    /// What was asked for and not measured, and why.
    pub skipped: Vec<String>,
}

#[derive(Serialize)]
pub struct MachineReport {
    pub model_name: Option<String>,
    pub microarchitecture: Option<&'static str>,
    pub physical_cores: Option<u32>,
    pub logical_cores: Option<u32>,
    /// What `--threads auto` is here.
    pub auto_threads: usize,
}

#[derive(Serialize)]
pub struct ModelReport {
    pub name: String,
    pub architecture: String,
    pub file_bytes: usize,
}

/// The model in use, when nothing is built in the background any more.
#[derive(Serialize)]
pub struct Steady {
    /// From opening the model to its first token, with its pages in memory.
    pub first_token_ms: f64,
    /// From opening it to the steady state.
    pub settle_ms: f64,
    /// Bytes that a token reads of the ternary matrices, and of the output head.
    pub body_bytes: usize,
    pub head_bytes: usize,
    /// Of both, in memory of our own.
    pub own_bytes: usize,
    /// Of this process, before the buffers of the benchmark.
    pub memory: Option<Memory>,
}

/// The key/value cache of a sequence.
#[derive(Serialize)]
pub struct CacheReport {
    pub type_k: CacheType,
    pub type_v: CacheType,
    /// That each token in the cache takes, and that each later token reads of it.
    pub bytes_per_token: u64,
}

impl CacheReport {
    pub fn new(config: &Config, types: CacheTypes) -> Self {
        CacheReport {
            type_k: types.k,
            type_v: types.v,
            bytes_per_token: KvCache::bytes_per_position(config, types),
        }
    }
}

#[derive(Serialize)]
pub struct Ceilings {
    /// Reading the mapped file.
    pub read_file_gb_per_s: f64,
    /// Reading memory of our own, in huge pages where the system gives them.
    pub read_own_gb_per_s: f64,
    /// The level's dot product on registers alone, in 10^9 multiply-adds.
    pub dot_gmac_per_s: f64,
}

impl Report {
    /// Takes a result; an error when the same work has another output on another number of threads.
    pub fn add(&mut self, result: Measurement) -> Result<(), CommandError> {
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

    pub fn write_head(&self, out: &mut impl Write) -> io::Result<()> {
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
        let CacheReport {
            type_k,
            type_v,
            bytes_per_token,
        } = self.cache;
        writeln!(
            out,
            "cache    keys {type_k}, values {type_v}: a token takes {:.1} KB",
            bytes_per_token as f64 / 1e3
        )?;
        for skipped in &self.skipped {
            writeln!(out, "skipped  {skipped}")?;
        }
        writeln!(out, "\n{}", Measurement::HEADER)
    }

    pub fn write_foot(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out)?;
        for (threads, ceilings) in &self.ceilings {
            writeln!(
                out,
                "{threads} threads: reading alone {:.1} GB/s from the file and {:.1} from memory of our own, dot products \
                 alone {:.1} GMAC/s",
                ceilings.read_file_gb_per_s, ceilings.read_own_gb_per_s, ceilings.dot_gmac_per_s
            )?;
        }
        if !self.sparsity.is_empty() {
            writeln!(out, "feed-forward: {}", sparsity::summary(&self.sparsity))?;
        }
        let steady = &self.steady;
        writeln!(
            out,
            "after opening the model: first token {:.0} ms, steady state {:.0} ms",
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

    pub fn title(&self) -> String {
        format!("{} on {}", self.model.name, self.machine_name())
    }

    pub fn subtitle(&self) -> String {
        format!(
            "Sterna {}, target {}, kernels {}; ceilings measured in the same run",
            self.version, self.target, self.kernel
        )
    }

    /// For the picture: each token's bytes come at the rate of their memory, so the roof is that of the model's mixture.
    pub fn series(&self) -> Vec<Series> {
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
