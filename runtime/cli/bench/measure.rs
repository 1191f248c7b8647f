//! The measurements: prompts and generation, in short slices between passes that measure the machine's ceilings.
//!
//! A shared machine's memory drifts by half within seconds. So a generation is timed in slices of a few tokens, each
//! slice is held against what reading reached just before and just after it, and the median slice counts.

use std::io::{self, Write};
use std::time::Instant;

use serde::Serialize;

use super::ceiling::{self, Rates, Reader};
use super::energy::{Energy, Reading};
use super::plan::TooLarge;
use super::runner::{Hash, Read, Runner};
use super::stats::{median, spread};
use crate::engine::StartError;
use crate::engine::forward::{Forward, PassError};
use crate::engine::head::Need;
use crate::engine::kv::{CacheTypes, KvCache};
use crate::engine::sparsity::Shares;
use crate::kernels::Variant;
use crate::model::{Model, Ternary};

/// Tokens of a slice.
pub const SLICE: usize = 8;

/// One line of the results. Rates are of all sequences together.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// `prefill` or `decode`.
    pub kind: &'static str,
    pub threads: usize,
    /// Sequences side by side: 1 for a prompt.
    pub sequences: usize,
    /// Tokens of the prompt, or generated in each sequence.
    pub tokens: usize,
    /// Tokens in each sequence before the first of these.
    pub context: usize,
    /// Median of the repeats.
    pub tokens_per_s: f64,
    /// (Fastest - slowest) / median of the repeats.
    pub spread: f64,
    /// Weights and cache that have to be read for a token: the median of the repeats.
    pub bytes_per_token: f64,
    /// Time that reading these bytes takes / time taken: the median of the slices.
    pub fraction_of_read: f64,
    /// Multiply-adds of the ternary matrices, in 10^9 per second.
    pub gmac_per_s: f64,
    /// Of what dot products on registers reach: the median of the repeats.
    pub fraction_of_dot: f64,
    /// Multiply-adds a token, of the ternary matrices and of the output head as often as it is used.
    pub macs_per_token: f64,
    /// Of the processor packages; absent where no counter can be read.
    pub joules_per_token: Option<f64>,
    /// Of the tokens (decode), or of the last logits' bits (prefill): equal on every machine, level and number of threads.
    pub output_hash: String,
}

impl Measurement {
    pub const HEADER: &'static str =
        "kind     threads  seqs  tokens  context  tokens/s  spread  MB/token  of read  of dot  J/token  output";

    /// A line of the table.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let joules = self.joules_per_token.map_or("-".to_owned(), |j| format!("{j:.2}"));
        writeln!(
            out,
            "{:8} {:7} {:5} {:7} {:8} {:9.2} {:6.0}% {:9.1} {:7.0}% {:6.0}% {:>8}  {}",
            self.kind,
            self.threads,
            self.sequences,
            self.tokens,
            self.context,
            self.tokens_per_s,
            self.spread * 100.0,
            self.bytes_per_token / 1e6,
            self.fraction_of_read * 100.0,
            self.fraction_of_dot * 100.0,
            joules,
            self.output_hash,
        )
    }

    /// Whether the other measures the same work, on whatever threads: then the outputs must be equal.
    pub fn same_work(&self, other: &Measurement) -> bool {
        let work = |m: &Measurement| (m.kind, m.sequences, m.tokens, m.context);
        work(self) == work(other)
    }
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The model failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The sequences have no room.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The sequences have no room in memory.
    #[error(transparent)]
    Memory(#[from] TooLarge),
    /// The same work gave another output.
    #[error("{work} gave the output {one} and then {other}: report this, with the machine's name")]
    Unsteady {
        /// What was done.
        work: String,
        /// Hash of the first.
        one: String,
        /// Hash of another.
        other: String,
    },
}

/// A model on one number of threads.
pub struct Bench<'a, 'm> {
    runner: Runner,
    kernels: &'static Variant,
    repeats: u32,
    reader: &'a mut Reader<'m>,
    ahead: usize,
    energy: Option<&'a Energy>,
    /// Read passes and dot products so far.
    rates: Vec<Rates>,
    dots: Vec<f64>,
}

/// How a [`Bench`] measures.
pub struct Setup<'a, 'm> {
    pub kernels: &'static Variant,
    /// Most sequences of a measurement.
    pub sequences: usize,
    /// Tokens of context that the longest measurement needs.
    pub capacity: usize,
    pub cache: CacheTypes,
    pub repeats: u32,
    pub reader: &'a mut Reader<'m>,
    pub energy: Option<&'a Energy>,
}

impl<'a, 'm> Bench<'a, 'm> {
    /// Takes a pass of a model that is as fast as it gets.
    pub fn new(forward: Forward, setup: Setup<'a, 'm>) -> Result<Self, StartError> {
        Ok(Bench {
            ahead: setup.reader.best_ahead(setup.kernels, forward.pool()),
            runner: Runner::new(forward, setup.cache, setup.sequences, setup.capacity)?,
            kernels: setup.kernels,
            repeats: setup.repeats,
            reader: setup.reader,
            energy: setup.energy,
            rates: Vec::new(),
            dots: Vec::new(),
        })
    }

    /// Medians of what reading reached, and of the dot product in multiply-adds per second.
    pub fn ceilings(&self) -> (Rates, f64) {
        let of = |rate: fn(&Rates) -> f64| median(&self.rates.iter().map(rate).collect::<Vec<_>>());
        let rates = Rates {
            file: of(|rates| rates.file),
            own: of(|rates| rates.own),
        };
        (rates, median(&self.dots))
    }

    /// How much of each layer's feed-forward was zero while generating.
    pub fn sparsity(&self) -> Vec<Shares> {
        self.runner.forward.sparsity()
    }

    /// A prompt of `tokens`, from an empty cache.
    pub fn prefill(&mut self, tokens: usize) -> Result<Measurement, BenchError> {
        let prompt = self.runner.prompt(0, tokens);
        self.runner.feed(0, 0, &prompt, Need::All)?; // once to touch all memory
        let cache = self.cache_bytes(0, tokens);
        let mut runs = Runs::default();
        for _ in 0..self.repeats {
            let (dot, before, energy) = (self.dot(), self.read(), self.energy());
            self.runner.take_read();
            let began = Instant::now();
            let hash = self.runner.feed(0, 0, &prompt, Need::All)?;
            let seconds = began.elapsed().as_secs_f64();
            let joules = self.joules(energy);
            let Read { total, own } = self.runner.take_read();
            let (bytes, own) = (total as f64 + cache, own as f64 + cache);
            let ideal = Rates::between(before, self.read()).seconds(bytes, own);
            runs.fractions.push(ideal / seconds);
            runs.push(seconds, bytes, dot, joules, hash);
        }
        let work = Work {
            kind: "prefill",
            sequences: 1,
            tokens,
            context: 0,
            head_rows: 1,
        };
        self.measurement(&work, &runs)
    }

    /// `tokens` greedy tokens in each of `sequences`, after `context` others.
    pub fn decode(&mut self, sequences: usize, context: usize, tokens: usize) -> Result<Measurement, BenchError> {
        let mut firsts = Vec::new();
        for sequence in 0..sequences {
            let prompt = self.runner.prompt(sequence, context + 1);
            firsts.push(prompt[context]);
            if context > 0 {
                self.runner.feed(sequence, 0, &prompt[..context], Need::None)?;
            }
        }
        self.runner.step(context, &mut firsts.clone())?; // once to touch all memory
        let mut runs = Runs::default();
        for _ in 0..self.repeats {
            let dot = self.dot();
            let mut last = firsts.clone();
            let (mut seconds, mut bytes, mut joules, mut hash) = (0.0, 0.0, Some(0.0), Hash::new());
            let mut before = self.read();
            for first in (0..tokens).step_by(SLICE) {
                let steps = SLICE.min(tokens - first);
                let energy = self.energy();
                self.runner.take_read();
                let began = Instant::now();
                for step in first..first + steps {
                    self.runner.step(context + step, &mut last)?;
                    last.iter().for_each(|&token| hash.add(token));
                }
                let took = began.elapsed().as_secs_f64();
                joules = joules.zip(self.joules(energy)).map(|(a, b)| a + b);
                let after = self.read();
                let Read { total, own } = self.runner.take_read();
                let cache = self.cache_bytes(context + first, steps) * sequences as f64;
                let (slice, own) = (total as f64 + cache, own as f64 + cache);
                runs.fractions
                    .push(Rates::between(before, after).seconds(slice, own) / took);
                before = after;
                bytes += slice;
                seconds += took;
            }
            runs.push(seconds, bytes, dot, joules, hash);
        }
        let work = Work {
            kind: "decode",
            sequences,
            tokens,
            context,
            head_rows: sequences * tokens,
        };
        self.measurement(&work, &runs)
    }

    fn measurement(&self, work: &Work, runs: &Runs) -> Result<Measurement, BenchError> {
        if let Some(other) = runs.hashes.iter().find(|hash| **hash != runs.hashes[0]) {
            return Err(BenchError::Unsteady {
                work: format!("{} of {} tokens", work.kind, work.tokens),
                one: runs.hashes[0].to_string(),
                other: other.to_string(),
            });
        }
        let all = (work.sequences * work.tokens) as f64;
        let speeds: Vec<f64> = runs.seconds.iter().map(|seconds| all / seconds).collect();
        let model = self.runner.forward.model();
        let of_dot = speeds.iter().zip(&runs.dots);
        let macs = macs(model, work) / all;
        let of_dot: Vec<f64> = of_dot.map(|(speed, dot)| speed * macs / dot).collect();
        let head_macs = (model.embedding.rows * model.embedding.cols * work.head_rows) as f64;
        let joules: Option<Vec<f64>> = runs.joules.iter().copied().collect();
        Ok(Measurement {
            kind: work.kind,
            threads: self.runner.forward.pool().threads(),
            sequences: work.sequences,
            tokens: work.tokens,
            context: work.context,
            tokens_per_s: median(&speeds),
            spread: spread(&speeds),
            bytes_per_token: median(&runs.bytes) / all,
            fraction_of_read: median(&runs.fractions),
            gmac_per_s: median(&speeds) * macs / 1e9,
            fraction_of_dot: median(&of_dot),
            macs_per_token: macs + head_macs / all,
            joules_per_token: joules.map(|joules| median(&joules) / all),
            output_hash: runs.hashes[0].to_string(),
        })
    }

    /// Bytes of keys and values that `steps` tokens of a sequence read, the first of them at `position`.
    fn cache_bytes(&self, position: usize, steps: usize) -> f64 {
        let positions: usize = (position + 1..=position + steps).sum();
        let config = &self.runner.forward.model().config;
        KvCache::bytes_per_position(config, self.runner.cache_types()) as f64 * positions as f64
    }

    fn read(&mut self) -> Rates {
        let rates = self.reader.read(self.kernels, self.runner.forward.pool(), self.ahead);
        self.rates.push(rates);
        rates
    }

    fn dot(&mut self) -> f64 {
        let dot = ceiling::dot_rate(self.kernels, self.runner.forward.pool());
        self.dots.push(dot);
        dot
    }

    fn energy(&self) -> Option<Reading> {
        self.energy?.read()
    }

    /// Since that reading.
    fn joules(&self, from: Option<Reading>) -> Option<f64> {
        let to = self.energy()?;
        Some(self.energy?.joules(&from?, &to))
    }
}

/// What a measurement does.
struct Work {
    kind: &'static str,
    sequences: usize,
    tokens: usize,
    context: usize,
    /// Rows of the output head's products.
    head_rows: usize,
}

/// The repeats of a measurement.
#[derive(Default)]
struct Runs {
    seconds: Vec<f64>,
    /// That all tokens of all sequences read.
    bytes: Vec<f64>,
    dots: Vec<f64>,
    joules: Vec<Option<f64>>,
    hashes: Vec<Hash>,
    /// Of the slices of all repeats.
    fractions: Vec<f64>,
}

impl Runs {
    fn push(&mut self, seconds: f64, bytes: f64, dot: f64, joules: Option<f64>, hash: Hash) {
        self.seconds.push(seconds);
        self.bytes.push(bytes);
        self.dots.push(dot);
        self.joules.push(joules);
        self.hashes.push(hash);
    }
}

/// Multiply-adds of the ternary matrices. Of tokens without logits the last layer computes keys and values alone.
fn macs(model: &Model, work: &Work) -> f64 {
    let of = |w: &Ternary| w.rows * w.cols;
    let matrices = model.layers.iter().flat_map(|layer| layer.matrices());
    let token: usize = matrices.map(|(_, w)| of(w)).sum();
    let last = model.layers.last().map_or(0, |layer| {
        let whole: usize = layer.matrices().iter().map(|(_, w)| of(w)).sum();
        whole - of(&layer.attn_k) - of(&layer.attn_v)
    });
    let tokens = work.sequences * work.tokens;
    (tokens * token) as f64 - ((tokens - work.head_rows) * last) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;

    #[test]
    fn the_last_layer_makes_keys_and_values_of_every_token_and_the_rest_where_there_are_logits() {
        let model = testing::model();
        let work = |tokens, head_rows| Work {
            kind: "prefill",
            sequences: 1,
            tokens,
            context: 0,
            head_rows,
        };
        let all: usize = model.matrices().map(|(_, w)| w.rows * w.cols).sum();
        assert_eq!(macs(&model, &work(3, 3)), 3.0 * all as f64);
        let last = &model.layers[model.layers.len() - 1];
        let rest = [
            &last.attn_q,
            &last.attn_output,
            &last.ffn_gate,
            &last.ffn_up,
            &last.ffn_down,
        ];
        let rest: usize = rest.map(|w| w.rows * w.cols).iter().sum();
        assert_eq!(macs(&model, &work(3, 1)), (3 * all - 2 * rest) as f64);
    }
}
