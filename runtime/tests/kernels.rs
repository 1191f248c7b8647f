//! Every compiled kernel against the scalar reference, with `==`: edge shapes, extremes, random cases.
//!
//! Iterates the variants of this build. One that this CPU cannot run is a printed SKIP, never silently dropped; the
//! other architecture's levels run under emulation in CI.

use std::sync::atomic::AtomicBool;

use half::f16;
use proptest::prelude::*;
use sterna::kernels::{
    Angles, AttentionScratch, Heads, KvCache, QuantRows, Tile, Variant, reference, round_for_head, variants,
};
use sterna::machine::cpu::Machine;
use sterna::machine::pool::Pool;
use sterna::model::{Architecture, Bytes, CoarseHead, CoarseToken, Config, Dense, DenseType, Packed, Ternary};

/// The variants that this CPU runs, and a fixed set of pools.
fn each(test: impl Fn(&'static Variant, &Pool)) {
    let features = Machine::detect().features;
    for variant in variants() {
        if !variant.runs_on(&features) {
            println!("SKIP {}: this CPU lacks one of {:?}", variant.name, variant.features);
            continue;
        }
        for threads in [1, 2, 3] {
            test(variant, &Pool::new(threads));
        }
    }
}

/// A small deterministic generator: the tests' data must not change from run to run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Roughly normal, with an outlier now and then.
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| {
                let sum: f32 = (0..4).map(|_| self.next() as f32 / (1u64 << 31) as f32 - 0.5).sum();
                if self.next().is_multiple_of(97) {
                    sum * 40.0
                } else {
                    sum
                }
            })
            .collect()
    }

    fn halves(&mut self, n: usize) -> Vec<u16> {
        self.floats(n).into_iter().map(|x| f16::from_f32(x).to_bits()).collect()
    }
}

fn owned(bytes: Vec<u8>) -> Bytes {
    let len = bytes.len();
    Bytes::new(std::sync::Arc::new(bytes), 0..len).expect("its own range")
}

fn ternary(packed: Vec<u8>, cols: usize) -> Ternary {
    let rows = packed.len() / (cols / 4);
    Ternary::new(owned(packed), rows, cols, 0.731)
}

/// linear() of `variant` and of the reference, compared bit for bit.
fn check_linear(variant: &Variant, pool: &Pool, matrices: &[Ternary], x: &QuantRows) {
    let tokens = x.scales.len();
    let mut outputs: Vec<Vec<f32>> = matrices.iter().map(|w| vec![f32::NAN; tokens * w.rows]).collect();
    let mut jobs: Vec<_> = matrices.iter().zip(outputs.iter_mut().map(Vec::as_mut_slice)).collect();
    variant.linear(pool, x, &mut jobs);
    for (w, y) in matrices.iter().zip(&outputs) {
        let mut acc = vec![0; w.rows];
        for t in 0..tokens {
            reference::i2s_gemv(&w.packed, &x.q[t * w.cols..][..w.cols], &mut acc);
            for (r, &acc) in acc.iter().enumerate() {
                let expected = reference::rescale(acc, x.scales[t], w.scale);
                let got = y[t * w.rows + r];
                assert!(
                    got.to_bits() == expected.to_bits(),
                    "{} {}x{} token {t} of {tokens} row {r}: {got} instead of {expected}",
                    variant.name,
                    w.rows,
                    w.cols
                );
            }
        }
    }
}

fn quantized(q: Vec<i8>, cols: usize) -> QuantRows {
    let sums = q
        .chunks_exact(cols)
        .map(|row| row.iter().map(|&v| i32::from(v)).sum())
        .collect();
    let scales = (0..q.len() / cols).map(|t| 3.0 + t as f32).collect();
    QuantRows { q, scales, sums }
}

#[test]
fn ternary_products_equal_the_reference_over_edge_shapes() {
    each(|variant, pool| {
        let mut random = Random(158);
        for cols in [128, 256, 384, 1280, 1408, 2560, 6912] {
            for rows in [1, 2, 3, 4, 5, 9, 67] {
                for tokens in [1, 2, 3, 4, 5, 6, 7, 8, 13, 25, 50] {
                    if rows * cols * tokens > 2_000_000 {
                        continue;
                    }
                    // Every byte value, so code 3 as well, which no valid file holds.
                    let w = ternary(random.bytes(rows * cols / 4), cols);
                    let x = quantized(random.bytes(tokens * cols).into_iter().map(|b| b as i8).collect(), cols);
                    check_linear(variant, pool, &[w], &x);
                }
            }
        }
    });
}

/// A valid matrix: every code is 0, 1 or 2.
fn random_ternary(random: &mut Random, rows: usize, cols: usize) -> Ternary {
    let mut byte = || (0..4).fold(0, |byte, _| byte << 2 | (random.next() % 3) as u8);
    ternary((0..rows * cols / 4).map(|_| byte()).collect(), cols)
}

/// Re-packs W as `variant` wants it; `None` where it wants it as it is.
fn repacked(variant: &Variant, w: &Ternary) -> Option<Ternary> {
    let packing = variant.packing()?;
    let mut data = vec![0xee; packing.bytes(w)?];
    packing.pack(w, &mut data).expect("ternary");
    let packed = Packed {
        data: owned(data),
        packing,
    };
    let w = w.clone();
    assert!(w.repacked.set(packed).is_ok());
    Some(w)
}

#[test]
fn repacked_products_equal_the_reference_over_edge_shapes() {
    each(|variant, pool| {
        let mut random = Random(16);
        for cols in [128, 256, 384, 640, 1280, 1408, 6912] {
            for tiles in [1, 2, 5] {
                for tokens in (1..=18).chain([25, 33, 50]) {
                    let rows = tiles * variant.packing().map_or(1, |packing| packing.rows);
                    if rows * cols * tokens > 2_000_000 {
                        continue;
                    }
                    let w = random_ternary(&mut random, rows, cols);
                    let Some(w) = repacked(variant, &w) else { return };
                    let x = quantized(random.bytes(tokens * cols).into_iter().map(|b| b as i8).collect(), cols);
                    check_linear(variant, pool, &[w], &x);
                }
            }
        }
    });
}

#[test]
fn repacked_extremes_do_not_overflow() {
    each(|variant, pool| {
        let cols = 8192;
        for code in [0x00u8, 0x55, 0xaa, 0x22, 0x88] {
            for value in [i8::MIN, -127, -1, 0, 1, i8::MAX] {
                for tokens in [1, 2, 7] {
                    let Some(w) = repacked(variant, &ternary(vec![code; 32 * cols / 4], cols)) else {
                        return;
                    };
                    let x = quantized(vec![value; tokens * cols], cols);
                    check_linear(variant, pool, &[w], &x);
                }
            }
        }
    });
}

#[test]
fn what_does_not_fit_a_layout_is_left_or_refused() {
    for packing in variants().iter().filter_map(Variant::packing) {
        let (whole, cols) = (packing.rows, 256);
        assert_eq!(
            packing.bytes(&ternary(vec![0; (whole + 1) * cols / 4], cols)),
            None,
            "no whole tile"
        );
        let mut bytes = vec![0x55; whole * cols / 4];
        bytes[17] = 0x5d; // 01 01 11 01
        let w = ternary(bytes, cols);
        let mut out = vec![0; packing.bytes(&w).expect("whole tiles")];
        assert!(packing.pack(&w, &mut out).is_err(), "code 3");
    }
}

/// Kernels that build tables for a call take them only for many rows, valid codes and several tokens.
#[test]
fn tall_matrices_and_a_single_invalid_code() {
    each(|variant, pool| {
        let mut random = Random(81);
        for (rows, cols, tokens) in [(223, 128, 16), (224, 384, 14), (301, 256, 33), (2080, 128, 29)] {
            let w = random_ternary(&mut random, rows, cols);
            let x = quantized(random.bytes(tokens * cols).into_iter().map(|b| b as i8).collect(), cols);
            let lowest = quantized(vec![i8::MIN; tokens * cols], cols);
            let least = ternary(vec![0; rows * cols / 4], cols);
            check_linear(variant, pool, std::slice::from_ref(&w), &x);
            check_linear(variant, pool, std::slice::from_ref(&least), &lowest);
            if rows.is_multiple_of(32) {
                let both = [repacked(variant, &w), repacked(variant, &least)].into_iter().flatten();
                both.for_each(|w| check_linear(variant, pool, &[w], &lowest));
                repacked(variant, &w)
                    .into_iter()
                    .for_each(|w| check_linear(variant, pool, &[w], &x));
            }
            let mut codes = w.packed.to_vec();
            *codes.last_mut().expect("a code") |= 3;
            check_linear(variant, pool, &[ternary(codes, cols)], &x);
        }
    });
}

#[test]
fn extremes_do_not_overflow() {
    each(|variant, pool| {
        let cols = 8192; // longer than any 16-bit accumulator could take without widening
        // all -1, all 0, all +1, all the invalid code 3, alternating
        for code in [0x00u8, 0x55, 0xaa, 0xff, 0x22, 0x88] {
            for value in [i8::MIN, -127, -1, 0, 1, i8::MAX] {
                for tokens in [1, 7] {
                    let w = ternary(vec![code; 5 * cols / 4], cols);
                    let x = quantized(vec![value; tokens * cols], cols);
                    check_linear(variant, pool, &[w], &x);
                }
            }
        }
    });
}

#[test]
fn several_matrices_share_one_input_and_unaligned_data() {
    each(|variant, pool| {
        let mut random = Random(7);
        let cols = 640;
        let matrices: Vec<_> = [24, 6, 6]
            .map(|rows| {
                let offset = 1 + rows % 3; // a tensor need not start on a vector's boundary
                let bytes = random.bytes(offset + rows * cols / 4);
                let len = bytes.len();
                let packed = Bytes::new(std::sync::Arc::new(bytes), offset..len).expect("in range");
                Ternary::new(packed, rows, cols, 1.5)
            })
            .into();
        for tokens in [1, 9, 100] {
            let x = quantized(random.bytes(tokens * cols).into_iter().map(|b| b as i8).collect(), cols);
            check_linear(variant, pool, &matrices, &x);
        }
    });
}

#[test]
#[should_panic(expected = "left == right")]
fn a_row_that_is_not_whole_blocks_is_refused() {
    let w = Ternary::new(owned(vec![0; 32]), 1, 129, 1.0);
    let x = quantized(vec![0; 129], 129);
    variants()[variants().len() - 1].linear(&Pool::new(1), &x, &mut [(&w, &mut [0.0])]);
}

#[test]
fn quantisation_equals_the_reference() {
    each(|variant, pool| {
        let mut random = Random(3);
        let check = |x: &[f32], cols: usize| {
            let mut out = QuantRows::default();
            variant.quantize(pool, x, cols, &mut out);
            for (t, x) in x.chunks_exact(cols).enumerate() {
                let mut q = vec![0; cols];
                let (scale, sum) = reference::quantize(x, &mut q);
                assert_eq!(out.q[t * cols..][..cols], q, "{}", variant.name);
                assert_eq!(
                    (out.scales[t].to_bits(), out.sums[t]),
                    (scale.to_bits(), sum),
                    "{}",
                    variant.name
                );
            }
        };
        for cols in [1, 15, 16, 17, 128, 2560, 6912] {
            check(&random.floats(3 * cols), cols);
        }
        check(&vec![0.0; 128], 128);
        check(&vec![f32::MIN_POSITIVE / 8.0; 128], 128);
        check(&vec![f32::MAX; 128], 128);
        // Ties: with max = 127 the scale is 1, and halves round to even.
        let ties: Vec<f32> = (0..255).map(|i| i as f32 * 0.5 - 63.5).chain([127.0]).collect();
        check(&ties, 256);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = random.floats(256);
            x[200] = bad;
            let mut out = QuantRows::default();
            variant.quantize(pool, &x, 128, &mut out);
            assert!(
                out.scales[0].is_finite() && out.scales[1].is_nan() && out.sums[1] == 0,
                "{}",
                variant.name
            );
        }
    });
}

#[test]
fn row_kernels_equal_the_reference() {
    each(|variant, pool| {
        let mut random = Random(11);
        for n in [1, 8, 16, 31, 64, 100, 2560, 6912] {
            let (x, y) = (random.floats(3 * n), random.floats(3 * n));
            let bits = |v: &[f32]| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
            let mut got = vec![0.0; 3 * n];
            let mut expected = got.clone();

            variant.rmsnorm(pool, &x, &y[..n], 1e-5, &mut got);
            for (x, e) in x.chunks_exact(n).zip(expected.chunks_exact_mut(n)) {
                reference::rmsnorm(x, &y[..n], 1e-5, e);
            }
            assert_eq!(bits(&got), bits(&expected), "rmsnorm {n} {}", variant.name);

            variant.relu2_mul(pool, &x, &y, &mut got);
            reference::relu2_mul(&x, &y, &mut expected);
            assert_eq!(bits(&got), bits(&expected), "relu2_mul {n} {}", variant.name);

            let mut sum = x.clone();
            variant.add(&mut sum, &y);
            let expected: Vec<f32> = x.iter().zip(&y).map(|(a, b)| a + b).collect();
            assert_eq!(bits(&sum), bits(&expected), "add {n} {}", variant.name);
        }
    });
}

#[test]
fn f16_rounding_is_exact_everywhere() {
    each(|variant, _| {
        // Every f16 value, the midpoints between neighbours and the floats beside those; then the ends of the range.
        let mut x = Vec::new();
        for h in 0..0x7c00u16 {
            let (a, b) = (f16::from_bits(h).to_f32(), f16::from_bits(h + 1).to_f32());
            let mid = if b.is_finite() { (a + b) / 2.0 } else { 65520.0 };
            for v in [
                a,
                mid,
                f32::from_bits(mid.to_bits() - 1),
                f32::from_bits(mid.to_bits() + 1),
            ] {
                x.extend([v, -v]);
            }
        }
        x.extend([
            0.0,
            -0.0,
            65504.0,
            65535.9,
            65536.0,
            1e10,
            f32::MAX,
            f32::INFINITY,
            f32::NEG_INFINITY,
            1e-30,
            5e-40,
        ]);
        let mut got = vec![0; x.len()];
        variant.to_f16(&x, &mut got);
        for (x, got) in x.iter().zip(got) {
            assert_eq!(got, f16::from_f32(*x).to_bits(), "{x:e} {}", variant.name);
        }
    });
}

/// Two sequences side by side, and what the reference makes of them.
struct Attention {
    config: Config,
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
    fn new(dim: usize, heads: usize, kv_heads: usize, len: usize) -> Self {
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
        let v: Vec<f32> = self.v[sequence].iter().map(|&x| f16::from_f32(x).to_f32()).collect();
        let head = |x: &[f32], h: usize| -> Vec<f32> {
            let rows = x.chunks_exact(kv_heads * d);
            rows.flat_map(|row| row[h * d..][..d].to_vec()).collect()
        };
        let heads: Vec<_> = (0..kv_heads).map(|h| (head(&k, h), head(&v, h))).collect();
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
        let mut caches = [0, 1].map(|_| KvCache::new(&self.config, self.len));
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
            variant.rotate_and_store(pool, heads, angles, (&mut q, &mut k, &v), &mut caches, layer, &tiles);
            variant.attention(pool, heads, &q, &caches, layer, &tiles, &mut scratch, &mut out);
            let same = out
                .iter()
                .zip(part(&self.expected))
                .all(|(a, b)| a.to_bits() == b.to_bits());
            let (name, threads) = (variant.name, pool.threads());
            assert!(
                same,
                "{name}, {threads} threads, {heads:?}, rows {rows:?} in chunks of {chunk}"
            );
        }
    }
}

#[test]
fn attention_equals_the_reference() {
    // Widths that are no whole panels, groups that are no whole tiles of heads, lengths around blocks and panels.
    let cases = [
        (16, 4, 2, 20),
        (32, 5, 1, 140),
        (64, 3, 3, 33),
        (80, 14, 2, 130),
        (100, 2, 2, 17),
        (128, 4, 1, 300),
    ];
    let cases = cases.map(|(dim, heads, kv_heads, len)| Attention::new(dim, heads, kv_heads, len));
    each(|variant, pool| {
        for case in &cases {
            for chunk in [1, 7, 40, 300] {
                case.check(variant, pool, chunk);
            }
        }
    });
}

#[test]
fn heads_equal_the_reference() {
    let mut random = Random(23);
    let mut block = |kind: DenseType, n: usize| match kind {
        DenseType::F32 => random.floats(n).iter().flat_map(|x| x.to_le_bytes()).collect(),
        DenseType::F16 => random.halves(n).iter().flat_map(|x| x.to_le_bytes()).collect(),
        // Scales must be finite: an exponent of all ones is not.
        DenseType::Q8_0 | DenseType::Q6K => {
            let mut bytes = random.bytes(kind.row_bytes(n));
            let (size, at) = if kind == DenseType::Q8_0 { (34, 1) } else { (210, 209) };
            bytes.iter_mut().skip(at).step_by(size).for_each(|b| *b &= 0xbb);
            bytes
        }
    };
    for kind in [DenseType::F32, DenseType::F16, DenseType::Q8_0, DenseType::Q6K] {
        for cols in [256, 512, 2560] {
            for (rows, tokens) in [(1, 1), (7, 1), (10, 3)] {
                let w = Dense {
                    data: owned(block(kind, rows * cols)),
                    kind,
                    rows,
                    cols,
                };
                let x = Random(9).floats(tokens * cols);
                each(|variant, pool| check_head(variant, pool, &w, &x));
            }
        }
    }
}

fn check_head(variant: &Variant, pool: &Pool, w: &Dense, x: &[f32]) {
    let tokens = x.len() / w.cols;
    let mut got = vec![f32::NAN; tokens * w.rows];
    let mut x = x.to_vec();
    round_for_head(w, &mut x);
    variant.head(pool, w, &x, &mut got);
    let mut row = vec![0.0; w.cols];
    for r in 0..w.rows {
        variant.embed(w, r, &mut row);
        for t in 0..tokens {
            let expected = reference::dot(row.iter().copied(), &x[t * w.cols..][..w.cols]);
            let got = got[t * w.rows + r];
            assert!(
                got.to_bits() == expected.to_bits(),
                "{} {:?} row {r}: {got} {expected}",
                variant.name,
                w.kind
            );
        }
    }
}

#[test]
fn probes_read_every_word_and_make_every_product() {
    each(|variant, pool| {
        let mut random = Random(64);
        for lines in [0, 1, 2, 3, 5, 64, 1001] {
            let bytes = random.bytes(64 * lines + 63);
            let words = bytes[..64 * lines].as_chunks::<4>().0.iter();
            let expected = words.fold(0u32, |sum, word| sum.wrapping_add(u32::from_le_bytes(*word)));
            for ahead in [0, 64, 8192] {
                assert_eq!(
                    variant.probe_read(pool, &bytes, ahead),
                    expected,
                    "{} {lines}",
                    variant.name
                );
            }
        }
        let one = variant.probe_dot(1);
        assert!([8, 16, 32, 64].contains(&(one / 12)), "{}: {one}", variant.name);
        // Across the points where 16-bit lanes are emptied and where a call ends.
        for rounds in [0, 2, 8191, 8192, 8193, 65537] {
            assert_eq!(
                variant.probe_dot(rounds),
                one * rounds as u64,
                "{} {rounds}",
                variant.name
            );
        }
        assert!(variant.dot_peak(pool, 1e-4) > 0.0);
    });
}

/// Intervals of the coarse head: equal to those of the reference's sums, and around what the head itself computes.
#[test]
fn coarse_logits_equal_the_reference_and_hold_the_exact_ones() {
    let mut random = Random(31);
    for cols in [64, 128, 192, 640, 2560, 8192] {
        for (rows, tokens) in [(1, 1), (3, 1), (4, 2), (7, 3), (66, 4), (131, 5), (9, 8), (70, 19)] {
            if rows * cols * tokens > 2_000_000 {
                continue;
            }
            for case in 0..5 {
                // As models have them; outliers; all codes and integers at their limits; subnormal; all of the range of f16.
                let weight = |i: usize, w: f32| match case {
                    0 => w,
                    1 if i.is_multiple_of(101) => w * 500.0,
                    2 => w.signum() * 65504.0,
                    3 => w * 1e-6,
                    4 => w * 2f32.powi((i / cols) as i32 % 26 - 18),
                    _ => w,
                };
                let bits = random.floats(rows * cols).into_iter().enumerate();
                let w = Dense {
                    data: owned(
                        bits.flat_map(|(i, w)| f16::from_f32(weight(i, w)).to_le_bytes())
                            .collect(),
                    ),
                    kind: DenseType::F16,
                    rows,
                    cols,
                };
                let mut x = random.floats(tokens * cols);
                if case == 2 {
                    x.iter_mut().for_each(|x| *x = x.signum());
                }
                let head = CoarseHead::build(&w, &AtomicBool::new(false)).unwrap();
                each(|variant, pool| check_coarse(variant, pool, &head, &w, &x));
            }
        }
    }
}

fn check_coarse(variant: &Variant, pool: &Pool, head: &CoarseHead, w: &Dense, x: &[f32]) {
    let (rows, cols, tokens) = (w.rows, w.cols, x.len() / w.cols);
    let mut q = vec![0; x.len()];
    let mut x = x.to_vec();
    round_for_head(w, &mut x);
    let inputs = x.chunks_exact(cols).zip(q.chunks_exact_mut(cols));
    let coarse: Vec<_> = inputs.map(|(x, q)| CoarseToken::new(x, q)).collect();
    let (mut lower, mut upper) = (vec![f32::NAN; tokens * rows], vec![f32::NAN; tokens * rows]);
    variant.head_coarse(pool, head, &coarse, &q, &mut lower, &mut upper);
    let mut y = vec![f32::NAN; tokens * rows];
    variant.head(pool, w, &x, &mut y);

    let codes: Vec<i8> = head.codes().iter().map(|&code| code as i8).collect();
    let mut sums = vec![0; rows];
    let (mut expected_lower, mut expected_upper) = (vec![0.0; rows], vec![0.0; rows]);
    let ids: Vec<u32> = (0..rows as u32).rev().collect();
    let mut single = vec![f32::NAN; rows];
    for (t, token) in coarse.iter().enumerate() {
        let of_token = |all: &[f32]| all[t * rows..][..rows].to_vec();
        reference::head_coarse(&codes, &q[t * cols..][..cols], &mut sums);
        head.bounds(0, &sums, token, &mut expected_lower, &mut expected_upper);
        assert_eq!(of_token(&lower), expected_lower, "{} {rows}x{cols}", variant.name);
        assert_eq!(of_token(&upper), expected_upper, "{} {rows}x{cols}", variant.name);
        for (r, y) in of_token(&y).iter().enumerate() {
            let (lower, upper) = (expected_lower[r], expected_upper[r]);
            assert!(
                lower <= *y && *y <= upper,
                "{} {rows}x{cols} token {t} row {r}: {y} is outside {lower}..={upper}",
                variant.name
            );
        }
        variant.head_rows(pool, w, &x[t * cols..][..cols], &ids, &mut single);
        let same = single
            .iter()
            .rev()
            .zip(of_token(&y))
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "single rows of {}", variant.name);
    }
}

#[test]
fn the_exponential_is_close_to_the_real_one() {
    for i in 0..=870_000 {
        let x = i as f32 * -1e-4;
        let (got, real) = (f64::from(reference::exp(x)), f64::from(x).exp());
        assert!((got - real).abs() <= real * 2e-7, "{x}: {got} {real}");
    }
    assert_eq!(reference::exp(0.0), 1.0);
    assert_eq!(reference::exp(-87.5), 0.0);
    assert_eq!(reference::exp(f32::NEG_INFINITY), 0.0);
    assert!(reference::exp(f32::NAN).is_nan());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ternary_products_equal_the_reference(rows in 1usize..40, blocks in 1usize..40, tokens in 1usize..40, seed: u64) {
        each(|variant, pool| {
            let mut random = Random(seed);
            let w = ternary(random.bytes(rows * blocks * 32), blocks * 128);
            let x = quantized(random.bytes(tokens * blocks * 128).into_iter().map(|b| b as i8).collect(), blocks * 128);
            check_linear(variant, pool, &[w], &x);
        });
    }
}
