//! The output head, and its coarse form.

use std::sync::atomic::AtomicBool;

use half::f16;
use sterna::kernels::{Variant, reference, round_for_head};
use sterna::machine::pool::Pool;
use sterna::model::{CoarseHead, CoarseToken, Dense, DenseType};

use super::levels::affordable;
use super::{Random, each, owned};

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
            // The last in several pieces a thread.
            for (rows, tokens) in [(1, 1), (7, 1), (10, 3), (900, 2)] {
                if !affordable(rows * cols * tokens, 20_000) {
                    continue;
                }
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

/// Intervals of the coarse head: equal to those of the reference's sums, and around what the head itself computes.
#[test]
fn coarse_logits_equal_the_reference_and_hold_the_exact_ones() {
    let mut random = Random(31);
    for cols in [64, 256, 288, 640, 1600, 2560, 8192] {
        for (rows, tokens) in [(1, 1), (3, 1), (4, 2), (7, 3), (66, 4), (131, 5), (9, 8), (70, 19)] {
            if rows * cols * tokens > 2_000_000 || !affordable(rows * cols * tokens, 33_000) {
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
                let head = CoarseHead::build(&w, &AtomicBool::new(false), |_| ()).unwrap();
                each(|variant, pool| check_coarse(variant, pool, &head, &w, &x));
            }
        }
    }
}

fn check_coarse(variant: &Variant, pool: &Pool, head: &CoarseHead, w: &Dense, x: &[f32]) {
    let (rows, cols, tokens) = (w.rows, w.cols, x.len() / w.cols);
    let padded = head.padded_cols();
    let mut q = vec![i16::MAX; tokens * padded];
    let mut x = x.to_vec();
    round_for_head(w, &mut x);
    let inputs = x.chunks_exact(cols).zip(q.chunks_exact_mut(padded));
    let coarse: Vec<_> = inputs.map(|(x, q)| CoarseToken::new(x, q)).collect();
    let mut got_sums = vec![i32::MAX; tokens * rows];
    let (mut lower, mut upper) = (vec![f32::NAN; tokens * rows], vec![f32::NAN; tokens * rows]);
    variant.head_coarse(pool, head, &coarse, &q, &mut got_sums, (&mut lower, &mut upper));
    let mut y = vec![f32::NAN; tokens * rows];
    variant.head(pool, w, &x, &mut y);

    let (mut sums, mut fine_sums) = (vec![0; rows], vec![0; rows]);
    let (mut expected_lower, mut expected_upper) = (vec![0.0; rows], vec![0.0; rows]);
    let ids: Vec<u32> = (0..rows as u32).rev().collect();
    let (mut single, mut fine_upper) = (vec![f32::NAN; rows], vec![f32::NAN; rows]);
    for (t, token) in coarse.iter().enumerate() {
        let of_token = |all: &[f32]| all[t * rows..][..rows].to_vec();
        let q = &q[t * padded..][..padded];
        reference::head_codes(head.coarse_codes(), reference::coarse_code, q, &mut sums);
        reference::head_codes(head.fine_codes(), reference::fine_code, q, &mut fine_sums);
        assert_eq!(got_sums[t * rows..][..rows], sums, "{} {rows}x{cols}", variant.name);
        head.coarse_bounds(0, &sums, token, &mut expected_lower, &mut expected_upper);
        assert_eq!(of_token(&lower), expected_lower, "{} {rows}x{cols}", variant.name);
        assert_eq!(of_token(&upper), expected_upper, "{} {rows}x{cols}", variant.name);
        variant.head_fine(pool, head, (token, q), &sums, &ids, &mut fine_upper);
        for (r, y) in of_token(&y).iter().enumerate() {
            let fine = head.fine_bounds(r, sums[r], fine_sums[r], token);
            assert_eq!(fine_upper[rows - 1 - r], fine.1, "{} {rows}x{cols}", variant.name);
            let wide = (expected_lower[r], expected_upper[r]);
            assert!(fine.1 - fine.0 <= wide.1 - wide.0, "row {r}: {fine:?} {wide:?}");
            for (lower, upper) in [wide, fine] {
                assert!(
                    lower <= *y && *y <= upper,
                    "{} {rows}x{cols} token {t} row {r}: {y} is outside {lower}..={upper}",
                    variant.name
                );
            }
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
