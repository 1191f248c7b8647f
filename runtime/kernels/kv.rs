//! The key/value cache of one sequence, laid out for the attention kernels.

use std::io;
use std::ptr::NonNull;

use super::Variant;
use super::attention::Tile;
use super::ops::{Heads, rows_of};
use super::reference::BLOCK;
use super::shared::{Shared, share};
use crate::machine::pool::Pool;
use crate::model::{Config, HugeBuffer};

/// Keys and values of one sequence, as f16 bits.
///
/// The memory is (blocks of [`BLOCK`] positions, layers, KV heads) pieces. A piece holds the keys, then the values, of a block
/// for one KV head, in the panels that templates/attention.c describes: one linear stream for the kernel that reads it.
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
}

impl Shape {
    fn new(layers: usize, heads: Heads) -> Self {
        Shape {
            layers,
            kv_heads: heads.kv,
            dim: heads.dim,
        }
    }

    /// Elements of a piece's keys.
    fn k_len(self) -> usize {
        BLOCK * self.dim
    }

    /// Elements of a piece: the last panel of its values is whole vectors wide.
    fn piece_len(self) -> usize {
        self.k_len() + BLOCK * self.dim.next_multiple_of(16)
    }

    /// Bytes of so many positions, in whole blocks.
    fn bytes(self, positions: usize) -> Option<usize> {
        let block_bytes = self.layers * self.kv_heads * self.piece_len() * size_of::<u16>();
        block_bytes.checked_mul(positions.div_ceil(BLOCK))
    }
}

/// Where the keys and the values of a block start, for one KV head of one layer.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub k: *mut u16,
    pub v: *mut u16,
}

impl KvCache {
    /// A cache for `capacity` positions. Panics where the address space is too small.
    pub fn new(config: &Config, capacity: usize) -> Self {
        Self::reserve(config, capacity).expect("address space for the key/value cache")
    }

    /// The same, with an error instead. Whether there is memory for all positions is for the caller to know.
    pub fn reserve(config: &Config, capacity: usize) -> io::Result<Self> {
        let shape = Shape::new(config.layers, Heads::of(config));
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
    pub fn bytes(config: &Config, positions: usize) -> u64 {
        let bytes = Shape::new(config.layers, Heads::of(config)).bytes(positions);
        bytes.map_or(u64::MAX, |bytes| bytes as u64)
    }

    /// Bytes of one position, over all layers.
    pub fn bytes_per_position(config: &Config) -> u64 {
        KvCache::bytes(config, BLOCK) / BLOCK as u64
    }

    /// Panics unless it was made for `heads`, and has this layer and so many positions.
    pub(super) fn check(&self, heads: Heads, layer: usize, positions: usize) {
        assert_eq!(self.shape, Shape::new(self.shape.layers, heads));
        assert!(layer < self.shape.layers && positions <= self.capacity);
    }

    /// A piece, whole and inside the cache.
    pub(super) fn piece(&self, layer: usize, block: usize, kv_head: usize) -> Piece {
        let Shape { layers, kv_heads, .. } = self.shape;
        assert!(layer < layers && kv_head < kv_heads && block < self.capacity.div_ceil(BLOCK));
        let at = ((block * layers + layer) * kv_heads + kv_head) * self.shape.piece_len();
        // SAFETY: the cache holds whole blocks, so that this whole piece lies inside of it.
        unsafe {
            let k = self.start.as_ptr().cast::<u16>().add(at);
            let v = k.add(self.shape.k_len());
            Piece { k, v }
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

impl Variant {
    /// Rotates q (rows, heads.q, dim) and k (rows, heads.kv, dim) in place, rounded to f16, and stores k and v (rows, heads.kv,
    /// dim) at the rows' places in one layer of their caches.
    #[expect(clippy::too_many_arguments, reason = "one step of the pass over all that it has")]
    pub fn rotate_and_store(
        &self,
        pool: &Pool,
        heads: Heads,
        angles: Angles<'_>,
        (q, k, v): (&mut [f32], &mut [f32], &[f32]),
        caches: &mut [KvCache],
        layer: usize,
        tiles: &[Tile],
    ) {
        let (d, half, group) = (heads.dim, heads.dim / 2, heads.group());
        let rows = rows_of(q, heads.q * d);
        assert!(d.is_multiple_of(2) && angles.cos.len() == rows * half && angles.sin.len() == rows * half);
        assert!(k.len() == rows * heads.kv * d && v.len() == k.len());
        Tile::check(tiles, rows, caches, heads, layer);
        let (q, k, caches) = (Shared::new(q), Shared::new(k), &*caches);
        let head = |kv_head: usize| {
            for (row, cache, position) in tiles.iter().flat_map(|tile| tile.places()) {
                let piece = caches[cache].piece(layer, position / BLOCK, kv_head);
                let (cos, sin) = (angles.cos[row * half..].as_ptr(), angles.sin[row * half..].as_ptr());
                let (q_at, kv_at) = ((row * heads.kv + kv_head) * group * d, (row * heads.kv + kv_head) * d);
                // SAFETY: a head is given to one thread, and what it writes are that head's elements alone: of q, of k, and of
                // its piece of a cache, which is borrowed mutably by the caller, and has this layer and position.
                unsafe {
                    let (q, k) = (q.part(q_at..q_at + group * d), k.part(kv_at..kv_at + d));
                    (self.rope)(q.as_mut_ptr(), cos, sin, group, half);
                    (self.rope)(k.as_mut_ptr(), cos, sin, 1, half);
                    self.store(piece, position % BLOCK, k, &v[kv_at..kv_at + d]);
                }
            }
        };
        /// Below this a fork-join costs more than it saves.
        const SMALL: usize = 4;
        if rows < SMALL {
            (0..heads.kv).for_each(head);
        } else {
            pool.run(&|thread| share(heads.kv, 1, thread, pool.threads()).for_each(head));
        }
    }

    /// Puts k and v (dim) at position t of a block.
    ///
    /// # Safety
    /// `piece` is of heads as wide as k and v, and nobody else accesses its position t.
    unsafe fn store(&self, piece: Piece, t: usize, k: &[f32], v: &[f32]) {
        let (d, panel) = (k.len(), self.kv_panel);
        assert!(t < BLOCK && v.len() == d);
        // A position is a column of a panel of keys: (t / panel, dim, t % panel).
        let column = t / panel * panel * d + t % panel;
        let mut bits = [0; 64];
        for (k, first) in k.chunks(bits.len()).zip((0..).step_by(bits.len())) {
            self.to_f16(k, &mut bits[..k.len()]);
            for (i, &bits) in (first..).zip(&bits[..k.len()]) {
                // SAFETY: i < dim, so this is inside of the keys.
                unsafe { piece.k.add(column + i * panel).write(bits) };
            }
        }
        // It is a row of every panel of values: (dim / panel, BLOCK, panel), the last one as wide as it has to be.
        for (v, first) in v.chunks(panel).zip((0..).step_by(panel)) {
            let width = v.len().next_multiple_of(16);
            // SAFETY: as above; the row holds `width` elements, and as many as v has are written.
            unsafe { (self.to_f16)(v.as_ptr(), v.len(), piece.v.add(first * BLOCK + t * width)) };
        }
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
        for dim in [16, 32, 100, 128] {
            let config = Config {
                head_dim: dim,
                context: 200,
                ..testing::config()
            };
            let (heads, position) = (Heads::of(&config), 150);
            let mut caches = [KvCache::new(&config, 200)];
            let v: Vec<f32> = (0..heads.kv * dim).map(|i| (i + 1) as f32).collect();
            let (mut q, mut k) = (vec![0.0; heads.q * dim], v.iter().map(|x| -x).collect::<Vec<f32>>());
            let (cos, sin) = (vec![1.0; dim / 2], vec![0.0; dim / 2]);
            let angles = Angles { cos: &cos, sin: &sin };
            let mut tiles = Vec::new();
            Tile::collect([(0, position)].into_iter(), &mut tiles);
            let inputs = (&mut q[..], &mut k[..], &v[..]);
            kernels.rotate_and_store(&Pool::new(1), heads, angles, inputs, &mut caches, 1, &tiles);
            let t = position - BLOCK;
            for (head, i) in (0..heads.kv).flat_map(|head| (0..dim).map(move |i| (head, i))) {
                let Piece { k, v } = caches[0].piece(1, 1, head);
                let width = panel.min((dim - i / panel * panel).next_multiple_of(16));
                let k_at = t / panel * panel * dim + i * panel + t % panel;
                let v_at = i / panel * panel * BLOCK + t * width + i % panel;
                // SAFETY: inside of the piece, which nobody writes now.
                let found = unsafe { (k.add(k_at).read(), v.add(v_at).read()) };
                let bits = |x| half::f16::from_f32(x).to_bits();
                let value = (head * dim + i + 1) as f32;
                assert_eq!(found, (bits(-value), bits(value)), "dim {dim} head {head} element {i}");
            }
        }
    }

    #[test]
    fn memory_comes_in_whole_blocks() {
        let config = testing::config();
        let heads = Heads::of(&config);
        let block = (config.layers * heads.kv * BLOCK * 2 * heads.dim * 2) as u64;
        assert_eq!(
            [1, BLOCK, BLOCK + 1].map(|n| KvCache::bytes(&config, n)),
            [block, block, 2 * block]
        );
        assert!(KvCache::reserve(&config, usize::MAX).is_err());
    }
}
