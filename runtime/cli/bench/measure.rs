//! The measurements: prompt, generation, and the two ceilings that they are compared with.

use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::engine::forward::PassError;
use crate::engine::kv::KvCache;
use crate::engine::sampling::argmax;
use crate::engine::session::Session;
use crate::kernels::{QuantRows, Variant};
use crate::machine::limits::Limits;
use crate::machine::pool::Pool;
use crate::model::{Model, Ternary};

/// One line of the results.
#[derive(Debug, Serialize)]
pub struct Measurement {
    /// `prefill` or `decode`.
    kind: &'static str,
    threads: usize,
    tokens: usize,
    /// Tokens in the cache before the first of these.
    context: usize,
    /// Median of the repeats.
    tokens_per_s: f64,
    /// (Fastest - slowest) / median.
    spread: f64,
    /// Weights and cache that have to be read for a token.
    bytes_per_token: f64,
    /// Of the same repeat's read pass; the median of the repeats.
    fraction_of_read: f64,
    /// Of the matrix product with weights in the cache.
    fraction_of_dot: f64,
    /// Of the tokens (decode), or of the last logits' bits (prefill): equal on every machine.
    output_hash: String,
}

impl Measurement {
    /// A line of the table.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{:8} {:7} {:7} {:8} {:9.2} {:6.0}% {:9.1} {:7.0}% {:6.0}%  {}",
            self.kind,
            self.threads,
            self.tokens,
            self.context,
            self.tokens_per_s,
            self.spread * 100.0,
            self.bytes_per_token / 1e6,
            self.fraction_of_read * 100.0,
            self.fraction_of_dot * 100.0,
            self.output_hash,
        )
    }
}

/// A model on one number of threads.
pub struct Bench {
    model: Arc<Model>,
    session: Session,
    repeats: u32,
    reader: Reader,
    /// Read passes so far, in bytes per second.
    reads: Vec<f64>,
    /// Multiply-adds per second of the matrix product in cache.
    dot: f64,
}

impl Bench {
    pub fn new(
        model: &Arc<Model>,
        kernels: &'static Variant,
        session: Session,
        repeats: u32,
        l3_bytes: Option<u64>,
    ) -> Self {
        let bench = Bench {
            model: Arc::clone(model),
            repeats,
            reader: Reader::new(model, l3_bytes),
            reads: Vec::new(),
            dot: dot_per_s(model, kernels, session.pool()),
            session,
        };
        // The first pass over a new mapping also pays for its page tables.
        bench.read();
        bench
    }

    /// Median of the read passes.
    pub fn read_gb_per_s(&self) -> f64 {
        median(&self.reads) / 1e9
    }

    /// In 10^9 multiply-adds per second.
    pub fn dot_gmac_per_s(&self) -> f64 {
        self.dot / 1e9
    }

    /// A prompt of `tokens`, from an empty cache.
    pub fn prefill(&mut self, tokens: usize) -> Result<Measurement, PassError> {
        let prompt = self.prompt(tokens);
        // Once to touch all memory.
        self.session.truncate(0);
        self.session.feed(&prompt)?;
        let (mut seconds, mut reads, mut hash) = (Vec::new(), Vec::new(), Hash::new());
        for _ in 0..self.repeats {
            reads.push(self.read());
            self.session.truncate(0);
            let began = Instant::now();
            let logits = self.session.feed(&prompt)?;
            seconds.push(began.elapsed().as_secs_f64());
            hash = Hash::new();
            logits.iter().for_each(|logit| hash.add(logit.to_bits()));
        }
        let passes = tokens.div_ceil(self.session.batch());
        let bytes = passes * body_bytes(&self.model) + self.model.embedding.data.len();
        let bytes_per_token = bytes as f64 / tokens as f64 + self.cache_bytes(tokens as f64 / 2.0);
        Ok(self.measurement("prefill", tokens, 0, bytes_per_token, seconds, reads, hash))
    }

    /// `tokens` greedy tokens after `context` others.
    pub fn decode(&mut self, context: usize, tokens: usize) -> Result<Measurement, PassError> {
        let prompt = self.prompt(context + 1);
        let (first, before) = prompt.split_last().expect("one token at least");
        self.session.truncate(0);
        if !before.is_empty() {
            self.session.feed(before)?;
        }
        let (mut seconds, mut reads, mut hash) = (Vec::new(), Vec::new(), Hash::new());
        for _ in 0..self.repeats {
            reads.push(self.read());
            self.session.truncate(context);
            let mut token = *first;
            hash = Hash::new();
            let began = Instant::now();
            for _ in 0..tokens {
                token = argmax(self.session.feed(&[token])?);
                hash.add(token);
            }
            seconds.push(began.elapsed().as_secs_f64());
        }
        let weights = body_bytes(&self.model) + self.model.embedding.data.len();
        let bytes_per_token = weights as f64 + self.cache_bytes(context as f64 + tokens as f64 / 2.0);
        Ok(self.measurement("decode", tokens, context, bytes_per_token, seconds, reads, hash))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call a kind, each value from another place"
    )]
    fn measurement(
        &mut self,
        kind: &'static str,
        tokens: usize,
        context: usize,
        bytes_per_token: f64,
        seconds: Vec<f64>,
        reads: Vec<f64>,
        hash: Hash,
    ) -> Measurement {
        let speeds: Vec<f64> = seconds.iter().map(|seconds| tokens as f64 / seconds).collect();
        let fractions: Vec<f64> = speeds
            .iter()
            .zip(&reads)
            .map(|(speed, read)| speed * bytes_per_token / read)
            .collect();
        let tokens_per_s = median(&speeds);
        let fastest = speeds.iter().copied().fold(0.0, f64::max);
        let slowest = speeds.iter().copied().fold(f64::INFINITY, f64::min);
        self.reads.extend(reads);
        Measurement {
            kind,
            threads: self.session.pool().threads(),
            tokens,
            context,
            tokens_per_s,
            spread: (fastest - slowest) / tokens_per_s,
            bytes_per_token,
            fraction_of_read: median(&fractions),
            fraction_of_dot: tokens_per_s * macs(&self.model) as f64 / self.dot,
            output_hash: hash.to_string(),
        }
    }

    /// Tokens that are the same for every model of this vocabulary, and far apart in the embedding.
    fn prompt(&self, tokens: usize) -> Vec<u32> {
        let vocab = self.model.config.vocab;
        (0..tokens).map(|i| (i.wrapping_mul(7919) % vocab) as u32).collect()
    }

    /// Bytes of keys and values that `positions` hold.
    fn cache_bytes(&self, positions: f64) -> f64 {
        KvCache::bytes_per_position(&self.model.config) as f64 * positions
    }

    fn read(&self) -> f64 {
        self.reader.bytes_per_s(&self.model, self.session.pool())
    }
}

/// Bytes of the ternary matrices.
pub fn body_bytes(model: &Model) -> usize {
    matrices(model).map(|matrix| matrix.packed.len()).sum()
}

/// Multiply-adds of the ternary matrices for one token.
fn macs(model: &Model) -> usize {
    matrices(model).map(|matrix| matrix.rows * matrix.cols).sum()
}

fn matrices(model: &Model) -> impl Iterator<Item = &Ternary> {
    model
        .layers
        .iter()
        .flat_map(|layer| layer.matrices().map(|(_, matrix)| matrix))
}

/// What is read to find out how fast memory is: the model itself, or other memory when it could stay in a cache.
enum Reader {
    Model,
    Memory(Vec<u8>),
}

impl Reader {
    fn new(model: &Model, l3_bytes: Option<u64>) -> Self {
        const LEAST: u64 = 256 << 20;
        let enough = l3_bytes.unwrap_or(0).saturating_mul(8).max(LEAST);
        if (*model.mapping).as_ref().len() as u64 >= enough {
            return Reader::Model;
        }
        let allowed = Limits::read().memory_bytes.map_or(enough, |bytes| bytes / 4);
        // Ones: pages of zeros may all be the same page.
        Reader::Memory(vec![1; enough.min(allowed) as usize])
    }

    /// One pass, each thread over its own share.
    fn bytes_per_s(&self, model: &Model, pool: &Pool) -> f64 {
        let bytes = match self {
            Reader::Model => (*model.mapping).as_ref(),
            Reader::Memory(bytes) => bytes,
        };
        let share = bytes.len() / pool.threads();
        let total = AtomicU64::new(0);
        let began = Instant::now();
        pool.run(&|thread| {
            total.fetch_add(sum(&bytes[thread * share..][..share]), Ordering::Relaxed);
        });
        let seconds = began.elapsed().as_secs_f64();
        black_box(total);
        (share * pool.threads()) as f64 / seconds
    }
}

/// The sum of `bytes` as 64-bit words, in eight independent sums that the compiler makes vectors of.
///
/// One linear stream a thread, as hardware prefetchers want it: on Zen 4 this plain Rust for the baseline reads as fast as
/// AVX-512 loads with software prefetch, and 2.4 times as fast as four streams side by side.
fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 8];
    for line in bytes.as_chunks::<64>().0 {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// Multiply-adds per second of the ternary matrix product when its weights stay in the cache: rows of the model's first
/// matrix, as many as fit, times 64 tokens.
fn dot_per_s(model: &Model, kernels: &Variant, pool: &Pool) -> f64 {
    const TOKENS: usize = 64;
    const BYTES_PER_THREAD: usize = 128 << 10;
    let whole = &model.layers[0].ffn_gate;
    let row_bytes = whole.cols / 4;
    let rows = (BYTES_PER_THREAD / row_bytes * pool.threads()).clamp(1, whole.rows);
    let part = Ternary {
        packed: whole.packed.slice(0..rows * row_bytes).expect("rows of the matrix"),
        rows,
        ..whole.clone()
    };
    let x: Vec<f32> = (0..TOKENS * part.cols).map(|i| (i % 251) as f32 - 125.0).collect();
    let (mut quant, mut y) = (QuantRows::default(), vec![0.0; TOKENS * rows]);
    kernels.quantize(pool, &x, part.cols, &mut quant);
    let mut once = || {
        let began = Instant::now();
        kernels.linear(pool, &quant, &mut [(&part, &mut y)]);
        (TOKENS * rows * part.cols) as f64 / began.elapsed().as_secs_f64()
    };
    // For a fifth of a second: long enough for a median that a neighbour does not move.
    let began = Instant::now();
    let mut speeds = Vec::new();
    while speeds.len() < 5 || began.elapsed().as_millis() < 200 {
        speeds.push(once());
    }
    median(&speeds)
}

/// The middle one; of an even number the upper middle one.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// FNV-1a, 64 bits, over little-endian words.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, word: u32) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 3.0);
    }

    #[test]
    fn the_read_pass_reads_every_word() {
        let bytes: Vec<u8> = (0..64 * 5).map(|i| u8::from(i % 8 == 0)).collect();
        assert_eq!(sum(&bytes), 40);
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hash = Hash::new();
        hash.add(u32::from_le_bytes(*b"foob"));
        assert_eq!(hash.to_string(), "dd120e790c2512af");
    }
}
