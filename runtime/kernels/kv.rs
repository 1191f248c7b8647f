//! The key/value cache of one sequence, laid out for the attention kernels.

use std::io;
use std::ptr::NonNull;

use super::Variant;
use super::attention::Tile;
use super::lines::with_memory;
use super::ops::{Heads, in_shares, rows_of};
use super::reference::BLOCK;
use super::shared::Shared;
use crate::machine::pool::Pool;
use crate::model::{Config, HugeBuffer};

/// How keys or values are cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// f16 values.
    #[default]
    F16,
    /// int8 codes with a scale for each position and KV head (llama.cpp's type of this name has one for 32 elements): about half the
    /// memory. Lossy.
    Q8_0,
}

impl CacheType {
    /// As llama.cpp names them.
    pub const ALL: [(&'static str, CacheType); 2] = [("f16", CacheType::F16), ("q8_0", CacheType::Q8_0)];

    /// Bytes of a block of rows of `width` elements, scales included.
    fn block_bytes(self, width: usize) -> usize {
        match self {
            CacheType::F16 => BLOCK * width * 2,
            CacheType::Q8_0 => BLOCK * (width + size_of::<f32>()),
        }
    }
}

impl std::fmt::Display for CacheType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, _) = CacheType::ALL[*self as usize];
        f.write_str(name)
    }
}

impl std::str::FromStr for CacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = CacheType::ALL.iter().find(|(name, _)| *name == text);
        found
            .map(|&(_, kind)| kind)
            .ok_or_else(|| format!("`{text}` is not a cache type of this engine: f16 or q8_0 is needed"))
    }
}

/// How a sequence is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheTypes {
    /// Its keys.
    pub k: CacheType,
    /// Its values.
    pub v: CacheType,
}

/// Keys and values of one sequence.
///
/// The memory is (blocks of [`BLOCK`] positions, layers, KV heads) pieces. A piece holds the keys, then the values, of a block
/// for one KV head, in the panels that templates/attention.c describes, each followed by its scales if it has any: one linear
/// stream for the kernel that reads it.
/// Pages take memory when a position that lies in them is first written, so a long context costs memory only when it is used,
/// a few blocks at a time. A new sequence starts again at position 0; what the last one left behind it is never used.
pub struct KvCache {
    /// The start of `buffer`, which is reached through this alone.
    start: NonNull<u8>,
    /// What frees it.
    _buffer: HugeBuffer,
    shape: Shape,
    capacity: usize,
}

// SAFETY: the memory behind `start` belongs to this value; it is read through `&self` and written through `&mut self`.
unsafe impl Send for KvCache {}
// SAFETY: as above.
unsafe impl Sync for KvCache {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    layers: usize,
    kv_heads: usize,
    dim: usize,
    types: CacheTypes,
}

impl Shape {
    fn new(config: &Config, types: CacheTypes) -> Self {
        let heads = Heads::of(config);
        Shape {
            layers: config.layers,
            kv_heads: heads.kv,
            dim: heads.dim,
            types,
        }
    }

    /// Bytes of a piece's keys.
    fn k_bytes(self) -> usize {
        self.types.k.block_bytes(self.dim)
    }

    /// Columns of a piece's values: the last panel is whole vectors wide.
    fn v_width(self) -> usize {
        self.dim.next_multiple_of(16)
    }

    fn piece_bytes(self) -> usize {
        self.k_bytes() + self.types.v.block_bytes(self.v_width())
    }

    /// Bytes of so many positions, in whole blocks.
    fn bytes(self, positions: usize) -> Option<usize> {
        let block_bytes = self.layers * self.kv_heads * self.piece_bytes();
        block_bytes.checked_mul(positions.div_ceil(BLOCK))
    }
}

/// The keys or the values of a block, for one KV head of one layer.
#[derive(Clone, Copy)]
pub(super) enum Panels {
    /// f16 bits.
    F16(*mut u16),
    /// Codes, and the scales (BLOCK).
    Q8_0(*mut i8, *mut f32),
}

/// Both.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub k: Panels,
    pub v: Panels,
}

impl KvCache {
    /// A cache for `capacity` positions. Panics where the address space is too small.
    pub fn new(config: &Config, types: CacheTypes, capacity: usize) -> Self {
        Self::reserve(config, types, capacity).expect("address space for the key/value cache")
    }

    /// The same, with an error instead: for sizes that somebody asked for. Whether there is memory for all positions is for the
    /// caller to know.
    pub fn reserve(config: &Config, types: CacheTypes, capacity: usize) -> io::Result<Self> {
        let shape = Shape::new(config, types);
        let bytes = shape.bytes(capacity).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut buffer = HugeBuffer::zeroed(bytes)?;
        Ok(KvCache {
            start: NonNull::from(&mut *buffer).cast(),
            _buffer: buffer,
            shape,
            capacity,
        })
    }

    /// Bytes that so many positions take: whole blocks.
    pub fn bytes(config: &Config, types: CacheTypes, positions: usize) -> u64 {
        let bytes = Shape::new(config, types).bytes(positions);
        bytes.map_or(u64::MAX, |bytes| bytes as u64)
    }

    /// Bytes of one position, over all layers.
    pub fn bytes_per_position(config: &Config, types: CacheTypes) -> u64 {
        KvCache::bytes(config, types, BLOCK) / BLOCK as u64
    }

    /// Positions that it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How its keys and values are kept.
    pub fn types(&self) -> CacheTypes {
        self.shape.types
    }

    /// Panics unless it was made for `heads`, and has this layer and so many positions.
    pub(super) fn check(&self, heads: Heads, layer: usize, positions: usize) {
        assert_eq!((self.shape.kv_heads, self.shape.dim), (heads.kv, heads.dim));
        assert!(layer < self.shape.layers && positions <= self.capacity);
    }

    /// A piece, whole and inside the cache.
    pub(super) fn piece(&self, layer: usize, block: usize, kv_head: usize) -> Piece {
        let Shape {
            layers,
            kv_heads,
            dim,
            types,
        } = self.shape;
        assert!(layer < layers && kv_head < kv_heads && block < self.capacity.div_ceil(BLOCK));
        let at = ((block * layers + layer) * kv_heads + kv_head) * self.shape.piece_bytes();
        // SAFETY: the cache holds whole blocks, so that this whole piece lies inside of it; a block of rows is a multiple of 128
        // bytes, whatever its type, so that all of its parts are aligned.
        unsafe {
            let panels = |start: *mut u8, kind, width: usize| match kind {
                CacheType::F16 => Panels::F16(start.cast()),
                CacheType::Q8_0 => Panels::Q8_0(start.cast(), start.add(BLOCK * width).cast()),
            };
            let k = self.start.as_ptr().add(at);
            let v = k.add(self.shape.k_bytes());
            Piece {
                k: panels(k, types.k, dim),
                v: panels(v, types.v, self.shape.v_width()),
            }
        }
    }
}

/// RoPE angles of the rows of a pass, each (rows, dim / 2).
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
}

impl<'a> Angles<'a> {
    /// The first `len` of each.
    pub fn of(cos: &'a [f32], sin: &'a [f32], len: usize) -> Self {
        let (cos, sin) = (&cos[..len], &sin[..len]);
        Angles { cos, sin }
    }

    /// Of a row, for heads of `dim` elements.
    fn row(&self, row: usize, dim: usize) -> (*const f32, *const f32) {
        let (cos, sin) = (
            &self.cos[row * dim / 2..][..dim / 2],
            &self.sin[row * dim / 2..][..dim / 2],
        );
        (cos.as_ptr(), sin.as_ptr())
    }
}

/// Rows that are too few to be shared.
const FEW_ROWS: usize = 3;

impl Variant {
    /// Rotates q (rows, heads.q, dim) in place, rounded to f16.
    pub fn rotate(&self, pool: &Pool, heads: Heads, angles: Angles<'_>, q: &mut [f32]) {
        let (d, width) = (heads.dim, heads.q * heads.dim);
        let rows = rows_of(q, width);
        assert!(d.is_multiple_of(2));
        let q = Shared::new(q);
        in_shares(pool, rows, FEW_ROWS, |rows| {
            for row in rows {
                let (cos, sin) = angles.row(row, d);
                // SAFETY: each row is given to one thread; it has heads.q heads of dim elements, and half as many angles.
                unsafe {
                    let q = q.part(row * width..(row + 1) * width);
                    (self.rope)(q.as_mut_ptr(), cos, sin, heads.q, d / 2);
                }
            }
        });
    }

    /// Rotates k (rows, heads.kv, dim) in place, rounded to f16, and stores k and v (rows, heads.kv, dim) at the rows' places in one
    /// layer of their caches.
    #[expect(clippy::too_many_arguments, reason = "one step of the pass over all that it has")]
    pub fn store(
        &self,
        pool: &Pool,
        heads: Heads,
        angles: Angles<'_>,
        (k, v): (&mut [f32], &[f32]),
        caches: &mut [KvCache],
        layer: usize,
        tiles: &[Tile],
    ) {
        let d = heads.dim;
        let rows = rows_of(k, heads.kv * d);
        assert!(d.is_multiple_of(2) && v.len() == k.len());
        Tile::check(tiles, rows, caches, heads, layer);
        let (k, caches) = (Shared::new(k), &*caches);
        in_shares(pool, rows, FEW_ROWS, |rows| {
            for kv_head in 0..heads.kv {
                let places = tiles.iter().flat_map(|tile| tile.places());
                for (row, cache, position) in places.skip(rows.start).take(rows.len()) {
                    let piece = caches[cache].piece(layer, position / BLOCK, kv_head);
                    let (cos, sin) = angles.row(row, d);
                    let at = (row * heads.kv + kv_head) * d;
                    // SAFETY: a row is given to one thread, and what it writes belongs to that row alone: elements of k, and a
                    // position of a cache, which is borrowed mutably by the caller, and has this layer and position.
                    unsafe {
                        let k = k.part(at..at + d);
                        (self.rope)(k.as_mut_ptr(), cos, sin, 1, d / 2);
                        self.store_position(piece, position % BLOCK, k, &v[at..at + d]);
                    }
                }
            }
        });
    }

    /// Puts k and v (dim) at position t of a block.
    ///
    /// # Safety
    /// `piece` is of heads as wide as k and v, and nobody else accesses its position t.
    unsafe fn store_position(&self, piece: Piece, t: usize, k: &[f32], v: &[f32]) {
        let (d, panel) = (k.len(), self.kv_panel);
        assert!(t < BLOCK && v.len() == d && d.is_multiple_of(2));
        // A position is a column of a panel of keys: (t / panel, dim, t % panel), of codes (t / panel, dim / 2, t % panel, 2).
        let first = t / panel * panel * d;
        match piece.k {
            Panels::F16(keys) => {
                let mut bits = [0; 64];
                for (k, i) in k.chunks(bits.len()).zip((0..).step_by(bits.len())) {
                    self.to_f16(k, &mut bits[..k.len()]);
                    for (i, &bits) in (i..).zip(&bits[..k.len()]) {
                        // SAFETY: i < dim, so this is inside of the keys.
                        unsafe { keys.add(first + i * panel + t % panel).write(bits) };
                    }
                }
            }
            Panels::Q8_0(keys, scales) => self.with_codes(k, |codes, scale| {
                for (i, pair) in codes.as_chunks().0.iter().enumerate() {
                    // SAFETY: 2 * i + 1 < dim, so this is inside of the keys; the scales are of a block.
                    unsafe {
                        keys.add(first + (i * panel + t % panel) * 2)
                            .cast::<[i8; 2]>()
                            .write(*pair)
                    };
                }
                // SAFETY: as above.
                unsafe { scales.add(t).write(scale) };
            }),
        }
        // It is a row of every panel of values: (dim / panel, BLOCK, panel), of codes (dim / panel, BLOCK / 2, panel, 2), the last
        // panel as wide as it has to be.
        let panels = (0..d).step_by(panel).map(|first| (first, panel.min(d - first)));
        let width = |columns: usize| columns.next_multiple_of(16);
        match piece.v {
            Panels::F16(values) => panels.for_each(|(first, columns)| {
                // SAFETY: as above; the row holds `width` elements, and as many as v has are written.
                unsafe {
                    let row = values.add(first * BLOCK + t * width(columns));
                    (self.to_f16)(v[first..].as_ptr(), columns, row);
                }
            }),
            Panels::Q8_0(values, scales) => self.with_codes(v, |codes, scale| {
                panels.for_each(|(first, columns)| {
                    let row = first * BLOCK + t / 2 * 2 * width(columns) + t % 2;
                    for (c, &code) in codes[first..first + columns].iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { values.add(row + c * 2).write(code) };
                    }
                });
                // SAFETY: as above.
                unsafe { scales.add(t).write(scale) };
            }),
        }
    }

    /// Calls `store` with x as [`quantize_cached`](super::reference::quantize_cached) has it.
    fn with_codes(&self, x: &[f32], store: impl FnOnce(&[i8], f32)) {
        with_memory(x.len(), |bytes: &mut [u8]| {
            let (codes, mut inverse, mut sum) = (bytes.as_mut_ptr().cast::<i8>(), 0.0, 0);
            // SAFETY: x and the codes are of one length, and any bytes are codes.
            unsafe {
                (self.quantize)(x.as_ptr(), x.len(), codes, &raw mut inverse, &raw mut sum);
                store(std::slice::from_raw_parts(codes, x.len()), 1.0 / inverse);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;

    #[test]
    fn what_is_stored_lies_at_its_place_in_the_panels() {
        let kernels = testing::kernels();
        let panel = kernels.kv_panel;
        for (dim, (k_type, v_type)) in [16, 32, 100, 128].into_iter().flat_map(|dim| {
            let types = [CacheType::F16, CacheType::Q8_0];
            types.into_iter().flat_map(move |k| types.map(|v| (dim, (k, v))))
        }) {
            let config = Config {
                head_dim: dim,
                context: 200,
                ..testing::config()
            };
            let (heads, position) = (Heads::of(&config), 151);
            let types = CacheTypes { k: k_type, v: v_type };
            let mut caches = [KvCache::new(&config, types, 200)];
            let value = |head: usize, i: usize| (head * dim + i + 1) as f32;
            let places = || (0..heads.kv).flat_map(move |head| (0..dim).map(move |i| (head, i)));
            let v: Vec<f32> = places().map(|(head, i)| value(head, i)).collect();
            let mut k: Vec<f32> = v.iter().map(|x| -x).collect();
            let (cos, sin) = (vec![1.0; dim / 2], vec![0.0; dim / 2]);
            let angles = Angles { cos: &cos, sin: &sin };
            let mut tiles = Vec::new();
            Tile::collect([(0, position)].into_iter(), &mut tiles);
            let inputs = (&mut k[..], &v[..]);
            kernels.store(&Pool::new(1), heads, angles, inputs, &mut caches, 1, &tiles);
            let t = position - BLOCK;
            // What is found at an element of B (rows, columns) in panels, when rows lie in pairs and when they do not.
            let found = |panels, (row, rows): (usize, usize), (column, columns): (usize, usize), t: usize| {
                let first = column / panel * panel;
                let width = panel.min((columns - first).next_multiple_of(16));
                // SAFETY: inside of the piece, which nobody writes now.
                unsafe {
                    match panels {
                        Panels::F16(at) => {
                            let bits = at.add(first * rows + row * width + column - first).read();
                            half::f16::from_bits(bits).to_f32()
                        }
                        Panels::Q8_0(codes, scales) => {
                            let at = first * rows + row / 2 * 2 * width + (column - first) * 2 + row % 2;
                            f32::from(codes.add(at).read()) * scales.add(t).read()
                        }
                    }
                }
            };
            for (head, i) in places() {
                let Piece { k, v } = caches[0].piece(1, 1, head);
                let (k, v) = (found(k, (i, dim), (t, BLOCK), t), found(v, (t, BLOCK), (i, dim), t));
                let step = |kind| match kind {
                    CacheType::F16 => 0.0,
                    CacheType::Q8_0 => value(head, dim - 1) / 254.0 * 1.001,
                };
                let error = ((k + value(head, i)).abs(), (v - value(head, i)).abs());
                let near = error.0 <= step(k_type) && error.1 <= step(v_type);
                assert!(near, "{types:?} dim {dim} head {head} element {i}: {k} {v}");
            }
        }
    }

    #[test]
    fn memory_comes_in_whole_blocks() {
        let config = testing::config();
        let heads = Heads::of(&config);
        let types = CacheTypes::default();
        let block = (config.layers * heads.kv * BLOCK * 2 * heads.dim * 2) as u64;
        assert_eq!(
            [1, BLOCK, BLOCK + 1].map(|n| KvCache::bytes(&config, types, n)),
            [block, block, 2 * block]
        );
        assert!(KvCache::reserve(&config, types, usize::MAX).is_err());
        let codes = CacheTypes {
            k: CacheType::Q8_0,
            ..types
        };
        let saved = (config.layers * heads.kv * BLOCK * (heads.dim - 4)) as u64;
        assert_eq!(KvCache::bytes(&config, codes, 1), block - saved);
    }
}
