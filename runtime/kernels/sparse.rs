//! Products that skip the columns whose input is zero. Exact: what is left out of the integer sums is zero.

use super::ops::{QuantRows, each_row};
use super::shared::{Shared, share};
use super::{COLUMN_SUMS, SkippingKernels, Variant};
use crate::machine::pool::Pool;
use crate::model::Ternary;

/// Tokens whose non-zero elements are listed at a time: bounds the lists' memory.
const BLOCK: usize = 64;

/// The non-zero elements of some vectors, each filled up with zeros to whole groups of four. `room` places a vector.
#[derive(Default)]
pub struct Live {
    room: usize,
    /// Their places, ascending.
    columns: Vec<i32>,
    /// Themselves.
    q: Vec<i8>,
    /// How many there are of each vector, a multiple of four.
    lens: Vec<usize>,
}

impl Live {
    /// Those of `x` (tokens, cols).
    fn find(&mut self, pool: &Pool, x: &[i8], cols: usize) {
        let tokens = x.len() / cols;
        // Whole groups: rows are whole blocks of I2_S.
        self.room = cols;
        self.columns.resize(tokens * self.room, 0);
        self.q.resize(tokens * self.room, 0);
        self.lens.resize(tokens, 0);
        let room = self.room;
        let (columns, q, lens) = (
            Shared::new(&mut self.columns),
            Shared::new(&mut self.q),
            Shared::new(&mut self.lens),
        );
        each_row(pool, tokens, |t| {
            let places = t * room..(t + 1) * room;
            // SAFETY: each token is visited once, and its parts belong to it alone.
            let (columns, q, len) = unsafe { (columns.part(places.clone()), q.part(places), lens.part(t..t + 1)) };
            len[0] = list(&x[t * cols..][..cols], columns, q);
        });
    }

    /// Places and values of a vector's.
    fn of(&self, token: usize) -> (&[i32], &[i8]) {
        let places = token * self.room..token * self.room + self.lens[token];
        (&self.columns[places.clone()], &self.q[places])
    }
}

/// Lists the non-zero elements of `x`, and zeros up to a whole group; how many there are. Eight at a time, most of which are zero: of 6912 with 85 % zeros
/// this takes half of the 10 us that one after the other takes without branches.
fn list(x: &[i8], columns: &mut [i32], q: &mut [i8]) -> usize {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let (groups, rest) = x.as_chunks::<8>();
    assert!(rest.is_empty(), "rows are whole blocks of I2_S");
    let mut n = 0;
    for (group, values) in groups.iter().enumerate() {
        let word = u64::from_le_bytes(values.map(i8::cast_unsigned));
        // The highest bit of each byte that is not zero.
        let mut live = (((word & LOW) + LOW) | word) & !LOW;
        while live != 0 {
            let at = live.trailing_zeros() as usize / 8;
            columns[n] = (8 * group + at) as i32;
            q[n] = values[at];
            n += 1;
            live &= live - 1;
        }
    }
    let whole = n.next_multiple_of(4);
    // Any column will do beside a zero: the last one is near.
    let last = columns[n.saturating_sub(1)];
    columns[n..whole].fill(last);
    q[n..whole].fill(0);
    whole
}

impl Variant {
    /// y (tokens, rows) += x (tokens, cols) @ W^T, as [`Variant::linear_add`], skipping the columns of W that meet zeros where W is there
    /// by columns. `live` is re-used.
    pub fn linear_sparse_add(&self, pool: &Pool, x: &QuantRows, w: &Ternary, live: &mut Live, y: &mut [f32]) {
        let by_columns = self.skipping.as_ref().zip(w.repacked());
        let Some((kernels, packed)) = by_columns.filter(|(kernels, packed)| kernels.down == packed.packing) else {
            return self.linear_add(pool, x, w, y);
        };
        let tokens = x.scales.len();
        assert_eq!(
            Some(packed.data.len()),
            kernels.down.bytes(w),
            "and so cols is in bounds"
        );
        assert!(x.sums.len() == tokens && x.q.len() == tokens * w.cols && y.len() == tokens * w.rows);
        for (block, y) in y.chunks_mut(BLOCK * w.rows).enumerate() {
            let tokens = block * BLOCK..block * BLOCK + y.len() / w.rows;
            live.find(pool, &x.q[tokens.start * w.cols..tokens.end * w.cols], w.cols);
            let (scales, sums) = (&x.scales[tokens.clone()], &x.sums[tokens]);
            self.columns_product(kernels, pool, w, &packed.data, live, (scales, sums), y);
        }
    }

    /// y (tokens, rows) += the products of the vectors in `live`, with their scales and sums. The sizes are checked by the caller.
    #[expect(clippy::too_many_arguments, reason = "one call")]
    fn columns_product(
        &self,
        kernels: &SkippingKernels,
        pool: &Pool,
        w: &Ternary,
        data: &[u8],
        live: &Live,
        (scales, x_sums): (&[f32], &[i32]),
        y: &mut [f32],
    ) {
        let tile = kernels.down.rows;
        let stride = data.len() / w.cols;
        let tile_bytes = tile / kernels.down.weights_per_byte;
        let most = COLUMN_SUMS / tile;
        assert!(most > 0);
        let y = Shared::new(y);
        pool.run(&|thread| {
            let mut sums = [0i32; COLUMN_SUMS];
            let share = share(w.rows.div_ceil(tile), 1, thread, pool.threads());
            for first in share.clone().step_by(most) {
                let tiles = most.min(share.end - first);
                let rows = first * tile..((first + tiles) * tile).min(w.rows);
                for (t, (&scale, &x_sum)) in scales.iter().zip(x_sums).enumerate() {
                    let (columns, q) = live.of(t);
                    // SAFETY: each column has `stride` bytes, of which the kernel reads `tiles` tiles from `first` on; the
                    // columns are places in a vector of w.cols, as many as q, whole groups; `sums` takes the rows of so many
                    // tiles. Threads get disjoint tiles, and so disjoint rows; `out` and the sums that it takes are rows.len().
                    unsafe {
                        let w_first = data[first * tile_bytes..].as_ptr();
                        let y_sums = sums.as_mut_ptr();
                        (kernels.columns)(
                            w_first,
                            stride,
                            columns.as_ptr(),
                            q.as_ptr(),
                            q.len(),
                            x_sum,
                            tiles,
                            y_sums,
                        );
                        let out = y.part(t * w.rows + rows.start..t * w.rows + rows.end);
                        (self.rescale_add)(y_sums, rows.len(), scale, w.scale, out.as_mut_ptr());
                    }
                }
            }
        });
    }
}
