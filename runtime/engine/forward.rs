//! The forward pass: rows of (sequence, position, token) through the transformer.
//!
//! A row is one token of one sequence, so a pass can hold a piece of one prompt beside the next token of
//! other sequences. Rows meet only in attention, and there only with rows of their own sequence that are
//! already in the cache: a row's result has the same bits in any company, on any number of threads.

use std::sync::Arc;

use super::head::{Head, Logits, Need};
use super::kv::KvCache;
use super::sparsity::{COUNTED, Counts, Shares};
use crate::kernels::{Angles, AttentionScratch, Heads, Live, QuantRows, Tile, Variant, give_back};
use crate::machine::pool::Pool;
use crate::model::{Config, Model};

/// One token to process.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Index of its sequence's cache.
    pub cache: usize,
    /// Position in the sequence; all earlier ones are in the cache or come earlier in the same pass.
    pub position: usize,
    /// The token, inside the vocabulary.
    pub token: u32,
    /// What is wanted of its logits.
    pub need: Need,
}

/// A value of the pass was infinite or not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model produced a non-finite value: its weights or scales are damaged, get the file again")]
pub struct NonFinite;

/// The mapped file changed under the pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model file was changed or cut short while it was in use: restart with a complete file")]
pub struct Lost;

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// Of one row.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
    /// Of all rows, from now on.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// What a pass streams from memory, in the form that is in use now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of the ternary matrices, once a pass, however many rows it has. Where zeros are skipped, what some row of the last pass
    /// needed.
    pub body: usize,
    /// Bytes of the output head, once a pass in which some row wants its logits: those that the last such pass read of the codes and of
    /// the matrix.
    pub head: usize,
    /// Of both: bytes in memory of our own, which lies in huge pages where the system gives them. The rest is the mapped file's.
    pub own: usize,
}

/// A model with what one thread needs to run it.
pub struct Forward {
    model: Arc<Model>,
    kernels: &'static Variant,
    pool: Pool,
    /// RoPE: angle per position of pair i, base^(-2i / dim). (head_dim / 2)
    frequencies: Vec<f64>,
    /// Of each layer, over the passes of few rows.
    sparsity: Vec<Counts>,
    scratch: Scratch,
}

/// Buffers of a pass, grown to the largest pass so far. Shapes with n = rows.
#[derive(Default)]
struct Scratch {
    /// Residual stream (n, hidden).
    x: Vec<f32>,
    /// Rows that go through the whole last layer, ascending.
    kept: Vec<usize>,
    /// Input of a matrix product (n, its columns), normalised and quantised.
    quant: QuantRows,
    /// Queries (n, heads, head_dim).
    q: Vec<f32>,
    /// Keys (n, kv_heads, head_dim).
    k: Vec<f32>,
    /// Values (n, kv_heads, head_dim).
    v: Vec<f32>,
    /// Output of attention (n, heads, head_dim).
    mixed: Vec<f32>,
    /// The columns of down that are not skipped.
    live: Live,
    /// (n, ffn)
    gate: Vec<f32>,
    /// (n, ffn)
    up: Vec<f32>,
    /// (n, head_dim / 2)
    cos: Vec<f32>,
    /// (n, head_dim / 2)
    sin: Vec<f32>,
    head: Head,
    /// Rows that had a non-finite value (n).
    broken: Vec<bool>,
    /// The rows by sequence and block of positions.
    tiles: Vec<Tile>,
    attention: AttentionScratch,
    /// Passes since the last one of many rows.
    narrow: u32,
}

impl Scratch {
    /// Before a pass of so many rows: gives back the memory that those of many took, once the same sequences have gone on for a while. For 256 rows of a
    /// 2B model these are 25 MB, which take the next prompt 11 ms of its first 1.5 s to get back (Zen 3).
    fn settle(&mut self, rows: usize) {
        const A_WHILE: u32 = 16;
        self.narrow = if rows > COUNTED {
            0
        } else {
            self.narrow.saturating_add(1)
        };
        if self.narrow == A_WHILE {
            let floats = [
                &mut self.x,
                &mut self.q,
                &mut self.k,
                &mut self.v,
                &mut self.mixed,
                &mut self.gate,
                &mut self.up,
            ];
            floats.into_iter().for_each(|buffer| give_back(buffer));
            self.quant.q.give_back();
        }
    }
}

/// What a pass computed.
pub struct Output<'a> {
    scratch: &'a Scratch,
    pool: &'a Pool,
    vocab: usize,
}

impl<'a> Output<'a> {
    /// The logits of a row that wanted them.
    pub fn logits(&self, row: usize) -> Result<Logits<'a>, NonFinite> {
        self.check(row)?;
        Ok(self.scratch.head.logits(row, self.vocab))
    }

    /// The threads of the pass, idle by now.
    pub fn pool(&self) -> &'a Pool {
        self.pool
    }

    /// Whether all values of a row were finite. If not, its sequence's cache is spoilt.
    pub fn check(&self, row: usize) -> Result<(), NonFinite> {
        if self.scratch.broken[row] {
            Err(NonFinite)
        } else {
            Ok(())
        }
    }
}

impl Forward {
    /// Prepares to run `model` on `threads` threads, the calling one included.
    pub fn new(model: Arc<Model>, kernels: &'static Variant, threads: usize) -> Self {
        let dim = model.config.head_dim;
        let base = f64::from(model.config.rope_base);
        let frequency = |i| libm::pow(base, -2.0 * i as f64 / dim as f64);
        Forward {
            frequencies: (0..dim / 2).map(frequency).collect(),
            sparsity: vec![Counts::default(); model.layers.len()],
            model,
            kernels,
            pool: Pool::new(threads),
            scratch: Scratch::default(),
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The threads of the pass.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What a pass reads, the cache aside: the one account of it, kept true by whoever changes what is read.
    pub fn traffic(&self) -> Traffic {
        let (mut body, mut own) = (0, 0);
        let skipping = self.kernels.skipping();
        let layouts = [self.kernels.packing(), skipping.up, skipping.down];
        for (layer, counts) in self.model.layers.iter().zip(&self.sparsity) {
            for (_, w) in layer.matrices() {
                let repacked = w.repacked().filter(|p| layouts.contains(&Some(p.packing)));
                let bytes = repacked.as_ref().map_or(w.packed.len(), |packed| {
                    // What some row of the last pass needed: as all weights, once for all of its rows.
                    let skipped = match Some(packed.packing) {
                        up if up == skipping.up => counts.last_skipped().gate_closed,
                        down if down == skipping.down => counts.last_skipped().down_zero,
                        _ => 0.0,
                    };
                    (packed.data.len() as f64 * (1.0 - skipped)) as usize
                });
                body += bytes;
                if repacked.is_some() || !self.model.mapping.is_mapped() {
                    own += bytes;
                }
            }
        }
        let (head, of_head) = self.head().traffic(&self.model);
        own += of_head;
        Traffic { body, head, own }
    }

    /// How much of each layer's feed-forward was zero in the passes of at most [`COUNTED`] rows: those that generate. Empty before
    /// the first.
    pub fn sparsity(&self) -> Vec<Shares> {
        self.sparsity.iter().filter_map(Counts::shares).collect()
    }

    /// The output head, and what it did in the last pass.
    pub fn head(&self) -> &Head {
        &self.scratch.head
    }

    /// Processes `rows`, at least one. Their keys and values go into `caches`.
    pub fn pass(&mut self, caches: &mut [KvCache], rows: &[Row]) -> Result<Output<'_>, Lost> {
        self.run(caches, rows, |row| row.need != Need::None)
    }

    /// The same for the counts of [`Forward::sparsity`]: rows without logits, too, go through all of the last layer.
    pub fn count(&mut self, caches: &mut [KvCache], rows: &[Row]) -> Result<Output<'_>, Lost> {
        self.run(caches, rows, |_| true)
    }

    fn run(&mut self, caches: &mut [KvCache], rows: &[Row], keep: impl Fn(&Row) -> bool) -> Result<Output<'_>, Lost> {
        self.scratch.settle(rows.len());
        self.embed(rows);
        let kept = &mut self.scratch.kept;
        kept.clear();
        kept.extend((0..rows.len()).filter(|&r| keep(&rows[r])));
        for layer in 0..self.model.layers.len() {
            let n = self.attention_block(layer, caches, rows);
            if n > 0 {
                self.ffn_block(layer, n);
            }
        }
        self.run_head(rows);
        // Bytes of a page that is gone read as zero: whatever was computed with them is wrong.
        if self.model.mapping.lost() {
            return Err(Lost);
        }
        Ok(Output {
            scratch: &self.scratch,
            pool: &self.pool,
            vocab: self.model.config.vocab,
        })
    }

    /// x = token_embd\[token\]; and what all layers share: the rows' RoPE angles, and their tiles.
    fn embed(&mut self, rows: &[Row]) {
        let s = &mut self.scratch;
        Tile::collect(rows.iter().map(|row| (row.cache, row.position)), &mut s.tiles);
        let half = self.frequencies.len();
        let hidden = self.model.config.hidden;
        let x = grow(&mut s.x, rows.len() * hidden);
        let (cos, sin) = (grow(&mut s.cos, rows.len() * half), grow(&mut s.sin, rows.len() * half));
        for (r, row) in rows.iter().enumerate() {
            self.kernels.embed(
                &self.model.embedding,
                row.token as usize,
                &mut x[r * hidden..][..hidden],
            );
            for (i, frequency) in self.frequencies.iter().enumerate() {
                // libm and f64: the same bits on every CPU.
                let (sine, cosine) = libm::sincos(row.position as f64 * frequency);
                cos[r * half + i] = cosine as f32;
                sin[r * half + i] = sine as f32;
            }
        }
    }

    /// x += Wo rms(attention(rope(Wq h), rope(Wk h), Wv h)), h = rms(x). How many rows x has then: of the last layer nothing but keys and
    /// values is needed of a row without logits, so there the kept ones go on, moved together.
    fn attention_block(&mut self, index: usize, caches: &mut [KvCache], rows: &[Row]) -> usize {
        let (config, layer) = (&self.model.config, &self.model.layers[index]);
        let (kernels, pool, eps) = (self.kernels, &self.pool, config.rms_eps);
        let (hidden, half) = (config.hidden, self.frequencies.len());
        let heads = Heads::of(config);
        let (q_width, kv_width) = (heads.q * heads.dim, heads.kv * heads.dim);
        let s = &mut self.scratch;
        let mut n = rows.len();
        let all = s.kept.len() == n || index + 1 < config.layers;

        kernels.norm_quantize(pool, &s.x[..n * hidden], &layer.attn_norm, eps, &mut s.quant);
        let k = grow(&mut s.k, n * kv_width);
        let v = grow(&mut s.v, n * kv_width);
        let mut jobs = [
            (&layer.attn_k, &mut *k),
            (&layer.attn_v, &mut *v),
            (&layer.attn_q, &mut []),
        ];
        let jobs = if all {
            jobs[2].1 = grow(&mut s.q, n * q_width);
            &mut jobs[..]
        } else {
            &mut jobs[..2]
        };
        kernels.linear(pool, &s.quant, jobs);
        let angles = Angles::of(&s.cos, &s.sin, n * half);
        kernels.store(pool, heads, angles, (k, v), caches, index, &s.tiles);
        if !all {
            // All that shows whether the others are fit to be read by later ones.
            s.broken.clear();
            let finite = |r: usize| [&*k, &*v].map(|x| all_finite(&x[r * kv_width..][..kv_width])) == [true; 2];
            s.broken.extend((0..n).map(|r| !finite(r)));
            n = s.kept.len();
            if n == 0 {
                return 0;
            }
            for (to, &from) in s.kept.iter().enumerate() {
                s.x.copy_within(from * hidden..(from + 1) * hidden, to * hidden);
                s.cos.copy_within(from * half..(from + 1) * half, to * half);
                s.sin.copy_within(from * half..(from + 1) * half, to * half);
            }
            s.quant.keep(&s.kept, hidden);
            let kept = s.kept.iter().map(|&r| (rows[r].cache, rows[r].position));
            Tile::collect(kept, &mut s.tiles);
            let q = grow(&mut s.q, n * q_width);
            kernels.linear(pool, &s.quant, &mut [(&layer.attn_q, q)]);
        }
        let q = &mut s.q[..n * q_width];
        kernels.rotate(pool, heads, Angles::of(&s.cos, &s.sin, n * half), q);
        let mixed = grow(&mut s.mixed, n * q_width);
        kernels.attention(pool, heads, q, caches, index, &s.tiles, &mut s.attention, mixed);

        kernels.norm_quantize(pool, mixed, &layer.attn_sub_norm, eps, &mut s.quant);
        kernels.linear_add(pool, &s.quant, &layer.attn_output, &mut s.x[..n * hidden]);
        n
    }

    /// x += Wdown rms(relu(Wgate h)^2 * (Wup h)), h = rms(x).
    fn ffn_block(&mut self, index: usize, n: usize) {
        let (config, layer) = (&self.model.config, &self.model.layers[index]);
        let (kernels, pool, eps) = (self.kernels, &self.pool, config.rms_eps);
        let s = &mut self.scratch;
        let x = &mut s.x[..n * config.hidden];

        let gate = grow(&mut s.gate, n * config.ffn);
        let up = grow(&mut s.up, n * config.ffn);
        kernels.norm_quantize(pool, x, &layer.ffn_norm, eps, &mut s.quant);
        kernels.linear_gated(pool, &s.quant, (&layer.ffn_gate, gate), (&layer.ffn_up, up));

        kernels.gated_norm_quantize(pool, (gate, up), &layer.ffn_sub_norm, eps, &mut s.quant);
        let skipping = layer.skipping(kernels.skipping());
        if let Some(shares) = self.sparsity[index].add(gate, &s.quant.q, n, skipping) {
            layer.gates_closed.add(shares.gate_closed, n);
            layer.down_zeros.add(shares.down_zero, n);
        }
        kernels.linear_sparse_add(pool, &s.quant, &layer.ffn_down, &mut s.live, x);
    }

    /// The logits of the rows that want them; and which rows are broken.
    ///
    /// Quantising a row with a value that is not finite makes all that is computed from it NaN, up to x: only
    /// hostile weights, or an overflow of f32 that they cause, come to that.
    fn run_head(&mut self, rows: &[Row]) {
        let hidden = self.model.config.hidden;
        let s = &mut self.scratch;
        let x = &s.x[..s.kept.len() * hidden];
        s.broken.resize(rows.len(), false);
        for (x, &r) in x.chunks_exact(hidden).zip(&s.kept) {
            s.broken[r] = !all_finite(x);
        }
        let kept = s.kept.iter().map(|&r| (r, rows[r].need));
        s.head
            .run(self.kernels, &self.pool, &self.model, x, kept, &mut s.broken);
    }
}

/// Bytes that the buffers of passes take, at most: of `rows` rows, `wanted` of which want logits.
pub fn buffer_bytes(config: &Config, threads: usize, rows: usize, wanted: usize) -> u64 {
    /// Of a thread: half of its stack, the sums of a product, and attention's parts, scores and state.
    const THREAD: usize = 3 << 20;
    let float = size_of::<f32>();
    let (q_width, kv_width) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    // x, q, k, v, mixed, gate, up, cos and sin; then the input of a product in int8, and queries in int16.
    let floats = config.hidden + 2 * q_width + 2 * kv_width + 2 * config.ffn + config.head_dim;
    let row = floats * float + config.hidden.max(config.ffn) + q_width * size_of::<i16>();
    // x, h and the integers of the coarse pass; logits, sums and both ends of the intervals.
    let head = config.hidden * (2 * float + size_of::<i16>()) + config.vocab * 4 * float;
    let all = [(threads, THREAD), (rows, row), (wanted, head)];
    all.iter().fold(0, |sum: u64, &(n, bytes)| {
        sum.saturating_add((n as u64).saturating_mul(bytes as u64))
    })
}

/// The first `len` elements, after growing to so many.
pub(super) fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        // Nothing in a buffer outlives its pass: allocating anew is zeroed by the system, and copies nothing.
        *buffer = vec![T::default(); len];
    }
    &mut buffer[..len]
}

/// No infinity and no NaN: those have all exponent bits set. Without an early exit, so that it vectorises.
pub(super) fn all_finite(x: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !x.iter()
        .fold(false, |found, x| found | (x.to_bits() & EXPONENT == EXPONENT))
}

#[cfg(test)]
mod tests;
