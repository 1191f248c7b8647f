//! Products that skip columns whose input is zero.

use proptest::prelude::*;
use sterna::kernels::{Live, QuantRows, Variant, reference, variants};
use sterna::machine::cpu::Machine;
use sterna::machine::pool::Pool;
use sterna::model::{Packed, Ternary};

use super::levels::{affordable, random_cases, testable, values};
use super::linear::{quantized, random_ternary, reference_sums, ternary};
use super::{Random, each, owned};

/// W by columns, as `variant` wants it; `None` where it skips nothing.
fn by_columns(variant: &Variant, w: &Ternary) -> Option<Ternary> {
    let packing = variant.column_packing()?;
    let mut data = vec![0xee; packing.bytes(w).expect("not too long")];
    packing.pack(w, &mut data).expect("ternary");
    let w = w.clone();
    let data = owned(data);
    w.set_repacked(Packed { data, packing });
    Some(w)
}

fn check(variant: &Variant, pool: &Pool, w: &Ternary, x: &QuantRows) {
    let Some(w) = by_columns(variant, w) else { return };
    let tokens = x.scales.len();
    let mut y: Vec<f32> = (0..tokens * w.rows).map(|i| i as f32 - 77.5).collect();
    let before = y.clone();
    variant.linear_sparse_add(pool, x, &w, &mut Live::default(), &mut y);
    let sums = reference_sums(&w, x);
    for (at, ((&sum, before), y)) in sums.iter().zip(before).zip(y).enumerate() {
        let (t, r) = (at / w.rows, at % w.rows);
        let expected = before + reference::rescale(sum, x.scales[t], w.scale);
        assert!(
            y.to_bits() == expected.to_bits(),
            "{} {}x{} token {t} of {tokens} row {r}: {y} instead of {expected}",
            variant.name,
            w.rows,
            w.cols
        );
    }
}

/// `n` activations, of which about `zeros` in 100 are zero.
fn activations(random: &mut Random, n: usize, zeros: u64) -> Vec<i8> {
    (0..n)
        .map(|_| {
            if random.next() % 100 < zeros {
                0
            } else {
                random.next() as i8
            }
        })
        .collect()
}

#[test]
fn skipping_equals_the_reference_over_edge_shapes() {
    each(|variant, pool| {
        let mut random = Random(85);
        for cols in [128, 256, 1408, 6912] {
            for rows in [1, 63, 64, 256, 257, 320, 321, 700, 2560, 2881] {
                for zeros in [0, 50, 85, 99, 100] {
                    let tokens = 1 + zeros as usize % 3;
                    if rows * cols * tokens > 2_000_000 || !affordable(rows * cols * tokens, 33_000) {
                        continue;
                    }
                    let w = random_ternary(&mut random, rows, cols);
                    let q = activations(&mut random, tokens * cols, zeros);
                    check(variant, pool, &w, &quantized(q, cols));
                }
            }
        }
    });
}

#[test]
fn every_place_of_a_single_live_column() {
    each(|variant, pool| {
        let (rows, cols) = (330, 128);
        let w = random_ternary(&mut Random(5), rows, cols);
        for place in 0..cols {
            let mut q = vec![0; cols];
            q[place] = if place % 2 == 0 { -127 } else { 3 };
            check(variant, pool, &w, &quantized(q, cols));
        }
    });
}

#[test]
fn many_tokens_in_blocks() {
    each(|variant, pool| {
        let mut random = Random(64);
        let (rows, cols) = (340, 256);
        let w = random_ternary(&mut random, rows, cols);
        for tokens in [63, 64, 65, 129] {
            let q = activations(&mut random, tokens * cols, 80);
            check(variant, pool, &w, &quantized(q, cols));
        }
    });
}

#[test]
fn extremes_do_not_overflow() {
    each(|variant, pool| {
        let cols = 8192;
        for code in [0x00u8, 0x55, 0xaa, 0x22] {
            let w = ternary(vec![code; 32 * cols / 4], cols);
            for value in values([i8::MIN, -127, -1, 0, 1, i8::MAX]) {
                check(variant, pool, &w, &quantized(vec![value; cols], cols));
            }
        }
    });
}

#[test]
fn code_3_is_refused() {
    for packing in variants().iter().filter_map(Variant::column_packing) {
        let mut bytes = vec![0x55; 3 * 256 / 4];
        bytes[17] = 0x5d; // 01 01 11 01
        let w = ternary(bytes, 256);
        assert!(packing.pack(&w, &mut vec![0; packing.bytes(&w).unwrap()]).is_err());
        let long = Ternary::new(owned(Vec::new()), 0, packing.max_cols + 128, 1.0);
        assert_eq!(packing.bytes(&long), None, "longer than the sums hold");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(random_cases(40)))]

    #[test]
    fn any_shape_and_any_zeros(seed: u64, rows in 1usize..900, blocks in 1usize..8, tokens in 1usize..6, zeros in 0u64..=100) {
        let features = Machine::detect().features;
        let cols = blocks * 128;
        for variant in variants() {
            if !testable(variant.name, variant.features, variant.runs_on(&features)) {
                continue;
            }
            let mut random = Random(seed);
            let w = random_ternary(&mut random, rows, cols);
            let q = activations(&mut random, tokens * cols, zeros);
            check(variant, &Pool::new(1 + seed as usize % 3), &w, &quantized(q, cols));
        }
    }
}
