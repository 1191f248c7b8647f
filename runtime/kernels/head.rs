//! The output head: logits from its rows, and intervals of them from its codes (docs/coarse-head.md).

use super::lines::with_memory;
use super::ops::{in_pieces, in_shares, rows_of};
use super::shared::Shared;
use super::{Variant, abi};
use crate::machine::pool::Pool;
use crate::model::{CoarseHead, CoarseToken, Dense, DenseType};

/// Rows of the head that are too few to be shared.
const FEW_ROWS: usize = 8;

impl Variant {
    /// Logits: y (tokens, rows) = x (tokens, cols) @ W^T in f32, x as [`round_for_head`] leaves it.
    pub fn head(&self, pool: &Pool, w: &Dense, x: &[f32], y: &mut [f32]) {
        let tokens = rows_of(x, w.cols);
        assert_eq!(y.len(), tokens * w.rows);
        let row_bytes = w.row_bytes();
        let kernel = self.head_kernel(w);
        let y = Shared::new(y);
        let pieces = match pool.threads() {
            1 => 1,
            threads => w.data.len().div_ceil(threads * self.piece_bytes),
        };
        in_pieces(pool, w.rows, 1, pieces, |rows| {
            let data = w.data[rows.start * row_bytes..].as_ptr();
            // SAFETY: the kernel writes y[t * w.rows + r] for its own rows r and every token t, all inside y; threads get
            // disjoint rows. The other sizes are asserted above.
            unsafe {
                let out = y.start().add(rows.start);
                kernel(data, x.as_ptr(), rows.len(), w.cols, tokens, out, w.rows);
            }
        });
    }

    /// Single logits, with the bits of [`Variant::head`]: y (n) = W\[rows\] . x, for n rows in any order, x (cols).
    pub fn head_rows(&self, pool: &Pool, w: &Dense, x: &[f32], rows: &[u32], y: &mut [f32]) {
        assert!(x.len() == w.cols && y.len() == rows.len());
        let row_bytes = w.row_bytes();
        let kernel = self.head_kernel(w);
        let y = Shared::new(y);
        in_shares(pool, rows.len(), FEW_ROWS, |range| {
            with_memory(row_bytes, |row| {
                for at in range {
                    w.read_row(rows[at] as usize, row);
                    // SAFETY: one row and one token, of cols elements each; every place of y is written by one thread.
                    unsafe {
                        let out = y.part(at..at + 1);
                        kernel(row.as_ptr(), x.as_ptr(), 1, w.cols, 1, out.as_mut_ptr(), 1);
                    }
                }
            });
        });
    }

    /// The kernel for the rows of `w`, whose size and alignment it relies on.
    fn head_kernel(&self, w: &Dense) -> abi::HeadF32 {
        assert_eq!(w.data.len(), w.rows * w.row_bytes());
        assert!(
            w.data.as_ptr().addr().is_multiple_of(w.kind.alignment()),
            "the loader aligns tensors"
        );
        match w.kind {
            DenseType::F32 => self.head_f32,
            DenseType::F16 => self.head_f16,
            DenseType::Q8_0 => self.head_q8_0,
            DenseType::Q6K => self.head_q6_k,
        }
    }

    /// Intervals that contain the logits of [`Variant::head`], as `lower` and `upper` (tokens, rows) ends, and the sums that they come from.
    /// `q` (tokens, padded cols) are the activations' integers, from [`CoarseToken::new`]. Reads each coarse code once, for all tokens.
    pub fn head_coarse(
        &self,
        pool: &Pool,
        head: &CoarseHead,
        tokens: &[CoarseToken],
        q: &[i16],
        sums: &mut [i32],
        (lower, upper): (&mut [f32], &mut [f32]),
    ) {
        /// Rows and tokens whose sums are still in the cache when intervals are made of them.
        const ROWS: usize = 64;
        const TOKENS: usize = 16;
        let (rows, cols) = (head.rows(), head.padded_cols());
        assert!(cols.is_multiple_of(256) && head.coarse_codes().len() == rows * cols / 4 * 3);
        assert!(q.len() == tokens.len() * cols && sums.len() == tokens.len() * rows);
        assert!(lower.len() == sums.len() && upper.len() == sums.len());
        q.chunks_exact(cols).for_each(check_integers);
        let (sums, lower, upper) = (Shared::new(sums), Shared::new(lower), Shared::new(upper));
        in_pieces(pool, rows, ROWS, rows.div_ceil(ROWS).div_ceil(pool.threads()), |part| {
            let (first, n) = (part.start, part.len());
            debug_assert!(n <= ROWS);
            let codes = head.coarse_codes()[first * (cols / 4 * 3)..].as_ptr().cast();
            for (i, tokens) in tokens.chunks(TOKENS).enumerate() {
                let q = q[i * TOKENS * cols..].as_ptr();
                // SAFETY: n rows of codes and tokens.len() of q, of cols elements each; the kernel writes n sums of each token, `rows`
                // apart. Pieces are disjoint rows.
                unsafe {
                    let sums = sums.start().add(i * TOKENS * rows + first);
                    (self.head_coarse)(codes, q, n, cols, tokens.len(), sums, rows);
                }
                for (t, token) in tokens.iter().enumerate() {
                    let at = (i * TOKENS + t) * rows + first;
                    let part = at..at + n;
                    // SAFETY: pieces are disjoint rows.
                    let (sums, lower, upper) =
                        unsafe { (sums.part(part.clone()), lower.part(part.clone()), upper.part(part)) };
                    head.coarse_bounds(first, sums, token, lower, upper);
                }
            }
        });
    }

    /// The upper ends of narrower intervals, `upper` (n), of some logits of one token: `rows` (n) of W. `q` (padded cols) are its integers,
    /// `sums` (rows of W) from [`Variant::head_coarse`].
    pub fn head_fine(
        &self,
        pool: &Pool,
        head: &CoarseHead,
        (token, q): (&CoarseToken, &[i16]),
        sums: &[i32],
        rows: &[u32],
        upper: &mut [f32],
    ) {
        let cols = head.padded_cols();
        assert!(cols.is_multiple_of(256) && head.fine_codes().len() == head.rows() * cols / 4);
        assert!(q.len() == cols && sums.len() == head.rows() && upper.len() == rows.len());
        check_integers(q);
        let codes = |row: usize| head.fine_codes()[row * (cols / 4)..][..cols / 4].as_ptr().cast();
        let upper = Shared::new(upper);
        in_shares(pool, rows.len(), FEW_ROWS, |range| {
            for at in range {
                let row = rows[at] as usize;
                let mut sum = 0;
                // SAFETY: one row of codes, and one of q; every place of `upper` is written by one thread.
                unsafe {
                    (self.head_fine)(codes(row), q.as_ptr(), cols, &mut sum);
                    upper.part(at..at + 1)[0] = head.fine_bounds(row, sums[row], sum, token).1;
                }
            }
        });
    }
}

/// Panics where a sum of products of codes with these integers could leave i32.
fn check_integers(q: &[i16]) {
    let sum: u64 = q.iter().map(|&q| u64::from(q.unsigned_abs())).sum();
    assert!(sum < 1 << 24, "a sum of products could leave i32");
}

/// Rounds activations to what the head over `w` multiplies: over F16 rows, to f16, as bitnet.cpp does.
pub fn round_for_head(w: &Dense, x: &mut [f32]) {
    if w.kind == DenseType::F16 {
        x.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
    }
}
