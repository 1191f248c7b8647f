//! The operations of the forward pass, split over the pool's threads.
//!
//! Every wrapper asserts the shapes that its kernel relies on; those assertions are what makes the calls sound.
//! Threads split rows, heads or tokens, never a sum: results do not depend on their number. Each thread reads its share
//! of a matrix as one linear stream, in pieces, and then those that others have not begun.

use std::ops::Range;

use super::lines::{Lines, with_memory};
use super::shared::{Shared, share};
use super::{GEMM_SUMS, Variant, abi, reference};
use crate::machine::pool::Pool;
use crate::model::{Config, Dense, DenseType, Packed, Ternary};

/// Activations quantised to int8, a scale a row. x (tokens, cols).
#[derive(Debug, Default, PartialEq)]
pub struct QuantRows {
    /// (tokens, cols)
    pub q: Lines<i8>,
    /// s of each row: q = round(x * s). NaN where a row was not finite.
    pub scales: Vec<f32>,
    /// Sum of each row's q.
    pub sums: Vec<i32>,
}

impl QuantRows {
    /// Keeps the rows of `cols` elements that `rows` names, ascending.
    pub fn keep(&mut self, rows: &[usize], cols: usize) {
        for (to, &from) in rows.iter().enumerate() {
            self.q.copy_within(from * cols..(from + 1) * cols, to * cols);
            self.scales[to] = self.scales[from];
            self.sums[to] = self.sums[from];
        }
        self.q.resize(rows.len() * cols);
        self.scales.truncate(rows.len());
        self.sums.truncate(rows.len());
    }
}

/// Writes rows of a [`QuantRows`], several threads at once.
struct Quantizer<'a> {
    kernels: &'a Variant,
    cols: usize,
    q: Shared<'a, i8>,
    scales: Shared<'a, f32>,
    sums: Shared<'a, i32>,
}

impl<'a> Quantizer<'a> {
    fn new(kernels: &'a Variant, tokens: usize, cols: usize, out: &'a mut QuantRows) -> Self {
        out.q.resize(tokens * cols);
        out.scales.resize(tokens, 0.0);
        out.sums.resize(tokens, 0);
        Quantizer {
            kernels,
            cols,
            q: Shared::new(&mut out.q),
            scales: Shared::new(&mut out.scales),
            sums: Shared::new(&mut out.sums),
        }
    }

    /// Row t = x (cols), quantised.
    ///
    /// # Safety
    /// Nobody else accesses row t meanwhile.
    unsafe fn row(&self, t: usize, x: &[f32]) {
        assert_eq!(x.len(), self.cols);
        // SAFETY: the parts belong to row t alone; x and q hold cols elements each.
        unsafe {
            let q = self.q.part(t * self.cols..(t + 1) * self.cols);
            let (scale, sum) = (self.scales.part(t..t + 1), self.sums.part(t..t + 1));
            let (q, scale, sum) = (q.as_mut_ptr(), scale.as_mut_ptr(), sum.as_mut_ptr());
            (self.kernels.quantize)(x.as_ptr(), self.cols, q, scale, sum);
        }
    }
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

impl Heads {
    /// Those of a model.
    pub fn of(config: &Config) -> Self {
        Heads {
            q: config.heads,
            kv: config.kv_heads,
            dim: config.head_dim,
        }
    }

    /// Query heads that share a KV head.
    pub(super) fn group(self) -> usize {
        assert!(self.kv > 0 && self.q.is_multiple_of(self.kv));
        self.q / self.kv
    }
}

/// A ternary matrix in one of its layouts, with the kernels for that: a row starts every `row_bytes`, at least at whole
/// tiles.
struct Weights<'a> {
    data: &'a [u8],
    row_bytes: usize,
    rows: usize,
    cols: usize,
    scale: f32,
    tile: usize,
    gemv: abi::I2sGemv,
    gemm: abi::I2sGemm,
    /// With the gates (tokens, rows): rows under a closed one are not read.
    gated: Option<(abi::I2sGated, &'a [f32])>,
    rescale: abi::Rescale,
}

impl Weights<'_> {
    /// Whether no product with a vector of this scale can overflow: a closed gate times infinity would be no zero.
    fn products_are_finite(&self, scale: f32) -> bool {
        // As a kernel rescales its sums, each of which is at most half of this number.
        ((256 * self.cols) as f32 / scale * self.scale).is_finite()
    }
}

/// How a product is cut into pieces for [`Pool::each`].
#[derive(Clone, Copy)]
struct Cut {
    /// Blocks into which each thread's share of W's rows is cut.
    row_blocks: usize,
    /// Blocks of tokens. All of them pass a block of rows before the next rows come.
    token_blocks: usize,
    /// Tokens of a block.
    token_block: usize,
}

impl Cut {
    /// How many each thread has.
    fn pieces(&self) -> usize {
        self.row_blocks * self.token_blocks
    }
}

/// How many times as many bytes a piece of gated rows has, of which about a quarter is read. Measured on Zen 3 with two threads, 80 % of the gates
/// closed: whole tokens are 4 % faster.
const GATED_PIECES: usize = 4;

/// Matrices that one [`Variant::linear`] takes: q, k and v.
const MAX_JOBS: usize = 4;

impl Variant {
    /// Quantises x (tokens, cols) row by row into `out`, whose buffers are re-used.
    pub fn quantize(&self, pool: &Pool, x: &[f32], cols: usize, out: &mut QuantRows) {
        let tokens = rows_of(x, cols);
        let out = Quantizer::new(self, tokens, cols, out);
        each_row(pool, tokens, |t| {
            // SAFETY: each row is visited once.
            unsafe { out.row(t, &x[t * cols..][..cols]) };
        });
    }

    /// The input of a matrix product: RMSNorm of each row of x (tokens, n), quantised.
    pub fn norm_quantize(&self, pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut QuantRows) {
        let n = weight.len();
        let tokens = rows_of(x, n);
        let out = Quantizer::new(self, tokens, n, out);
        each_row(pool, tokens, |t| {
            with_memory(n, |normed: &mut [f32]| {
                // SAFETY: x, weight and `normed` hold n elements each; each row is visited once.
                unsafe {
                    (self.rmsnorm)(x[t * n..][..n].as_ptr(), weight.as_ptr(), eps, n, normed.as_mut_ptr());
                    out.row(t, normed);
                }
            });
        });
    }

    /// The input of down: RMSNorm of relu(gate)^2 * up, gate and up (tokens, n), quantised. A row stays in the cache on its way.
    pub fn gated_norm_quantize(
        &self,
        pool: &Pool,
        (gate, up): (&[f32], &[f32]),
        weight: &[f32],
        eps: f32,
        out: &mut QuantRows,
    ) {
        let n = weight.len();
        let tokens = rows_of(gate, n);
        assert_eq!(gate.len(), up.len());
        let out = Quantizer::new(self, tokens, n, out);
        each_row(pool, tokens, |t| {
            let (gate, up) = (&gate[t * n..][..n], &up[t * n..][..n]);
            with_memory(2 * n, |row: &mut [f32]| {
                let (inner, normed) = row.split_at_mut(n);
                // SAFETY: all of them hold n elements; each row is visited once.
                unsafe {
                    (self.relu2_mul)(gate.as_ptr(), up.as_ptr(), n, inner.as_mut_ptr());
                    (self.rmsnorm)(inner.as_ptr(), weight.as_ptr(), eps, n, normed.as_mut_ptr());
                    out.row(t, normed);
                }
            });
        });
    }

    /// y (tokens, rows) = x (tokens, cols) @ W^T for several W (rows, cols) that share x: one fork-join in all.
    pub fn linear(&self, pool: &Pool, x: &QuantRows, jobs: &mut [(&Ternary, &mut [f32])]) {
        self.products(pool, x, jobs, self.rescale, None);
    }

    /// gate and up (tokens, rows), each = x (tokens, cols) @ W^T. Where the layout of up's W lets its rows be skipped, up may be 0 under a closed
    /// gate (<= 0): relu(gate)^2 * up is zero there anyway.
    pub fn linear_gated(&self, pool: &Pool, x: &QuantRows, gate: (&Ternary, &mut [f32]), up: (&Ternary, &mut [f32])) {
        // The layout may change from here to where it is used: then nothing is skipped.
        let packing = up.0.repacked().map(|packed| packed.packing);
        if packing.is_some() && packing == self.skipping().up {
            let (gate_w, gate) = gate;
            self.products(pool, x, &mut [(gate_w, &mut *gate)], self.rescale, None);
            self.products(pool, x, &mut [up], self.rescale, Some(gate));
        } else {
            self.products(pool, x, &mut [gate, up], self.rescale, None);
        }
    }

    /// y (tokens, rows) += x (tokens, cols) @ W^T.
    pub fn linear_add(&self, pool: &Pool, x: &QuantRows, w: &Ternary, y: &mut [f32]) {
        self.products(pool, x, &mut [(w, y)], self.rescale_add, None);
    }

    /// Every y = (or +=, as `rescale` does) x @ W^T. `gate` (tokens, rows of every W): rows under a closed one may be skipped.
    fn products(
        &self,
        pool: &Pool,
        x: &QuantRows,
        jobs: &mut [(&Ternary, &mut [f32])],
        rescale: abi::Rescale,
        gate: Option<&[f32]>,
    ) {
        let tokens = x.scales.len();
        assert!(jobs.len() <= MAX_JOBS && x.sums.len() == tokens);
        for (w, y) in jobs.iter() {
            assert_eq!(w.cols % 128, 0);
            assert!(
                w.cols <= self.max_cols,
                "a row of {} weights could overflow the kernel's sums",
                w.cols
            );
            assert_eq!(w.packed.len(), w.rows * (w.cols / 4));
            assert_eq!(x.q.len(), tokens * w.cols);
            assert_eq!(y.len(), tokens * w.rows);
            assert!(gate.is_none_or(|gate| gate.len() == y.len()));
        }
        // Held to the end: the layout may be replaced meanwhile.
        let repacked: [_; MAX_JOBS] = std::array::from_fn(|i| jobs.get(i).and_then(|(w, _)| w.repacked()));
        let mut work: [Option<(Weights<'_>, Shared<'_, f32>, Cut)>; MAX_JOBS] = [const { None }; MAX_JOBS];
        for ((slot, repacked), (w, y)) in work.iter_mut().zip(&repacked).zip(jobs.iter_mut()) {
            let w = self.weights(w, repacked.as_deref(), rescale, gate);
            let cut = self.cut(&w, tokens, pool.threads());
            *slot = Some((w, Shared::new(y), cut));
        }
        let pieces = work.iter().flatten().map(|(.., cut)| cut.pieces()).sum();
        pool.each(pieces, &|owner, mut piece| {
            for (w, y, cut) in work.iter().flatten() {
                if piece < cut.pieces() {
                    let row_block = owner * cut.row_blocks + piece / cut.token_blocks;
                    let rows = share(w.rows, w.tile, row_block, pool.threads() * cut.row_blocks);
                    let first = piece % cut.token_blocks * cut.token_block;
                    let tokens = first..tokens.min(first + cut.token_block);
                    // SAFETY: shapes were asserted above; pieces are disjoint, and of whole tiles.
                    return unsafe { self.linear_piece(x, w, rows, tokens, y) };
                }
                piece -= cut.pieces();
            }
        });
    }

    /// The layout of W to compute with: its own, or the re-packed one as soon as that is there.
    fn weights<'a>(
        &self,
        w: &'a Ternary,
        repacked: Option<&'a Packed>,
        rescale: abi::Rescale,
        gate: Option<&'a [f32]>,
    ) -> Weights<'a> {
        let packed = self.packed.as_ref().zip(repacked);
        let skipping = self.skipping.as_ref().zip(repacked);
        let (mut tile, mut gemv, mut gemm, mut gated) = (self.mr, self.i2s_gemv, self.i2s_gemm, None);
        let mut data = &*w.packed;
        if let Some((kernels, packed)) = packed.filter(|(kernels, packed)| kernels.packing == packed.packing) {
            (tile, gemv, gemm) = (kernels.packing.rows, kernels.gemv, kernels.gemm);
            data = &packed.data;
            assert_eq!(Some(data.len()), kernels.packing.bytes(w));
        } else if let Some((kernels, packed)) = skipping.filter(|(kernels, packed)| kernels.up == packed.packing) {
            gated = gate.map(|gate| (kernels.gated, gate));
            data = &packed.data;
            assert_eq!(data.len(), w.packed.len());
        }
        Weights {
            data,
            row_bytes: data.len() / w.rows,
            rows: w.rows,
            cols: w.cols,
            scale: w.scale,
            tile,
            gemv,
            gemm,
            gated,
            rescale,
        }
    }

    /// How to cut a product with `tokens` vectors. For one thread and token not at all: nobody would help, and pieces cost a hundredth.
    fn cut(&self, w: &Weights<'_>, tokens: usize, threads: usize) -> Cut {
        let piece_bytes = self.piece_bytes * if w.gated.is_some() { GATED_PIECES } else { 1 };
        let (token_block, most) = match (tokens, threads) {
            (1, 1) => (1, w.rows),
            (1, _) => (1, piece_bytes / w.row_bytes),
            _ => {
                let least = if tokens < self.table_tokens { 0 } else { self.gemm_rows };
                (self.token_block, (self.weight_block_bytes / w.row_bytes).max(least))
            }
        };
        // In tiles; pieces are of equal height, since a low one at the end would amortise less.
        let most = (most.min(GEMM_SUMS / token_block) / w.tile).max(1);
        Cut {
            row_blocks: w.rows.div_ceil(w.tile).div_ceil(threads).div_ceil(most),
            token_blocks: tokens.div_ceil(token_block),
            token_block,
        }
    }

    /// The columns `rows` of the rows `tokens` of y.
    ///
    /// # Safety
    /// Shapes as [`Variant::linear`] asserts; `rows` begin at a tile, and end at one or with W; nobody else writes this part of y.
    unsafe fn linear_piece(
        &self,
        x: &QuantRows,
        w: &Weights<'_>,
        rows: Range<usize>,
        tokens: Range<usize>,
        y: &Shared<'_, f32>,
    ) {
        let (n, m) = (rows.len(), tokens.len());
        if n == 0 {
            return;
        }
        assert!(n * m <= GEMM_SUMS);
        with_memory(n * m, |sums: &mut [i32]| {
            let sums = sums.as_mut_ptr();
            let packed = w.data[rows.start * w.row_bytes..].as_ptr();
            let q = x.q[tokens.start * w.cols..].as_ptr();
            // SAFETY: `packed` holds n whole rows and `q` m rows of cols elements; `sums` takes m * n, and the kernels write every one
            // of them; a gate's slice has n elements. The caller owns this part of y.
            unsafe {
                if let Some((gated, gate)) = w.gated {
                    for (i, t) in tokens.clone().enumerate() {
                        let (q, sums) = (q.add(i * w.cols), sums.add(i * n));
                        if w.products_are_finite(x.scales[t]) {
                            let gate = gate[t * w.rows..][rows.clone()].as_ptr();
                            gated(packed, gate, q, x.sums[t], n, w.cols, sums);
                        } else {
                            (w.gemv)(packed, q, x.sums[t], n, w.cols, sums);
                        }
                    }
                } else if x.scales.len() == 1 {
                    (w.gemv)(packed, q, x.sums[0], n, w.cols, sums);
                } else {
                    (w.gemm)(packed, q, x.sums[tokens.start..].as_ptr(), n, w.cols, m, sums, n);
                }
                for (i, t) in tokens.enumerate() {
                    let at = t * w.rows + rows.start;
                    let out = y.part(at..at + n);
                    (w.rescale)(sums.add(i * n), n, x.scales[t], w.scale, out.as_mut_ptr());
                }
            }
        });
    }

    /// One row of a dense matrix as f32.
    pub fn embed(&self, w: &Dense, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), w.cols);
        with_memory(w.row_bytes(), |data| {
            w.read_row(row, data);
            match w.kind {
                DenseType::F32 => reference::f32_row(data, out),
                DenseType::F16 => reference::f16_row(data, out),
                DenseType::Q8_0 => reference::q8_0_row(data, out),
                DenseType::Q6K => reference::q6_k_row(data, out),
            }
        });
    }

    /// y (tokens, n) = RMSNorm of each row of x (tokens, n).
    pub fn rmsnorm(&self, pool: &Pool, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let n = weight.len();
        let tokens = rows_of(x, n);
        assert_eq!(x.len(), y.len());
        let y = Shared::new(y);
        each_row(pool, tokens, |t| {
            // SAFETY: each row is visited once; x, weight and y hold n elements each.
            unsafe {
                let y = y.part(t * n..(t + 1) * n);
                (self.rmsnorm)(x[t * n..].as_ptr(), weight.as_ptr(), eps, n, y.as_mut_ptr());
            }
        });
    }

    /// Rounds to f16 bits, half to even: for the KV cache.
    pub fn to_f16(&self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: both hold x.len() elements.
        unsafe { (self.to_f16)(x.as_ptr(), x.len(), out.as_mut_ptr()) }
    }
}

/// Rows of a matrix of `cols` columns. Panics when x is not whole rows.
pub(super) fn rows_of(x: &[f32], cols: usize) -> usize {
    assert!(
        cols > 0 && x.len().is_multiple_of(cols),
        "{} elements are not whole rows of {cols}",
        x.len()
    );
    x.len() / cols
}

/// Calls `job` once for each row, on the pool when there are several.
pub(super) fn each_row(pool: &Pool, rows: usize, job: impl Fn(usize) + Sync) {
    in_shares(pool, rows, 1, |rows| rows.for_each(&job));
}

/// Calls `job` with ranges that make up 0..total, a share for each thread; here, where there are at most `few`: then a fork-join costs more than
/// it saves.
pub(super) fn in_shares(pool: &Pool, total: usize, few: usize, job: impl Fn(Range<usize>) + Sync) {
    if total <= few {
        job(0..total);
    } else {
        pool.run(&|thread| job(share(total, 1, thread, pool.threads())));
    }
}

/// Calls `job` with ranges that make up 0..total, none of them empty, in whole units but for the end: `pieces` of each thread, for [`Pool::each`].
pub(super) fn in_pieces(pool: &Pool, total: usize, unit: usize, pieces: usize, job: impl Fn(Range<usize>) + Sync) {
    let all = pool.threads() * pieces;
    pool.each(pieces, &|owner, piece| {
        let range = share(total, unit, owner * pieces + piece, all);
        if !range.is_empty() {
            job(range);
        }
    });
}
