//! Products that skip columns whose input is zero, and rows whose gate is closed.

use proptest::prelude::*;
use sterna::kernels::{Live, QuantRows, Variant, reference, variants};
use sterna::machine::cpu::Machine;
use sterna::machine::pool::Pool;
use sterna::model::{Packed, Packing, Ternary};

use super::levels::{affordable, random_cases, testable, values};
use super::linear::{quantized, random_ternary, reference_sums, ternary};
use super::{Random, each, owned};

/// W by columns, as `variant` wants it; `None` where it skips nothing.
fn by_columns(variant: &Variant, w: &Ternary) -> Option<Ternary> {
    Some(packed(variant.skipping().down?, w))
}

fn packed(packing: Packing, w: &Ternary) -> Ternary {
    let mut data = vec![0xee; packing.bytes(w).expect("not too long")];
    packing.pack(w, &mut data).expect("ternary");
    let w = w.clone();
    let data = owned(data);
    w.set_repacked(Packed { data, packing });
    w
}

/// Up equals what it is without skipping, but for zeros where relu(gate)^2 makes zeros of it. How many rows were skipped.
fn check_gated(variant: &Variant, pool: &Pool, gate_w: &Ternary, up_w: &Ternary, x: &QuantRows) -> usize {
    let Some(packing) = variant.skipping().up else { return 0 };
    let by_rows = packed(packing, up_w);
    let n = x.scales.len() * up_w.rows;
    let (mut gate, mut up) = (vec![5.5f32; n], vec![7.5f32; n]);
    let (mut expected_gate, mut expected_up) = (gate.clone(), up.clone());
    variant.linear(pool, x, &mut [(gate_w, &mut expected_gate), (up_w, &mut expected_up)]);
    variant.linear_gated(pool, x, (gate_w, &mut gate), (&by_rows, &mut up));
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&gate), bits(&expected_gate), "{}", variant.name);
    let mut skipped = 0;
    for (t, row) in expected_up.chunks_exact_mut(up_w.rows).enumerate() {
        // Zero times infinity is no zero.
        if row.iter().all(|up| up.is_finite()) {
            let gates = &gate[t * up_w.rows..];
            let closed = row.iter_mut().zip(gates).filter(|(_, gate)| **gate <= 0.0);
            for (up, _) in closed {
                *up = reference::rescale(0, x.scales[t], up_w.scale);
                skipped += 1;
            }
        }
    }
    for (at, (up, expected)) in up.iter().zip(&expected_up).enumerate() {
        let (t, r) = (at / up_w.rows, at % up_w.rows);
        assert!(
            up.to_bits() == expected.to_bits(),
            "{} {}x{} token {t} row {r}: {up} instead of {expected}",
            variant.name,
            up_w.rows,
            up_w.cols
        );
    }
    // Without a layout for skipping nothing is.
    variant.linear_gated(pool, x, (gate_w, &mut gate), (up_w, &mut up));
    variant.linear(pool, x, &mut [(up_w, &mut expected_up)]);
    assert_eq!(bits(&up), bits(&expected_up), "{}", variant.name);
    skipped
}

/// Random weights, but rows of one code alone in `closed` of 100 rows: of positive activations a sum that is not positive.
fn gates(random: &mut Random, rows: usize, cols: usize, closed: u64) -> Ternary {
    let mut bytes = random_ternary(random, rows, cols).packed.to_vec();
    for row in bytes.chunks_exact_mut(cols / 4) {
        if random.next() % 100 < closed {
            // All -1, or all 0.
            row.fill([0x00, 0x55][random.next() as usize % 2]);
        }
    }
    ternary(bytes, cols)
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
fn rows_under_closed_gates_are_zero_and_others_as_without_skipping() {
    each(|variant, pool| {
        let mut random = Random(70);
        for cols in [128, 256, 1408, 2560] {
            // 2048 rows are listed at a time.
            for rows in [1, 2, 63, 700, 2047, 2048, 2049, 4099] {
                for closed in [0, 50, 95, 100] {
                    let tokens = 1 + closed as usize % 3 + usize::from(closed == 50) * 16;
                    if rows * cols * tokens > 3_000_000 || !affordable(rows * cols * tokens, 33_000) {
                        continue;
                    }
                    let gate = gates(&mut random, rows, cols, closed);
                    let up = random_ternary(&mut random, rows, cols);
                    let q = activations(&mut random, tokens * cols, 10);
                    let q = q.into_iter().map(|q| q.saturating_abs()).collect();
                    let skipped = check_gated(variant, pool, &gate, &up, &quantized(q, cols));
                    let skips = variant.skipping().up.is_some();
                    if closed == 100 {
                        assert_eq!(skipped, if skips { rows * tokens } else { 0 });
                    }
                }
            }
        }
    });
}

#[test]
fn nothing_is_skipped_beside_what_is_not_finite() {
    each(|variant, pool| {
        let mut random = Random(71);
        let (rows, cols) = (90, 256);
        let gate = gates(&mut random, rows, cols, 60);
        let up = random_ternary(&mut random, rows, cols);
        let mut x = quantized(vec![100; 5 * cols], cols);
        // The largest sum is 256 * 100, of codes 2 alone.
        let mut bytes = up.packed.to_vec();
        bytes[..cols / 4].fill(0xaa);
        let up = ternary(bytes, cols);
        let just = (cols * 100) as f32 * up.scale / f32::MAX;
        // No number, all sums overflow, one does, and none.
        (x.scales[1], x.scales[2], x.scales[3]) = (f32::NAN, just / 1e6, just / 1.01);
        x.scales[4] = 4.0 * just;
        check_gated(variant, pool, &gate, &up, &x);
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
    for packing in variants()
        .iter()
        .flat_map(|variant| [variant.skipping().up, variant.skipping().down])
        .flatten()
    {
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
            let (pool, x) = (Pool::new(1 + seed as usize % 3), quantized(q, cols));
            check(variant, &pool, &w, &x);
            check_gated(variant, &pool, &gates(&mut random, rows, cols, zeros), &w, &x);
        }
    }
}
