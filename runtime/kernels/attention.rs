//! Attention over the caches of the rows' sequences, split over tiles of rows, KV heads and, when those are few, blocks of
//! positions.
//!
//! [`reference::attention`] defines the result block by block, merged in their order. So it does not matter which thread computes
//! a block, or with which other rows.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Variant;
use super::kv::{CacheType, KvCache, Panels};
use super::ops::{Heads, in_shares, rows_of};
use super::reference::{self, BLOCK};
use super::shared::Shared;
use crate::machine::pool::Pool;

/// Most rows of a tile: with four heads a KV head, their queries, scores and outputs stay in L2 beside a piece of the cache, which
/// is read from memory once for all of them.
const TILE_ROWS: usize = 16;
const _: () = assert!(BLOCK.is_multiple_of(TILE_ROWS));

/// Elements that parts waiting for their merging take, for each thread: half a MiB, 15 blocks of a whole tile with four heads of 128 elements.
/// What has no room waits for the next round, so that no context and no batch needs more.
const ROOM: usize = 128 << 10;

/// Rows of a pass at successive positions of one sequence, which lie in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Index of the sequence's cache.
    pub cache: usize,
    /// Position of the first row.
    pub position: usize,
    /// The first row.
    pub row: usize,
    /// How many, at least one.
    pub rows: usize,
}

impl Tile {
    /// The tiles of rows at (cache, position).
    pub fn collect(places: impl Iterator<Item = (usize, usize)>, tiles: &mut Vec<Tile>) {
        tiles.clear();
        for (row, (cache, position)) in places.enumerate() {
            if let Some(last) = tiles.last_mut()
                && (last.cache, last.position + last.rows) == (cache, position)
                && !position.is_multiple_of(TILE_ROWS)
            {
                last.rows += 1;
            } else {
                tiles.push(Tile {
                    cache,
                    position,
                    row,
                    rows: 1,
                });
            }
        }
    }

    /// Panics unless `tiles` are all of `rows` rows, as [`Tile::collect`] makes them, and the caches have room for them.
    pub(super) fn check(tiles: &[Tile], rows: usize, caches: &[KvCache], heads: Heads, layer: usize) {
        let mut next = 0;
        for tile in tiles {
            assert!(tile.row == next && tile.rows > 0 && tile.position % TILE_ROWS + tile.rows <= TILE_ROWS);
            caches[tile.cache].check(heads, layer, tile.position + tile.rows);
            next += tile.rows;
        }
        assert_eq!(next, rows);
    }

    /// (row, cache, position) of its rows.
    pub(super) fn places(self) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..self.rows).map(move |r| (self.row + r, self.cache, self.position + r))
    }

    /// Blocks that its rows see.
    fn blocks(&self) -> usize {
        self.position / BLOCK + 1
    }
}

/// What attention comes to over some positions, for the n = rows * group heads of a tile that share a KV head.
struct Part<'a> {
    /// Greatest score (n).
    max: &'a mut [f32],
    /// Sum of e^(score - max) (n).
    sum: &'a mut [f32],
    /// Sum of e^(score - max) * v (n, dim).
    out: &'a mut [f32],
}

impl<'a> Part<'a> {
    /// Elements of a part.
    fn len(n: usize, dim: usize) -> usize {
        n * (dim + 2)
    }

    /// The part that lies in `memory`.
    fn of(memory: &'a mut [f32], n: usize) -> Self {
        let (max, rest) = memory.split_at_mut(n);
        let (sum, out) = rest.split_at_mut(n);
        Part { max, sum, out }
    }

    /// Joins what the positions after it come to.
    fn merge(&mut self, next: &Part<'_>, dim: usize) {
        let heads = self
            .max
            .iter_mut()
            .zip(self.sum.iter_mut())
            .zip(self.out.chunks_exact_mut(dim));
        let others = next.max.iter().zip(next.sum.iter()).zip(next.out.chunks_exact(dim));
        for (((max, sum), out), ((&next_max, &next_sum), next_out)) in heads.zip(others) {
            reference::merge((max, sum, out), (next_max, next_sum, next_out));
        }
    }
}

/// Buffers of [`Variant::attention`], grown to the largest use so far.
#[derive(Default)]
pub struct AttentionScratch {
    /// Parts that wait for their merging, as many as there is room for.
    parts: Vec<f32>,
    /// What the first blocks of a tile come to, for each KV head, when the others wait for the next round.
    begun: Vec<f32>,
    /// Blocks that a tile and KV head still wait for (tiles, kv_heads).
    pending: Vec<AtomicUsize>,
    /// Queries in int16 (rows, heads.q, dim), and the scale of each head (rows, heads.q), for keys in int8.
    codes: Vec<i16>,
    scales: Vec<f32>,
}

thread_local! {
    /// Scores (TILE_ROWS, group, BLOCK) and two parts, of one tile and KV head.
    static LOCAL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One call's inputs and output.
struct Job<'a> {
    kernels: &'a Variant,
    heads: Heads,
    layer: usize,
    caches: &'a [KvCache],
    /// (rows, heads.q, dim)
    q: &'a [f32],
    /// The same in int16, and the scales (rows, heads.q); empty where no cache asks for it.
    codes: (&'a [i16], &'a [f32]),
    /// The shape of q.
    out: Shared<'a, f32>,
}

impl Variant {
    /// Attention of q (rows, heads.q, dim), rotated and rounded by [`Variant::rotate`], over one layer of the rows' caches
    /// -> out (rows, heads.q, dim). A row sees the positions up to its own.
    #[expect(clippy::too_many_arguments, reason = "one step of the pass over all that it has")]
    pub fn attention(
        &self,
        pool: &Pool,
        heads: Heads,
        q: &[f32],
        caches: &[KvCache],
        layer: usize,
        tiles: &[Tile],
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let rows = rows_of(q, heads.q * heads.dim);
        assert_eq!(out.len(), q.len());
        Tile::check(tiles, rows, caches, heads, layer);
        let (mut codes, mut scales) = (std::mem::take(&mut scratch.codes), std::mem::take(&mut scratch.scales));
        if tiles.iter().any(|tile| caches[tile.cache].types().k == CacheType::Q8_0) {
            codes.resize(q.len(), 0);
            scales.resize(rows * heads.q, 0.0);
            quantize_queries(pool, q, &mut codes, &mut scales);
        }
        let job = Job {
            kernels: self,
            heads,
            layer,
            caches,
            q,
            codes: (&codes, &scales),
            out: Shared::new(out),
        };
        // With a single thread, or work enough for all, nothing has to be put down for another to merge.
        if pool.threads() == 1 || tiles.len() * heads.kv >= 8 * pool.threads() {
            job.whole_tiles(pool, tiles);
        } else {
            job.blocks(pool, tiles, scratch);
        }
        (scratch.codes, scratch.scales) = (codes, scales);
    }
}

/// q (rows, heads, dim) in int16, with a scale a head.
fn quantize_queries(pool: &Pool, q: &[f32], codes: &mut [i16], scales: &mut [f32]) {
    /// Heads that are too few to be shared.
    const FEW: usize = 127;
    let (dim, heads) = (q.len() / scales.len(), scales.len());
    let (codes, scales) = (Shared::new(codes), Shared::new(scales));
    in_shares(pool, heads, FEW, |heads| {
        for h in heads {
            let range = h * dim..(h + 1) * dim;
            // SAFETY: each head is given to one thread.
            unsafe { scales.part(h..h + 1)[0] = reference::quantize_query(&q[range.clone()], codes.part(range)) };
        }
    });
}

impl Job<'_> {
    /// Threads take a tile and KV head at a time.
    fn whole_tiles(&self, pool: &Pool, tiles: &[Tile]) {
        let (kv, d) = (self.heads.kv, self.heads.dim);
        let next = AtomicUsize::new(0);
        pool.run(&|_| {
            self.with_local(|scores, state, part| {
                loop {
                    let item = next.fetch_add(1, Ordering::Relaxed);
                    // The last tiles of a prompt see the most, so they come first.
                    let Some(tile) = (tiles.len() * kv).checked_sub(item + 1).map(|i| &tiles[i / kv]) else {
                        break;
                    };
                    let (kv_head, n) = (item % kv, tile.rows * self.heads.group());
                    let mut state = Part::of(&mut state[..Part::len(n, d)], n);
                    self.block(tile, kv_head, 0, scores, &mut state);
                    for block in 1..tile.blocks() {
                        let mut part = Part::of(&mut part[..Part::len(n, d)], n);
                        self.block(tile, kv_head, block, scores, &mut part);
                        state.merge(&part, d);
                    }
                    // SAFETY: items are handed out once.
                    unsafe { self.finish(tile, kv_head, &state) };
                }
            });
        });
    }

    /// Threads take a block at a time, in rounds of as many as there is room for.
    fn blocks(&self, pool: &Pool, mut tiles: &[Tile], scratch: &mut AttentionScratch) {
        let (kv, d) = (self.heads.kv, self.heads.dim);
        let len = |rows: usize| kv * Part::len(rows * self.heads.group(), d);
        let room = (pool.threads() * ROOM).max(len(TILE_ROWS));
        // Once: a context that grows finds them large enough.
        for (buffer, len) in [(&mut scratch.parts, room), (&mut scratch.begun, len(TILE_ROWS))] {
            if buffer.len() < len {
                *buffer = vec![0.0; len];
            }
        }
        while let Some(first) = tiles.first() {
            let mut used = 0;
            let whole = tiles.iter().take_while(|tile| {
                used += tile.blocks() * len(tile.rows);
                used <= room
            });
            let whole = whole.count();
            if whole == 0 {
                let step = room / len(first.rows);
                for start in (0..first.blocks()).step_by(step) {
                    self.round(pool, &tiles[..1], start..start + step, scratch);
                }
            } else {
                self.round(pool, &tiles[..whole], 0..usize::MAX, scratch);
            }
            tiles = &tiles[whole.max(1)..];
        }
    }

    /// Those of the tiles' blocks that are among `blocks`: all, or of a single tile some, after which the others come. Who finishes the last
    /// one of a tile and KV head merges them.
    fn round(&self, pool: &Pool, tiles: &[Tile], blocks: Range<usize>, scratch: &mut AttentionScratch) {
        let (kv, d, group) = (self.heads.kv, self.heads.dim, self.heads.group());
        let count = |tile: &Tile| blocks.end.min(tile.blocks()) - blocks.start;
        let AttentionScratch {
            parts, begun, pending, ..
        } = scratch;
        pending.clear();
        let counts = tiles.iter().map(count);
        pending.extend(counts.flat_map(|count| (0..kv).map(move |_| AtomicUsize::new(count))));
        let (parts, begun, next) = (Shared::new(parts), Shared::new(begun), AtomicUsize::new(0));
        pool.run(&|_| {
            self.with_local(|scores, _, _| {
                let mut todo = next.fetch_add(1, Ordering::Relaxed);
                // Items and parts before those of the tile.
                let (mut items, mut at) = (0, 0);
                for (t, tile) in tiles.iter().enumerate() {
                    let (n, len, count) = (tile.rows * group, Part::len(tile.rows * group, d), count(tile));
                    let part_of = |kv_head, i| at + (kv_head * count + i) * len;
                    while todo < items + count * kv {
                        // In the order of memory.
                        let (i, kv_head) = ((todo - items) / kv, (todo - items) % kv);
                        let range = part_of(kv_head, i)..part_of(kv_head, i) + len;
                        // SAFETY: each part belongs to one item, and items are handed out once.
                        let mut part = Part::of(unsafe { parts.part(range) }, n);
                        self.block(tile, kv_head, blocks.start + i, scores, &mut part);
                        if pending[t * kv + kv_head].fetch_sub(1, Ordering::AcqRel) == 1 {
                            let range = part_of(kv_head, 0)..part_of(kv_head, count);
                            // SAFETY: all blocks are done: their threads have let go of these parts, and what they wrote was
                            // acquired with the count. What was begun of a KV head belongs to who merges it.
                            unsafe {
                                let begun = |kv_head| begun.part(kv_head * len..(kv_head + 1) * len);
                                let mut parts = parts.part(range).chunks_exact_mut(len);
                                let memory = match blocks.start {
                                    0 => parts.next().expect("at least one block"),
                                    _ => begun(kv_head),
                                };
                                let mut state = Part::of(memory, n);
                                parts.for_each(|part| state.merge(&Part::of(part, n), d));
                                if blocks.start + count == tile.blocks() {
                                    self.finish(tile, kv_head, &state);
                                } else if blocks.start == 0 {
                                    begun(kv_head).copy_from_slice(memory);
                                }
                            }
                        }
                        todo = next.fetch_add(1, Ordering::Relaxed);
                    }
                    items += count * kv;
                    at += count * kv * len;
                }
            });
        });
    }

    /// This thread's buffers: scores, and two parts.
    fn with_local(&self, run: impl FnOnce(&mut [f32], &mut [f32], &mut [f32])) {
        let n = TILE_ROWS * self.heads.group();
        let (scores, part) = (n * BLOCK, Part::len(n, self.heads.dim));
        LOCAL.with_borrow_mut(|local| {
            if local.len() < scores + 2 * part {
                *local = vec![0.0; scores + 2 * part];
            }
            let (scores, parts) = local.split_at_mut(scores);
            let (first, second) = parts.split_at_mut(part);
            run(scores, first, second);
        });
    }

    /// What one block comes to.
    fn block(&self, tile: &Tile, kv_head: usize, block: usize, scores: &mut [f32], part: &mut Part<'_>) {
        let Heads { q: heads, dim, .. } = self.heads;
        let (group, width, scale) = (self.heads.group(), heads * dim, 1.0 / (dim as f32).sqrt());
        let n = tile.rows * group;
        let piece = self.caches[tile.cache].piece(self.layer, block, kv_head);
        let at = tile.row * width + kv_head * group * dim;
        // Rows at once see all of an earlier block; of the one they lie in, the first sees up to itself.
        let len = (tile.position + 1 - block * BLOCK).min(BLOCK);
        assert!(scores.len() >= n * BLOCK && part.max.len() == n && part.sum.len() == n && part.out.len() == n * dim);
        let (rows, scores) = (tile.rows, scores.as_mut_ptr());
        let (max, sum, out) = (part.max.as_mut_ptr(), part.sum.as_mut_ptr(), part.out.as_mut_ptr());
        let kernels = self.kernels;
        // SAFETY: `piece` is a block of keys and values of this width, laid out for these kernels, and nobody writes it while the
        // caches are borrowed; q has `rows` rows `width` apart, and so have its codes; the rest is asserted. 1 <= len, and a
        // row's positions end in this block.
        unsafe {
            match piece.k {
                Panels::F16(k) => {
                    let q = self.q[at..].as_ptr();
                    (kernels.attention_scores_f16)(q, width, k, rows, group, dim, len, BLOCK, scores);
                }
                Panels::Q8_0(k, k_scales) => {
                    let (q, q_scales) = (self.codes.0[at..].as_ptr(), self.codes.1[at / dim..].as_ptr());
                    (kernels.attention_scores_q8_0)(
                        q, width, q_scales, k, k_scales, rows, group, dim, len, BLOCK, scores,
                    );
                }
            }
            match piece.v {
                Panels::F16(v) => {
                    (kernels.attention_values_f16)(scores, v, rows, group, dim, len, BLOCK, scale, max, sum, out)
                }
                Panels::Q8_0(v, v_scales) => (kernels.attention_values_q8_0)(
                    scores, v, v_scales, rows, group, dim, len, BLOCK, scale, max, sum, out,
                ),
            }
        }
    }

    /// out = the mean that all blocks come to.
    ///
    /// # Safety
    /// Called once for a tile and KV head, by one thread.
    unsafe fn finish(&self, tile: &Tile, kv_head: usize, state: &Part<'_>) {
        let (d, group) = (self.heads.dim, self.heads.group());
        let heads = state.sum.iter().zip(state.out.chunks_exact(d)).enumerate();
        for (i, (sum, mean)) in heads {
            let at = ((tile.row + i / group) * self.heads.q + kv_head * group + i % group) * d;
            // SAFETY: tiles do not share rows, and this is called once for the heads of a KV head.
            let out = unsafe { self.out.part(at..at + d) };
            let inverse = 1.0 / sum;
            out.iter_mut().zip(mean).for_each(|(out, mean)| *out = mean * inverse);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Angles, CacheTypes};
    use super::*;
    use crate::engine::testing;
    use crate::model::Config;

    /// Tiles without room for all of their blocks, on two threads, and with room for one tile after the other, on three.
    #[test]
    fn what_has_no_room_waits_and_comes_to_the_same() {
        const FED: usize = 4000;
        let config = Config {
            layers: 1,
            heads: 8,
            kv_heads: 2,
            head_dim: 64,
            context: FED + 25,
            ..testing::config()
        };
        let (heads, kernels) = (Heads::of(&config), testing::kernels());
        let mut state = 1u32;
        let mut floats = |len: usize| -> Vec<f32> {
            let next = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..len).map(next).collect()
        };
        let (mut k, v) = (
            floats(config.context * heads.kv * heads.dim),
            floats(config.context * heads.kv * heads.dim),
        );
        let (cos, sin) = (
            floats(config.context * heads.dim / 2),
            floats(config.context * heads.dim / 2),
        );
        let mut caches = [KvCache::new(&config, CacheTypes::default(), config.context)];
        let mut tiles = Vec::new();
        Tile::collect((0..config.context).map(|p| (0, p)), &mut tiles);
        let angles = Angles { cos: &cos, sin: &sin };
        kernels.store(&Pool::new(1), heads, angles, (&mut k, &v), &mut caches, 0, &tiles);
        for rows in [FED..FED + 24, FED + 24..FED + 25] {
            Tile::collect(rows.clone().map(|p| (0, p)), &mut tiles);
            let q = floats(rows.len() * heads.q * heads.dim);
            let attend = |threads| {
                let (mut scratch, mut out) = (AttentionScratch::default(), vec![f32::NAN; q.len()]);
                let pool = Pool::new(threads);
                kernels.attention(&pool, heads, &q, &caches, 0, &tiles, &mut scratch, &mut out);
                (out, scratch.parts.len())
            };
            let expected = attend(1).0;
            for threads in [2, 3] {
                let (out, parts) = attend(threads);
                assert!(out == expected, "{rows:?}, {threads} threads");
                assert_eq!(parts, threads * ROOM, "whatever the context");
            }
        }
    }

    fn tile(cache: usize, position: usize, row: usize, rows: usize) -> Tile {
        Tile {
            cache,
            position,
            row,
            rows,
        }
    }

    #[test]
    fn rows_of_a_sequence_make_tiles_that_end_at_whole_positions() {
        let mut tiles = vec![tile(9, 9, 9, 9)];
        let places = (14..35).map(|p| (1, p)).chain([(0, 35), (0, 36), (0, 40)]);
        Tile::collect(places, &mut tiles);
        let expected = [
            tile(1, 14, 0, 2),
            tile(1, 16, 2, 16),
            tile(1, 32, 18, 3),
            tile(0, 35, 21, 2),
            tile(0, 40, 23, 1),
        ];
        assert_eq!(tiles, expected);
    }
}
