//! The operations of the forward pass, split over the pool's threads.
//!
//! Threads split rows, heads or tokens, never a sum: results do not depend on their number.

use super::reference;
use crate::machine::pool::Pool;
use crate::model::{Dense, DenseType, Ternary};

/// One compiled instruction-set variant, with a kernel for every role.
pub struct Variant {
    /// `avx2`, `avx512vnni`, `neon` ...
    pub name: &'static str,
    /// CPU features that its code uses, spelled as Rust's `target_feature`.
    pub features: &'static [&'static str],
}

/// Activations quantised to int8, a scale a row. x (tokens, cols).
#[derive(Default)]
pub struct QuantRows {
    /// (tokens, cols)
    pub q: Vec<i8>,
    /// s of each row: q = round(x * s).
    pub scales: Vec<f32>,
    /// Sum of each row's q.
    pub sums: Vec<i32>,
}

/// The shape of an attention: query heads, key/value heads, head width.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub q: usize,
    /// Key/value heads; `q % kv == 0`, query head h reads kv head h / (q / kv).
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
}

/// What one query row attends to: one layer's cache of its sequence.
pub struct AttentionRow<'a> {
    /// (kv_heads, capacity, dim) as f16 bits, K after RoPE.
    pub k: &'a [u16],
    /// (kv_heads, capacity, dim) as f16 bits.
    pub v: &'a [u16],
    /// Positions visible to this row (its own included): 1..=capacity.
    pub len: usize,
    /// Positions allocated per kv head: the stride between heads is capacity * dim.
    pub capacity: usize,
}

/// Every variant that this binary holds, best first.
pub fn variants() -> &'static [Variant] {
    const REFERENCE: &[Variant] = &[Variant {
        name: "reference",
        features: &[],
    }];
    REFERENCE
}

impl Variant {
    /// Quantises x (tokens, cols) row by row into `out`, whose buffers are re-used.
    pub fn quantize(&self, _pool: &Pool, x: &[f32], cols: usize, out: &mut QuantRows) {
        let tokens = x.len() / cols;
        assert_eq!(x.len(), tokens * cols);
        out.q.resize(x.len(), 0);
        out.scales.clear();
        out.sums.clear();
        for (x, q) in x.chunks_exact(cols).zip(out.q.chunks_exact_mut(cols)) {
            let (s, sum) = reference::quantize(x, q);
            out.scales.push(s);
            out.sums.push(sum);
        }
    }

    /// y (tokens, rows) = x (tokens, cols) @ W^T for several W (rows, cols) that share x: one fork-join in all.
    pub fn linear(&self, _pool: &Pool, x: &QuantRows, jobs: &mut [(&Ternary, &mut [f32])]) {
        let tokens = x.scales.len();
        for (w, y) in jobs {
            assert_eq!(x.q.len(), tokens * w.cols);
            assert_eq!(y.len(), tokens * w.rows);
            let mut acc = vec![0; w.rows];
            for (t, y) in y.chunks_exact_mut(w.rows).enumerate() {
                reference::i2s_gemv(&w.packed, &x.q[t * w.cols..][..w.cols], &mut acc);
                for (y, &a) in y.iter_mut().zip(&acc) {
                    *y = reference::rescale(a, x.scales[t], w.scale);
                }
            }
        }
    }

    /// Logits: y (tokens, rows) = f16(x) (tokens, cols) @ W^T in f32. x is rounded to f16 first, as the peer does.
    pub fn head(&self, _pool: &Pool, w: &Dense, x: &[f32], y: &mut [f32]) {
        let tokens = x.len() / w.cols;
        assert_eq!(y.len(), tokens * w.rows);
        let x: Vec<f32> = x.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
        let mut row = vec![0f32; w.cols];
        for r in 0..w.rows {
            self.embed(w, r, &mut row);
            for t in 0..tokens {
                y[t * w.rows + r] = reference::dot(row.iter().copied(), &x[t * w.cols..][..w.cols]);
            }
        }
    }

    /// One row of a dense matrix as f32.
    pub fn embed(&self, w: &Dense, row: usize, out: &mut [f32]) {
        assert!(row < w.rows && out.len() == w.cols);
        let bytes = w.data.len() / w.rows;
        let data = &w.data[row * bytes..][..bytes];
        match w.kind {
            DenseType::F32 => {
                for (o, b) in out.iter_mut().zip(data.chunks_exact(4)) {
                    *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            DenseType::F16 => reference::f16_row(data, out),
            DenseType::Q8_0 => reference::q8_0_row(data, out),
            DenseType::Q6K => reference::q6_k_row(data, out),
        }
    }

    /// y (tokens, n) = RMSNorm of each row of x (tokens, n).
    pub fn rmsnorm(&self, _pool: &Pool, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let n = weight.len();
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            reference::rmsnorm(x, weight, eps, y);
        }
    }

    /// NeoX RoPE in place on every head of one token. x (heads, dim); cos, sin (dim / 2).
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        for head in x.chunks_exact_mut(2 * cos.len()) {
            reference::rope(head, cos, sin);
        }
    }

    /// y = relu(gate)^2 * up, elementwise.
    pub fn relu2_mul(&self, _pool: &Pool, gate: &[f32], up: &[f32], y: &mut [f32]) {
        reference::relu2_mul(gate, up, y);
    }

    /// x += y, elementwise.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }

    /// Rounds to f16 bits, half to even: for the KV cache.
    pub fn to_f16(&self, x: &[f32], out: &mut [u16]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = half::f16::from_f32(x).to_bits();
        }
    }

    /// Attention of query rows q (rows, heads, dim) -> out (rows, heads, dim), each row over its own cache.
    pub fn attention(&self, _pool: &Pool, heads: Heads, q: &[f32], rows: &[AttentionRow<'_>], out: &mut [f32]) {
        let (d, width) = (heads.dim, heads.q * heads.dim);
        let scale = 1.0 / (d as f32).sqrt();
        for (r, row) in rows.iter().enumerate() {
            for h in 0..heads.q {
                let kv = h / (heads.q / heads.kv) * row.capacity * d;
                let at = r * width + h * d;
                let (k, v) = (&row.k[kv..][..row.len * d], &row.v[kv..][..row.len * d]);
                reference::attention(&q[at..][..d], k, v, row.len, scale, &mut out[at..][..d]);
            }
        }
    }
}
