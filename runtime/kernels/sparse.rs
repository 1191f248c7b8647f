//! Products that skip the columns whose input is zero. Exact: what is left out of the integer sums is zero.

use super::ops::QuantRows;
use super::shared::{Shared, share};
use super::{ColumnKernel, Variant};
use crate::machine::pool::Pool;
use crate::model::Ternary;

/// Tokens for which the columns are walked one token after the other: of more, few columns are zero for all.
const MAX_TOKENS: usize = 4;

/// The non-zero elements of a vector, filled up with zeros to whole groups of four.
#[derive(Default)]
pub struct Live {
    /// Their places, ascending.
    columns: Vec<i32>,
    /// Themselves.
    q: Vec<i8>,
}

impl Live {
    /// Those of `x`.
    fn find(&mut self, x: &[i8]) {
        // One place more than there are elements, since each is written before it is known to stay.
        let room = (x.len() + 1).next_multiple_of(4);
        self.columns.resize(room, 0);
        self.q.resize(room, 0);
        let mut n = 0;
        for (column, &q) in x.iter().enumerate() {
            self.columns[n] = column as i32;
            self.q[n] = q;
            n += usize::from(q != 0);
        }
        let whole = n.next_multiple_of(4);
        // Any column will do beside a zero: the last one is near.
        let last = self.columns[n.saturating_sub(1)];
        self.columns[n..whole].fill(last);
        self.q[n..whole].fill(0);
        self.columns.truncate(whole);
        self.q.truncate(whole);
    }
}

impl Variant {
    /// y (tokens, rows) = x (tokens, cols) @ W^T, as [`Variant::linear`], skipping the columns of W that meet zeros where W is there
    /// by columns and tokens are few. `live` is re-used. True when W is there by columns, and its file's bytes had to be read all the
    /// same.
    pub fn linear_sparse(&self, pool: &Pool, x: &QuantRows, w: &Ternary, live: &mut Live, y: &mut [f32]) -> bool {
        let tokens = x.scales.len();
        let by_columns = self.columns.as_ref().zip(w.repacked.get());
        let by_columns = by_columns.filter(|(kernel, packed)| kernel.packing == packed.packing);
        let Some((kernel, packed)) = by_columns.filter(|_| tokens <= MAX_TOKENS) else {
            self.linear(pool, x, &mut [(w, y)]);
            return by_columns.is_some();
        };
        assert_eq!(
            Some(packed.data.len()),
            kernel.packing.bytes(w),
            "and so cols is in bounds"
        );
        assert!(x.sums.len() == tokens && x.q.len() == tokens * w.cols && y.len() == tokens * w.rows);
        for (t, y) in y.chunks_exact_mut(w.rows).enumerate() {
            live.find(&x.q[t * w.cols..][..w.cols]);
            self.columns_product(kernel, pool, w, &packed.data, live, (x.scales[t], x.sums[t]), y);
        }
        false
    }

    /// y (rows) of one token, with its scale and sum. The sizes are checked by the caller.
    #[expect(clippy::too_many_arguments, reason = "one call")]
    fn columns_product(
        &self,
        kernel: &ColumnKernel,
        pool: &Pool,
        w: &Ternary,
        data: &[u8],
        live: &Live,
        (scale, sum): (f32, i32),
        y: &mut [f32],
    ) {
        /// Tiles whose sums wait on a thread's stack.
        const TILES: usize = 8;
        let tile = kernel.packing.rows;
        let stride = data.len() / w.cols;
        let (n, tile_bytes) = (live.q.len(), tile / kernel.packing.weights_per_byte);
        assert!(tile * TILES <= SUMS && live.columns.len() == n && n.is_multiple_of(4));
        assert!(live.columns.iter().all(|&column| (column as usize) < w.cols));
        let y = Shared::new(y);
        pool.run(&|thread| {
            let mut sums = [0i32; SUMS];
            let share = share(w.rows.div_ceil(tile), 1, thread, pool.threads());
            for first in share.clone().step_by(TILES) {
                let tiles = TILES.min(share.end - first);
                // SAFETY: each column has `stride` bytes, of which the kernel reads `tiles` tiles from `first` on; all columns are inside,
                // n is whole groups, and `sums` takes the rows of so many tiles.
                unsafe {
                    let w = data[first * tile_bytes..].as_ptr();
                    let (columns, q) = (live.columns.as_ptr(), live.q.as_ptr());
                    (kernel.gemv)(w, stride, columns, q, n, sum, tiles, sums.as_mut_ptr());
                }
                let rows = first * tile..((first + tiles) * tile).min(w.rows);
                // SAFETY: threads get disjoint tiles, and so disjoint rows; both hold rows.len() elements.
                unsafe {
                    let out = y.part(rows.clone());
                    (self.rescale)(sums.as_ptr(), rows.len(), scale, w.scale, out.as_mut_ptr());
                }
            }
        });
    }
}

/// i32 sums on a thread's stack: 10 KiB.
const SUMS: usize = 2560;
