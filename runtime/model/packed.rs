//! Ternary weights in the layout that a kernel is fastest with, made from I2_S.
//!
//! A tile of `rows` rows of W is a sequence of chunks, and row i of the tile owns bytes 4 i .. 4 i + 4 of every chunk: 4 x
//! `weights_per_byte` weights. A kernel loads a chunk into one register, on Arm into two, where each row has a lane of its own,
//! and reads a matrix from its first byte to its last.
//!
//! - 4 weights a byte (2.0 bits a weight): the chunk holds four bytes of the row's I2_S as they are, in their order.
//! - 5 weights a byte (1.6 bits a weight): byte j of chunk k is `c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4`, where `c_i` is the code (0, 1, 2 = -1, 0, +1) of the row's
//!   weight `20 k + 4 i + j`, or 0 beyond its end.
//!
//! By columns instead, for inputs that are mostly zero: a column of W is a run of tiles of 64 bytes.
//!
//! - 4 weights a byte: a tile has 256 rows, and byte p of tile t is `c0 + 4 c1 + 16 c2 + 64 c3`, where `c_i` is the code of row `256 t + 64 i + p`.
//! - 5 weights a byte: a tile has 320 rows, and byte p of tile t is the sum above, where `c_i` is the code of row `320 t + 64 i + r(p)`; r undoes
//!   how the kernel interleaves columns.
//!
//! Codes beyond the last row are 0.
//!
//! A tile of one row with 4 weights a byte is that row as I2_S has it: for rows that are mostly not needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Bytes, HugeBuffer, InvalidModel, Layer, Model, Sidecar, Ternary};

/// What is contiguous in a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Tiles of rows: for products that read all of W, or, of one row each, skip those whose gate is closed.
    Rows,
    /// Columns: for products that skip those which meet a zero.
    Columns,
}

/// A layout of re-packed weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// By rows or by columns.
    pub order: Order,
    /// Rows of a tile.
    pub rows: usize,
    /// 4 or 5.
    pub weights_per_byte: usize,
    /// The longest row that the kernels' sums hold, in weights.
    pub max_cols: usize,
}

/// The matrix has a code that stands for no weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTernary;

/// A re-packed matrix.
#[derive(Clone)]
pub struct Packed {
    /// Tiles, first to last: [`Packing::bytes`] of them.
    pub data: Bytes,
    /// The layout.
    pub packing: Packing,
}

/// The codes in two-bit fields of a byte, for four bytes at once.
const CODES: u32 = 0x0303_0303;

impl Packing {
    /// Bytes of a W (rows, cols) in this layout; `None` where it has to stay as it is, since its rows are no whole tiles or too
    /// long.
    pub fn bytes(&self, w: &Ternary) -> Option<usize> {
        let bytes = match self.order {
            Order::Rows if !w.rows.is_multiple_of(self.rows) => return None,
            Order::Rows => w.rows * self.row_bytes(w.cols),
            Order::Columns => w.cols * w.rows.div_ceil(self.rows) * (self.rows / self.weights_per_byte),
        };
        (w.cols <= self.max_cols).then_some(bytes)
    }

    /// Bytes of a row of `cols` weights.
    fn row_bytes(&self, cols: usize) -> usize {
        4 * cols.div_ceil(4 * self.weights_per_byte)
    }

    /// Re-packs W into `out`, which has [`Packing::bytes`], and checks every code on the way.
    pub fn pack(&self, w: &Ternary, out: &mut [u8]) -> Result<(), NotTernary> {
        assert_eq!(Some(out.len()), self.bytes(w));
        if self.order == Order::Columns {
            return self.pack_columns(w, out);
        }
        let tiles = out.chunks_exact_mut(self.rows * self.row_bytes(w.cols));
        for (tile, rows) in tiles.zip(w.packed.chunks_exact(self.rows * w.cols / 4)) {
            if has_code_3(rows) {
                return Err(NotTernary);
            }
            for (lane, row) in rows.chunks_exact(w.cols / 4).enumerate() {
                let places = tile
                    .chunks_exact_mut(4 * self.rows)
                    .map(|chunk| &mut chunk[4 * lane..][..4]);
                match self.weights_per_byte {
                    4 => places
                        .zip(row.chunks_exact(4))
                        .for_each(|(to, from)| to.copy_from_slice(from)),
                    _ => pack_row_5(row, places),
                }
            }
        }
        Ok(())
    }

    /// Columns 128 at a time, as I2_S groups them: a tile of so many is put together before it goes to their places.
    fn pack_columns(&self, w: &Ternary, out: &mut [u8]) -> Result<(), NotTernary> {
        const TILE: usize = 64;
        let (powers, place): (&[u8], fn(usize) -> usize) = match self.weights_per_byte {
            4 => (&[1, 4, 16, 64], |p| p),
            _ => (&[1, 3, 9, 27, 81], |p| 16 * (p / 4 % 4) + 4 * (p / 16) + p % 4),
        };
        assert_eq!(self.rows, TILE * powers.len());
        if has_code_3(&w.packed) {
            return Err(NotTernary);
        }
        let stride = out.len() / w.cols;
        let mut lines = [[0; TILE]; 128];
        for tile in 0..w.rows.div_ceil(self.rows) {
            for block in 0..w.cols / 128 {
                for p in 0..TILE {
                    let first = tile * self.rows + place(p);
                    let mut bytes = [0u8; 128];
                    for (row, power) in (first..w.rows).step_by(TILE).zip(powers) {
                        let codes = &w.packed[row * (w.cols / 4) + block * 32..][..32];
                        for (bytes, shift) in bytes.chunks_exact_mut(32).zip([6, 4, 2, 0]) {
                            let pairs = bytes.iter_mut().zip(codes);
                            pairs.for_each(|(byte, code)| *byte += power * (code >> shift & 3));
                        }
                    }
                    lines.iter_mut().zip(bytes).for_each(|(line, byte)| line[p] = byte);
                }
                for (column, line) in lines.iter().enumerate() {
                    out[(block * 128 + column) * stride + tile * TILE..][..TILE].copy_from_slice(line);
                }
            }
        }
        Ok(())
    }
}

/// Which layout each matrix of a model gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Of all others.
    pub rows: Packing,
    /// Of the feed-forward of each layer. May end early.
    pub skipping: Vec<Skipping>,
}

/// The layouts of what is skipped in a feed-forward; `None` where all of a matrix is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipping {
    /// Of `ffn_up`.
    pub up: Option<Packing>,
    /// Of `ffn_down`.
    pub down: Option<Packing>,
}

impl Skipping {
    /// The layout of a matrix that is called `name` in its layer.
    fn of(&self, name: &str) -> Option<Packing> {
        match name {
            "ffn_up" => self.up,
            "ffn_down" => self.down,
            _ => None,
        }
    }
}

impl Layer {
    /// What of `layouts` its feed-forward has now.
    pub fn skipping(&self, layouts: Skipping) -> Skipping {
        let has = |w: &Ternary, layout: &Packing| w.repacked().is_some_and(|packed| packed.packing == *layout);
        Skipping {
            up: layouts.up.filter(|up| has(&self.ffn_up, up)),
            down: layouts.down.filter(|down| has(&self.ffn_down, down)),
        }
    }
}

impl From<Packing> for Layout {
    fn from(rows: Packing) -> Self {
        let skipping = Vec::new();
        Layout { rows, skipping }
    }
}

/// One row with five weights a byte, four bytes at a time. No carry crosses a byte: each is at most 2 (1 + 3 + 9 + 27 + 81) = 242.
fn pack_row_5<'a>(row: &[u8], places: impl Iterator<Item = &'a mut [u8]>) {
    let (blocks, _) = row.as_chunks::<32>();
    // The codes of weights 4 g .. 4 g + 4, a byte each.
    let mut groups = blocks.iter().flat_map(|block| {
        [6, 4, 2, 0].into_iter().flat_map(move |shift| {
            let (words, _) = block.as_chunks::<4>();
            words.iter().map(move |word| u32::from_le_bytes(*word) >> shift & CODES)
        })
    });
    for place in places {
        let mut bytes = 0;
        for power in [1, 3, 9, 27, 81] {
            bytes += power * groups.next().unwrap_or(0);
        }
        place.copy_from_slice(&bytes.to_le_bytes());
    }
}

/// True when two bits of the same code are both set anywhere.
pub(super) fn has_code_3(packed: &[u8]) -> bool {
    const LOW: u64 = 0x5555_5555_5555_5555;
    let (words, rest) = packed.as_chunks::<8>();
    let both = |v: u64| v & (v >> 1) & LOW;
    // Whole chunks without an early exit inside, so that the loop becomes vector code.
    words
        .chunks(512)
        .any(|chunk| chunk.iter().fold(0, |any, w| any | both(u64::from_ne_bytes(*w))) != 0)
        || rest.iter().any(|&b| both(u64::from(b)) != 0)
}

/// A matrix with its name and the layout that it gets.
pub(super) type Place<'a> = (String, &'a Ternary, Packing);

impl Model {
    /// Bytes of memory that re-packed weights take, whatever is skipped: each matrix in the longer of its layouts, `rows` and that of `skipping`.
    pub fn repacked_bytes(&self, rows: Packing, skipping: Skipping) -> usize {
        let skipping = vec![skipping; self.layers.len()];
        let (tiles, other) = (Layout::from(rows), Layout { rows, skipping });
        let bytes = |(_, w, packing): Place<'_>| padded(packing.bytes(w));
        let pairs = self.places(&tiles).map(bytes).zip(self.places(&other).map(bytes));
        pairs.map(|(tiles, other)| tiles.max(other)).sum()
    }

    /// All ternary matrices with their names and layouts.
    pub(super) fn places<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = Place<'a>> {
        let skipping = layout
            .skipping
            .iter()
            .copied()
            .chain(std::iter::repeat(Skipping::default()));
        let layers = self.layers.iter().zip(skipping).enumerate();
        layers.flat_map(move |(index, (layer, skipping))| {
            layer.matrices().into_iter().map(move |(name, w)| {
                let other = skipping.of(name).filter(|packing| packing.bytes(w).is_some());
                (full_name(index, name), w, other.unwrap_or(layout.rows))
            })
        })
    }

    /// Re-packs every matrix that fits the layout, for all passes from then on, and checks every ternary weight on the
    /// way. Passes may run meanwhile: they change over from one matrix product to the next, without changing a bit.
    ///
    /// Reads the whole file and allocates [`Model::repacked_bytes`] at most, a group of matrices at a time, whose pages of the file are given
    /// back before the next one: both forms of the whole model are never in memory together. For a time when nobody waits. Stops
    /// where it is when `cancel` is set, or on an error; what was re-packed by then stays.
    ///
    /// What `kept` has is read from there: it was checked when it was made.
    pub fn repack(&self, kept: Option<&mut Sidecar>, layout: &Layout, cancel: &AtomicBool) -> Result<(), RepackError> {
        /// Much more than the end of a group, which has no huge page, much less than a model.
        const GROUP_BYTES: usize = 64 << 20;
        self.repack_in_groups(kept, layout, GROUP_BYTES, cancel)
    }

    /// Re-packs anew what is re-packed, but in another way than `layout` has it; how many matrices. Passes may run meanwhile, as above.
    ///
    /// One at a time, so that no more than one has both forms in memory: 3.5 or 4.4 MB of a model of 2B. Where a group gave up a place, the memory
    /// is the system's again. Stops as [`Model::repack`] does.
    pub fn change_over(&self, layout: &Layout, cancel: &AtomicBool) -> Result<usize, RepackError> {
        let mut changed = 0;
        for place in self.places(layout) {
            let (_, w, packing) = &place;
            let differs = w.repacked().is_some_and(|packed| packed.packing != *packing);
            let Some(bytes) = packing.bytes(w).filter(|_| differs) else {
                continue;
            };
            let buffer = HugeBuffer::zeroed(padded(Some(bytes)))?;
            if !self.repack_group(None, &[place], buffer, cancel)? {
                break;
            }
            changed += 1;
        }
        Ok(changed)
    }

    fn repack_in_groups(
        &self,
        mut kept: Option<&mut Sidecar>,
        layout: &Layout,
        group_bytes: usize,
        cancel: &AtomicBool,
    ) -> Result<(), RepackError> {
        let places: Vec<Place<'_>> = self.places(layout).collect();
        let mut rest = &places[..];
        while !rest.is_empty() {
            let (mut bytes, mut count) = (0, 0);
            while bytes < group_bytes && count < rest.len() {
                let (_, w, packing) = &rest[count];
                bytes += padded(packing.bytes(w));
                count += 1;
            }
            let (group, others) = rest.split_at(count);
            if !self.repack_group(kept.as_deref_mut(), group, HugeBuffer::zeroed(bytes)?, cancel)? {
                return Ok(());
            }
            rest = others;
        }
        Ok(())
    }

    /// Re-packs `group` into `buffer`, which has their padded bytes. False = cancelled.
    fn repack_group(
        &self,
        mut kept: Option<&mut Sidecar>,
        group: &[Place<'_>],
        mut buffer: HugeBuffer,
        cancel: &AtomicBool,
    ) -> Result<bool, InvalidModel> {
        let mut rest = &mut *buffer;
        for (name, w, packing) in group {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let Some(len) = packing.bytes(w) else {
                if has_code_3(&w.packed) {
                    return Err(InvalidModel::NotTernary(name.clone()));
                }
                continue;
            };
            let (place, behind) = rest.split_at_mut(padded(Some(len)));
            let place = &mut place[..len];
            let read = |kept: &mut &mut Sidecar| kept.read(name, w, *packing, &self.mapping, place);
            if !kept.as_mut().is_some_and(read) && packing.pack(w, place).is_err() {
                return Err(InvalidModel::NotTernary(name.clone()));
            }
            rest = behind;
        }
        // In parts, so that a matrix that is re-packed anew later can give back what it had.
        let parts = buffer.split(group.iter().map(|(_, w, packing)| padded(packing.bytes(w))));
        for (&(_, w, packing), part) in group.iter().zip(parts) {
            if let Some(len) = packing.bytes(w) {
                let data = Bytes::new(Arc::new(part), 0..len).expect("inside, as when it was written");
                w.set_repacked(Packed { data, packing });
                // The file's pages are not needed any more; whoever still reads them gets them from the page cache.
                self.mapping.release(&w.packed);
            }
        }
        Ok(true)
    }

    /// All ternary matrices with their names in the file, first to last.
    pub fn matrices(&self) -> impl Iterator<Item = (String, &Ternary)> {
        self.layers.iter().enumerate().flat_map(|(index, layer)| {
            let name = move |(name, w)| (full_name(index, name), w);
            layer.matrices().into_iter().map(name)
        })
    }
}

/// In the file, of the matrix that is called `name` in its layer.
fn full_name(layer: usize, name: &str) -> String {
    format!("blk.{layer}.{name}.weight")
}

/// The size of a matrix's place: matrices start at a cache line.
pub(super) fn padded(bytes: Option<usize>) -> usize {
    bytes.unwrap_or(0).next_multiple_of(64)
}

/// Why weights were not re-packed.
#[derive(Debug, thiserror::Error)]
pub enum RepackError {
    /// The file holds a code that is no weight.
    #[error(transparent)]
    Invalid(#[from] InvalidModel),
    /// No memory.
    #[error("no memory for re-packed weights: {0}")]
    Memory(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::small_model;

    const PACKING: Packing = Packing {
        order: Order::Rows,
        rows: 16,
        weights_per_byte: 5,
        max_cols: 1 << 16,
    };
    const COLUMNS: Packing = Packing {
        order: Order::Columns,
        rows: 320,
        ..PACKING
    };

    #[test]
    fn groups_of_any_size_hold_the_same_weights() {
        let go_on = AtomicBool::new(false);
        let repacked = |group_bytes| -> Vec<Vec<u8>> {
            let (model, _) = small_model().load().unwrap();
            model
                .repack_in_groups(None, &PACKING.into(), group_bytes, &go_on)
                .unwrap();
            let data = |(_, w): (String, &Ternary)| w.repacked().unwrap().data.to_vec();
            model.matrices().map(data).collect()
        };
        let (model, _) = small_model().load().unwrap();
        let expected: Vec<Vec<u8>> = model
            .matrices()
            .map(|(_, w)| {
                let mut out = vec![0; PACKING.bytes(w).unwrap()];
                PACKING.pack(w, &mut out).unwrap();
                out
            })
            .collect();
        assert_eq!(expected.len(), 7);
        for group_bytes in [1, 4000, 10_000, usize::MAX] {
            assert_eq!(repacked(group_bytes), expected, "{group_bytes}");
        }
    }

    #[test]
    fn a_group_that_is_not_ternary_or_not_wanted_leaves_those_before_it() {
        let count = |model: &Model| model.matrices().filter(|(_, w)| w.repacked().is_some()).count();
        let (model, _) = small_model().load().unwrap();
        model.repack(None, &PACKING.into(), &AtomicBool::new(true)).unwrap();
        assert_eq!(count(&model), 0);

        let mut writer = small_model();
        writer.tensor("blk.0.attn_output.weight").data[5] = 0xff;
        let (model, _) = writer.load().unwrap();
        let error = model
            .repack_in_groups(None, &PACKING.into(), 1, &AtomicBool::new(false))
            .unwrap_err();
        assert!(error.to_string().contains("blk.0.attn_output.weight"), "{error}");
        assert_eq!(count(&model), 3);
    }

    #[test]
    fn a_matrix_that_changes_over_leaves_those_that_hold_it_what_they_have() {
        let go_on = AtomicBool::new(false);
        let (model, _) = small_model().load().unwrap();
        let down = &model.layers[0].ffn_down;
        let by_columns = Layout {
            rows: PACKING,
            skipping: vec![Skipping {
                down: Some(COLUMNS),
                up: None,
            }],
        };
        assert_eq!(
            model.change_over(&by_columns, &go_on).unwrap(),
            0,
            "nothing is re-packed"
        );
        model.repack(None, &PACKING.into(), &go_on).unwrap();
        let expected = |packing: Packing| {
            let mut out = vec![0; packing.bytes(down).unwrap()];
            packing.pack(down, &mut out).unwrap();
            out
        };
        let others = || -> Vec<_> { model.matrices().take(6).map(|(_, w)| w.repacked().unwrap()).collect() };
        let before = others();
        for _ in 0..3 {
            for (layout, packing) in [(by_columns.clone(), COLUMNS), (PACKING.into(), PACKING)] {
                let held = down.repacked().unwrap();
                let bytes = held.data.to_vec();
                assert_eq!(
                    model.change_over(&layout, &AtomicBool::new(true)).unwrap(),
                    0,
                    "cancelled"
                );
                assert_eq!(model.change_over(&layout, &go_on).unwrap(), 1);
                assert_eq!(model.change_over(&layout, &go_on).unwrap(), 0, "it is so already");
                let now = down.repacked().unwrap();
                assert!(now.packing == packing && *now.data == expected(packing));
                assert!(*held.data == bytes);
                drop(held);
                assert!(*now.data == expected(packing));
            }
        }
        assert!(before.iter().zip(others()).all(|(a, b)| Arc::ptr_eq(a, &b)));
    }
}
