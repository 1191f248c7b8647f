//! Attention over a key/value cache.

use half::f16;
use sterna::kernels::reference::{BLOCK, Cached};
use sterna::kernels::{Angles, AttentionScratch, CacheType, CacheTypes, Heads, KvCache, Tile, Variant, reference};
use sterna::machine::pool::Pool;
use sterna::model::{Architecture, Config};

use super::levels::affordable;
use super::{Random, each};

/// Two sequences side by side, and what the reference makes of them.
struct Attention {
    config: Config,
    types: CacheTypes,
    len: usize,
    /// Before rotation, of both sequences: (len, heads, dim) each.
    q: [Vec<f32>; 2],
    k: [Vec<f32>; 2],
    v: [Vec<f32>; 2],
    /// (len, dim / 2)
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// (len, heads.q, dim)
    expected: [Vec<f32>; 2],
}

impl Attention {
    fn new(types: CacheTypes, dim: usize, heads: usize, kv_heads: usize, len: usize) -> Self {
        let mut random = Random(5);
        let mut floats = |width: usize| [0, 1].map(|_| random.floats(len * width));
        let (q, k, v) = (floats(heads * dim), floats(kv_heads * dim), floats(kv_heads * dim));
        let [cos, sin] = floats(dim / 2);
        let config = Config {
            architecture: Architecture::BitnetB158,
            architecture_name: String::new(),
            name: String::new(),
            layers: 2,
            hidden: heads * dim,
            ffn: 128,
            heads,
            kv_heads,
            head_dim: dim,
            vocab: 1,
            context: len,
            rms_eps: 1e-5,
            rope_base: 10000.0,
        };
        let mut case = Attention {
            expected: [0, 1].map(|_| vec![0.0; len * heads * dim]),
            config,
            types,
            len,
            q,
            k,
            v,
            cos,
            sin,
        };
        let expected = [0, 1].map(|s| case.by_the_reference(s));
        case.expected = expected;
        case
    }

    fn by_the_reference(&self, sequence: usize) -> Vec<f32> {
        let (d, half, kv_heads) = (self.config.head_dim, self.config.head_dim / 2, self.config.kv_heads);
        let group = self.config.heads / kv_heads;
        let rotated = |x: &[f32], heads: usize| {
            let mut x = x.to_vec();
            for (i, head) in x.chunks_exact_mut(d).enumerate() {
                let at = i / heads * half;
                reference::rope(head, &self.cos[at..][..half], &self.sin[at..][..half]);
            }
            x
        };
        let (q, k) = (
            rotated(&self.q[sequence], kv_heads * group),
            rotated(&self.k[sequence], kv_heads),
        );
        let head = |x: &[f32], h: usize| -> Vec<f32> {
            let rows = x.chunks_exact(kv_heads * d);
            rows.flat_map(|row| row[h * d..][..d].to_vec()).collect()
        };
        let cached = |kind, x: Vec<f32>| match kind {
            CacheType::F16 => Cached::F16(x.iter().map(|&x| f16::from_f32(x).to_f32()).collect()),
            CacheType::Q8_0 => {
                let mut codes = vec![0; x.len()];
                let rows = x.chunks_exact(d).zip(codes.chunks_exact_mut(d));
                let scales = rows.map(|(x, codes)| reference::quantize_cached(x, codes)).collect();
                Cached::Q8_0(codes, scales)
            }
        };
        let CacheTypes { k: k_type, v: v_type } = self.types;
        let heads = (0..kv_heads).map(|h| (cached(k_type, head(&k, h)), cached(v_type, head(&self.v[sequence], h))));
        let heads: Vec<_> = heads.collect();
        let mut out = vec![0.0; q.len()];
        for (i, (out, q)) in out.chunks_exact_mut(d).zip(q.chunks_exact(d)).enumerate() {
            let (row, h) = (i / (kv_heads * group), i % (kv_heads * group));
            let (k, v) = &heads[h / group];
            reference::attention(q, k, v, row + 1, 1.0 / (d as f32).sqrt(), out);
        }
        out
    }

    /// Feeds both sequences, `chunk` rows of each a pass, and compares every row.
    fn check(&self, variant: &Variant, pool: &Pool, chunk: usize) {
        let (heads, half, layer) = (Heads::of(&self.config), self.config.head_dim / 2, 1);
        // Capacity that ends inside of a block.
        let mut caches = [0, 1].map(|_| KvCache::new(&self.config, self.types, self.len));
        let (mut tiles, mut scratch) = (Vec::new(), AttentionScratch::default());
        for first in (0..self.len).step_by(chunk) {
            let rows = first..self.len.min(first + chunk);
            // The second sequence lies in the first cache.
            let part = |x: &[Vec<f32>; 2]| -> Vec<f32> {
                let width = x[0].len() / self.len;
                let of = |s: usize| &x[s][rows.start * width..rows.end * width];
                [of(1), of(0)].concat()
            };
            let angles = |x: &[f32]| x[rows.start * half..rows.end * half].repeat(2);
            let (cos, sin) = (angles(&self.cos), angles(&self.sin));
            let angles = Angles { cos: &cos, sin: &sin };
            let (mut q, mut k, v) = (part(&self.q), part(&self.k), part(&self.v));
            Tile::collect(
                [0, 1].iter().flat_map(|&c| rows.clone().map(move |p| (c, p))),
                &mut tiles,
            );
            let mut out = vec![f32::NAN; q.len()];
            variant.store(pool, heads, angles, (&mut k, &v), &mut caches, layer, &tiles);
            variant.rotate(pool, heads, angles, &mut q);
            variant.attention(pool, heads, &q, &caches, layer, &tiles, &mut scratch, &mut out);
            let same = out
                .iter()
                .zip(part(&self.expected))
                .all(|(a, b)| a.to_bits() == b.to_bits());
            let (name, threads, types) = (variant.name, pool.threads(), self.types);
            assert!(
                same,
                "{name}, {types:?}, {threads} threads, {heads:?}, rows {rows:?} in chunks of {chunk}"
            );
        }
    }
}

#[test]
fn attention_equals_the_reference() {
    // Widths that are no whole panels, groups that are no whole tiles of heads, lengths around blocks and panels. An
    // emulated CPU takes the costly ones without their whole blocks.
    let cases = [
        (16, 5, 1, 132),
        (32, 5, 1, 140),
        (64, 3, 3, 33),
        (80, 14, 2, 130),
        (100, 2, 2, 17),
        (128, 2, 1, 260),
        (128, 4, 1, 300),
    ];
    let kinds = [CacheType::F16, CacheType::Q8_0];
    let types = kinds.into_iter().flat_map(|k| kinds.map(|v| CacheTypes { k, v }));
    let cases = types.flat_map(|types| cases.map(|case| (types, case)));
    let cases: Vec<_> = cases
        .map(|(types, (dim, heads, kv_heads, len))| {
            let whole = affordable(dim * heads * len * len, 2_400_000);
            let len = if whole { len } else { len % BLOCK };
            Attention::new(types, dim, heads, kv_heads, len)
        })
        .collect();
    each(|variant, pool| {
        for case in &cases {
            for chunk in [1, 7, 40, 300] {
                if !affordable(case.len * case.len / chunk, 1500) {
                    continue;
                }
                case.check(variant, pool, chunk);
            }
        }
    });
}
