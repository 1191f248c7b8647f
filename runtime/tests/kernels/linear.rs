//! Ternary matrix products, over I2_S and re-packed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use proptest::prelude::*;
use sterna::kernels::{QuantRows, Variant, reference, variants};
use sterna::machine::pool::Pool;
use sterna::model::{Bytes, Packed, Ternary};

use super::levels::{affordable, random_cases, values};
use super::{Random, each, owned};

pub fn ternary(packed: Vec<u8>, cols: usize) -> Ternary {
    let rows = packed.len() / (cols / 4);
    Ternary::new(owned(packed), rows, cols, 0.731)
}

/// The reference's sums (tokens, rows). The same work comes once for every variant and number of threads, and is computed once: under
/// emulation the reference is what takes the time.
pub fn reference_sums(w: &Ternary, x: &QuantRows) -> Rc<[i32]> {
    thread_local! {
        static KNOWN: RefCell<HashMap<u64, Rc<[i32]>>> = RefCell::default();
    }
    let mut hasher = DefaultHasher::new();
    (w.rows, w.cols, &*w.packed, &*x.q).hash(&mut hasher);
    let compute = || {
        let mut sums = vec![0; x.scales.len() * w.rows];
        for (q, sums) in x.q.chunks_exact(w.cols).zip(sums.chunks_exact_mut(w.rows)) {
            reference::i2s_gemv(&w.packed, q, sums);
        }
        sums.into()
    };
    KNOWN.with_borrow_mut(|known| known.entry(hasher.finish()).or_insert_with(compute).clone())
}

/// linear() of `variant` and of the reference, compared bit for bit.
fn check_linear(variant: &Variant, pool: &Pool, matrices: &[Ternary], x: &QuantRows) {
    let tokens = x.scales.len();
    let mut outputs: Vec<Vec<f32>> = matrices.iter().map(|w| vec![f32::NAN; tokens * w.rows]).collect();
    let mut jobs: Vec<_> = matrices.iter().zip(outputs.iter_mut().map(Vec::as_mut_slice)).collect();
    variant.linear(pool, x, &mut jobs);
    for (w, y) in matrices.iter().zip(&outputs) {
        let start = |i| i as f32 * 0.75 - 9.0;
        let mut sum: Vec<f32> = (0..y.len()).map(start).collect();
        variant.linear_add(pool, x, w, &mut sum);
        let same = |(i, (sum, y)): (usize, (&f32, &f32))| sum.to_bits() == (start(i) + y).to_bits();
        assert!(sum.iter().zip(y).enumerate().all(same), "{} added", variant.name);
    }
    for (w, y) in matrices.iter().zip(&outputs) {
        let sums = reference_sums(w, x);
        for (at, (&sum, &got)) in sums.iter().zip(y).enumerate() {
            let (t, r) = (at / w.rows, at % w.rows);
            let expected = reference::rescale(sum, x.scales[t], w.scale);
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

pub fn quantized(q: Vec<i8>, cols: usize) -> QuantRows {
    let sums = q
        .chunks_exact(cols)
        .map(|row| row.iter().map(|&v| i32::from(v)).sum())
        .collect();
    let scales = (0..q.len() / cols).map(|t| 3.0 + t as f32).collect();
    let mut rows = QuantRows {
        scales,
        sums,
        ..QuantRows::default()
    };
    rows.q.resize(q.len());
    rows.q.copy_from_slice(&q);
    rows
}

#[test]
fn ternary_products_equal_the_reference_over_edge_shapes() {
    each(|variant, pool| {
        let mut random = Random(158);
        for cols in [128, 256, 384, 1280, 1408, 2560, 6912] {
            for rows in [1, 2, 3, 4, 5, 9, 67] {
                for tokens in [1, 2, 3, 4, 5, 6, 7, 8, 13, 25, 50] {
                    if rows * cols * tokens > 2_000_000 || !affordable(rows * cols * tokens, 33_000) {
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

/// Each thread's share of the weights is a megabyte or half of one: several pieces, the last of them lower.
#[test]
fn one_token_in_pieces_equals_the_reference() {
    each(|variant, pool| {
        let mut random = Random(3);
        let (rows, cols) = (2013, 2560);
        if !affordable(rows * cols, 33_000) {
            return;
        }
        let x = quantized(random.bytes(cols).into_iter().map(|b| b as i8).collect(), cols);
        check_linear(variant, pool, &[random_ternary(&mut random, rows, cols)], &x);
        let tile = variant.packing().map_or(1, |packing| packing.rows);
        let w = random_ternary(&mut random, rows / tile * tile, cols);
        if let Some(w) = repacked(variant, &w) {
            check_linear(variant, pool, &[w], &x);
        }
    });
}

/// A valid matrix: every code is 0, 1 or 2.
pub fn random_ternary(random: &mut Random, rows: usize, cols: usize) -> Ternary {
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
    w.set_repacked(packed);
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
                    if rows * cols * tokens > 2_000_000 || !affordable(rows * cols * tokens, 33_000) {
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
            for value in values([i8::MIN, -127, -1, 0, 1, i8::MAX]) {
                for tokens in [1, 2, 7] {
                    if !affordable(32 * cols * tokens, 530_000) {
                        continue;
                    }
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

/// Kernels that build tables for a call take them only for many rows, valid codes and several tokens without -128.
#[test]
fn tall_matrices_and_a_single_number_that_tables_do_not_take() {
    each(|variant, pool| {
        let mut random = Random(81);
        for (rows, cols, tokens) in [
            (223, 128, 32),
            (224, 384, 24),
            (224, 384, 25),
            (224, 256, 64),
            (301, 256, 33),
            (2080, 128, 91),
            (1312, 256, 130),
        ] {
            if !affordable(rows * cols * tokens, 4_000_000) {
                continue;
            }
            let check = |w: &Ternary, x: &QuantRows| {
                check_linear(variant, pool, std::slice::from_ref(w), x);
                if rows.is_multiple_of(32)
                    && let Some(w) = repacked(variant, w)
                {
                    check_linear(variant, pool, &[w], x);
                }
            };
            let w = random_ternary(&mut random, rows, cols);
            let q: Vec<i8> = random
                .bytes(tokens * cols)
                .into_iter()
                .map(|b| (b as i8).max(-127))
                .collect();
            let x = quantized(q.clone(), cols);
            check(&w, &x);
            let least = ternary(vec![0; rows * cols / 4], cols);
            for value in [i8::MIN, -127] {
                let lowest = quantized(vec![value; tokens * cols], cols);
                check(&least, &lowest);
                check(&w, &lowest);
            }
            let mut lower = q;
            *lower.last_mut().expect("an activation") = i8::MIN;
            check(&w, &quantized(lower, cols));
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
            for value in values([i8::MIN, -127, -1, 0, 1, i8::MAX]) {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(random_cases(64)))]

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
