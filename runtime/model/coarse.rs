//! The output head in codes of 8 bits, of which a pass reads 6, and what its logits can differ from those of the F16 head: three eighths of
//! the bytes, no changed token.
//!
//! A pass over 6 bits of the codes gives each logit an interval that the F16 head's value lies in, rounding errors of both included; where
//! that reaches far enough up, the other 2 bits make it narrower. Only rows whose interval still does are worth the F16 head's own
//! arithmetic. The bounds are derived in docs/coarse-head.md; the letters here are those of that page.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;

use super::{Dense, DenseType, HugeBuffer, Model, Sidecar};

/// Columns that the kernels take at once.
const BLOCK: usize = 256;
/// Words of a block: in each, several codes.
const LANES: usize = 32;
/// Longer rows are refused.
const COLS_MAX: usize = (1 << 22) - BLOCK;
/// Largest sum of |X| of a row of activations: with codes of 6 bits, no sum of products can leave i32.
const SUM_MAX: f64 = ((1 << 24) - 1) as f64;
/// Covers the rounding of everything that is computed in f64 on the way, which is 2^-53 an operation.
const SLACK: f64 = 1.0 + 1e-9;
/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;
/// Covers what the radius of an interval loses when it is computed.
const RADIUS: f64 = 1.0 + 1e-6;

/// Codes of an F16 matrix W (rows, cols): w = scale * code + error, |code| <= 127, kept in two parts: code + 128 = 4 * coarse + fine.
#[derive(Debug)]
pub struct CoarseHead {
    /// First the coarse codes (rows, padded cols), 6 bits each, then the fine ones, 2 bits, both laid out as `templates/head_coarse.c` says.
    /// Those beyond the columns are arbitrary.
    codes: HugeBuffer,
    rows: usize,
    cols: usize,
    numbers: Numbers,
}

/// What is stored of each row besides its codes.
#[derive(Debug, Default)]
struct Numbers {
    /// s: scale.
    scales: Vec<f32>,
    /// N: at least the Euclidean norm.
    norms: Vec<f32>,
    /// E: at least the Euclidean norm of the error.
    errors: Vec<f32>,
    /// E': the same of the error without the fine codes, whose mean is in their place.
    coarse_errors: Vec<f32>,
}

/// Why there is none. The F16 head does without.
#[derive(Debug, thiserror::Error)]
pub enum NoCoarseHead {
    /// The matrix is stored in another type.
    #[error("a head in {0:?} is read as it is: only F16 is worth coding")]
    Kind(DenseType),
    /// Rows are too long for the sums.
    #[error("rows of {0} weights: 1 to {max} are coded", max = COLS_MAX)]
    Cols(usize),
    /// A weight is infinite or not a number: every request fails for it, with or without.
    #[error("row {0} of the head holds a value that is not finite")]
    NonFinite(usize),
    /// The system gave no address space.
    #[error("no memory for the coarse head: {0}")]
    Memory(#[from] io::Error),
    /// It was not wanted any more.
    #[error("stopped")]
    Stopped,
}

/// Bytes of the coarse codes of a row.
fn coarse_row(cols: usize) -> usize {
    cols.next_multiple_of(BLOCK) / 4 * 3
}

/// Bytes of the fine codes of a row.
fn fine_row(cols: usize) -> usize {
    cols.next_multiple_of(BLOCK) / 4
}

impl CoarseHead {
    /// Bytes that the codes of `w` take, and the numbers of each row.
    pub fn bytes_for(w: &Dense) -> usize {
        Self::code_bytes(w) + w.rows * Numbers::BYTES
    }

    /// Those of the codes.
    pub(crate) fn code_bytes(w: &Dense) -> usize {
        w.rows * (coarse_row(w.cols) + fine_row(w.cols))
    }

    /// Codes `w`, row by row, until `cancel` is set. `done` hears of rows that are coded, some at a time.
    pub fn build(w: &Dense, cancel: &AtomicBool, done: impl Fn(Range<usize>)) -> Result<Self, NoCoarseHead> {
        /// Parts of the head that `done` hears of.
        const PARTS: usize = 16;
        let (rows, cols) = (w.rows, w.cols);
        Self::codable(w)?;
        let mut codes = HugeBuffer::zeroed(Self::code_bytes(w))?;
        let mut numbers = Numbers::default();
        let mut wide = vec![0.0; cols];
        let mut plain = vec![0; cols.next_multiple_of(BLOCK)];
        let part = rows.div_ceil(PARTS);
        let (coarse, fine) = codes.split_at_mut(rows * coarse_row(cols));
        let parts = coarse
            .chunks_exact_mut(coarse_row(cols))
            .zip(fine.chunks_exact_mut(fine_row(cols)));
        for (r, (row, (coarse, fine))) in w.data.chunks_exact(w.row_bytes()).zip(parts).enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(NoCoarseHead::Stopped);
            }
            let coded = encode(row, &mut wide, &mut plain[..cols]).ok_or(NoCoarseHead::NonFinite(r))?;
            numbers.push(coded);
            divide(&plain, coarse, fine);
            if (r + 1).is_multiple_of(part) {
                done(r + 1 - part..r + 1);
            }
        }
        Ok(CoarseHead {
            codes,
            rows,
            cols,
            numbers,
        })
    }

    /// Whether the kernels take codes of `w`.
    pub(super) fn codable(w: &Dense) -> Result<(), NoCoarseHead> {
        if w.kind != DenseType::F16 {
            return Err(NoCoarseHead::Kind(w.kind));
        }
        if w.cols == 0 || w.cols > COLS_MAX {
            return Err(NoCoarseHead::Cols(w.cols));
        }
        Ok(())
    }

    /// The numbers of each row as bytes, for [`CoarseHead::from_parts`].
    pub(super) fn numbers(&self) -> Vec<u8> {
        let Numbers {
            scales,
            norms,
            errors,
            coarse_errors,
        } = &self.numbers;
        let all = [scales, norms, errors, coarse_errors].into_iter().flatten();
        all.flat_map(|number| number.to_le_bytes()).collect()
    }

    /// Those of `w`, which is [`CoarseHead::codable`], as they were: all codes, and the numbers.
    pub(crate) fn from_parts(w: &Dense, codes: HugeBuffer, numbers: &[u8]) -> Self {
        assert_eq!(
            (codes.len(), numbers.len()),
            (Self::code_bytes(w), Numbers::BYTES * w.rows)
        );
        let all: Vec<f32> = numbers.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let of = |which: usize| all[which * w.rows..][..w.rows].to_vec();
        CoarseHead {
            codes,
            rows: w.rows,
            cols: w.cols,
            numbers: Numbers {
                scales: of(0),
                norms: of(1),
                errors: of(2),
                coarse_errors: of(3),
            },
        }
    }

    /// Rows of W.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns with what fills the last block: the length of a row of codes.
    pub fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(BLOCK)
    }

    /// All codes, as bytes.
    pub(super) fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The coarse codes (rows, padded cols), as bytes.
    pub fn coarse_codes(&self) -> &[u8] {
        &self.codes[..self.rows * coarse_row(self.cols)]
    }

    /// The fine codes (rows, padded cols), as bytes.
    pub fn fine_codes(&self) -> &[u8] {
        &self.codes[self.rows * coarse_row(self.cols)..]
    }

    /// Bytes that a pass over all rows reads, and then `refined` of them.
    pub fn bytes(&self, refined: usize) -> usize {
        self.rows * (coarse_row(self.cols) + 12) + refined * (fine_row(self.cols) + 12)
    }

    /// Intervals of the logits of rows `first..` for one token, from the sums of coarse codes * X over each row.
    pub fn coarse_bounds(&self, first: usize, sums: &[i32], token: &CoarseToken, lower: &mut [f32], upper: &mut [f32]) {
        let rows = first..first + sums.len();
        let Numbers {
            scales,
            norms,
            coarse_errors,
            ..
        } = &self.numbers;
        let weights = scales[rows.clone()]
            .iter()
            .zip(&norms[rows.clone()])
            .zip(&coarse_errors[rows]);
        let out = lower.iter_mut().zip(upper);
        for ((((&scale, &norm), &error), &sum), (lower, upper)) in weights.zip(sums).zip(out) {
            let code_sum = 4.0 * f64::from(sum) - 126.5 * token.total;
            // The error of a weight is four times as large at most.
            (*lower, *upper) = token.interval(scale, 4.0, norm, error, code_sum);
        }
    }

    /// The narrower interval of the logit of one row, from both sums over it.
    pub fn fine_bounds(&self, row: usize, coarse_sum: i32, fine_sum: i32, token: &CoarseToken) -> (f32, f32) {
        let Numbers {
            scales, norms, errors, ..
        } = &self.numbers;
        let code_sum = 4.0 * f64::from(coarse_sum) + f64::from(fine_sum) - 128.0 * token.total;
        token.interval(scales[row], 1.0, norms[row], errors[row], code_sum)
    }
}

impl Numbers {
    /// Of a row.
    const BYTES: usize = 16;

    fn push(&mut self, coded: Coded) {
        self.scales.push(coded.scale);
        self.norms.push(coded.norm);
        self.errors.push(coded.error);
        self.coarse_errors.push(coded.coarse_error);
    }
}

impl Model {
    /// Codes the output head, for all passes from then on. Passes may run meanwhile.
    ///
    /// Reads the whole head and allocates [`CoarseHead::bytes_for`] it; for a time when nobody waits. What `kept` has is read from there.
    pub fn code_head(&self, kept: Option<&mut Sidecar>, cancel: &AtomicBool) -> Result<(), NoCoarseHead> {
        let w = &self.embedding;
        if let Some(head) = kept.and_then(|kept| kept.read_head(self)) {
            let _ = self.coarse.set(head);
            return Ok(());
        }
        // Few rows will be needed from then on, and those are read from the file. Until then whoever still reads the pages gets them
        // from the page cache.
        let head = CoarseHead::build(w, cancel, |rows| {
            self.mapping
                .release(&w.data[rows.start * w.row_bytes()..rows.end * w.row_bytes()]);
        })?;
        // Already there = the caller asked twice: the first stays.
        let _ = self.coarse.set(head);
        self.mapping.release(&w.data);
        Ok(())
    }
}

/// One coded row.
struct Coded {
    scale: f32,
    norm: f32,
    error: f32,
    coarse_error: f32,
}

/// Codes one row of F16, least significant byte first, through `wide` (cols); codes are + 128. `None` when it is not finite.
fn encode(row: &[u8], wide: &mut [f32], codes: &mut [u8]) -> Option<Coded> {
    /// 1.5 * 2^23: adding it rounds to an integer, half to even, and leaves that in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let mut largest = 0;
    for (wide, half) in wide.iter_mut().zip(row.as_chunks::<2>().0) {
        let bits = u16::from_le_bytes(*half);
        largest = largest.max((bits & 0x7fff) as i16); // as integers, magnitudes are in order
        // The fields of an f16, moved to their place; the exponent's bias by a multiplication, which is exact.
        let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000); // 2^112
        *wide = f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16);
    }
    if largest >= 0x7c00 {
        return None;
    }
    let largest = f16::from_bits(largest as u16).to_f32();
    let scale = largest / 127.0;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (code, &w) in codes.iter_mut().zip(&*wide) {
        *code = ((w * inverse + MAGIC).to_bits() as u8) ^ 0x80;
    }
    let (mut norm, mut error, mut coarse_error) = ([0f64; 8], [0f64; 8], [0f64; 8]);
    let (blocks, rest) = codes.as_chunks::<8>();
    let (wide_blocks, wide_rest) = wide.as_chunks::<8>();
    let mut add = |i: usize, code: u8, w: f32| {
        let (w, scale) = (f64::from(w), f64::from(scale));
        // Exact: the products have 32 bits, and the differences no more than 42.
        let e = w - scale * (f64::from(code) - 128.0);
        let coarse = w - scale * (f64::from(code & !3) - 126.5);
        norm[i] += w * w;
        error[i] += e * e;
        coarse_error[i] += coarse * coarse;
    };
    for (codes, wide) in blocks.iter().zip(wide_blocks) {
        for i in 0..8 {
            add(i, codes[i], wide[i]);
        }
    }
    for (i, (&code, &w)) in rest.iter().zip(wide_rest).enumerate() {
        add(i, code, w);
    }
    let root = |sums: [f64; 8]| ((sums.iter().sum::<f64>().sqrt() * SLACK) as f32).next_up();
    Some(Coded {
        scale,
        norm: root(norm),
        error: root(error),
        coarse_error: root(coarse_error),
    })
}

/// Divides the codes of a row, whole blocks, into their upper 6 bits and their lower 2, as the kernels read them.
fn divide(codes: &[u8], coarse: &mut [u8], fine: &mut [u8]) {
    let words = |bytes: &mut [u8], lane: usize, word: u16| {
        bytes.as_chunks_mut().0[lane] = word.to_le_bytes();
    };
    let blocks = codes.as_chunks::<BLOCK>().0.iter();
    let parts = coarse.chunks_exact_mut(6 * LANES).zip(fine.chunks_exact_mut(2 * LANES));
    for (codes, (coarse, fine)) in blocks.zip(parts) {
        for i in 0..LANES {
            let code = |k: usize| u16::from(codes[LANES * k + i]);
            let high = |k: usize| code(k) >> 2;
            words(coarse, i, high(0) | (high(6) & 15) << 6 | high(3) << 10);
            let upper = (high(6) >> 4) << 6 | (high(7) >> 4) << 8;
            words(coarse, LANES + i, high(1) | upper | high(4) << 10);
            words(coarse, 2 * LANES + i, high(2) | (high(7) & 15) << 6 | high(5) << 10);
            words(fine, i, (0..8).fold(0, |word, k| word | (code(k) & 3) << (2 * k)));
        }
    }
}

/// What the bounds need to know of one token's activations x, besides its X: x = step * X + rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoarseToken {
    /// t
    step: f64,
    /// T: sum of X.
    total: f64,
    /// Radius of a row's interval: its scale times this ...
    per_scale: f64,
    /// ... plus its norm times this ...
    per_norm: f64,
    /// ... plus its error's norm times this.
    per_error: f64,
}

impl CoarseToken {
    /// Rounds activations x (cols), which are finite, to integers `q`, 0 beyond them.
    ///
    /// Of these, |X| < 2^15 and the sum of |X| < 2^24.
    pub fn new(x: &[f32], q: &mut [i16]) -> Self {
        /// 1.5 * 2^52: adding it rounds to an integer, half to even, and leaves that in the low bits.
        const MAGIC: f64 = 6_755_399_441_055_744.0;
        let n = x.len() as f64;
        let largest = f64::from(x.iter().fold(0f32, |max, x| max.max(x.abs())));
        let magnitudes: f64 = x.iter().map(|x| f64::from(x.abs())).sum();
        // Each X is at most 1/2 larger than |x| / t, and they are n.
        let step = (largest / 32766.0).max(magnitudes / (SUM_MAX - n));
        let step = if step > 0.0 { step } else { 1.0 };
        let (mut squares, mut rounding, mut total) = (0.0, 0.0, 0.0);
        let (q, beyond) = q.split_at_mut(x.len());
        beyond.fill(0);
        for (q, &x) in q.iter_mut().zip(x) {
            let x = f64::from(x);
            let magic = x / step + MAGIC;
            *q = magic.to_bits() as i16;
            let f = x - step * (magic - MAGIC);
            total += magic - MAGIC;
            squares += x * x;
            rounding += f * f;
        }
        let (norm, rounding) = (squares.sqrt() * SLACK, rounding.sqrt() * SLACK);
        let (peaks, rest) = split(x, squares);
        // Additions in a lane of 32, and five to fold the lanes; the products of two F16 are exact in f32.
        let additions = (x.len().div_ceil(32) + 6) as f64;
        let gamma = additions * U / (1.0 - additions * U);
        // What the middle v of an interval loses, where |v| <= (|w| + |e|) (|x| + |f|), and the f: 2^-53 of them, and much to spare.
        let middle = 2.0 * U * (norm + rounding);
        CoarseToken {
            step,
            total,
            per_scale: 0.5001 * peaks * RADIUS,
            per_norm: (gamma * norm + rounding + middle) * RADIUS,
            per_error: (rest + rounding + middle) * RADIUS,
        }
    }

    /// The ends of a logit's interval: `code_sum` is the sum of codes * X, `step` the distance of codes in units of the row's scale.
    fn interval(&self, scale: f32, step: f64, norm: f32, error: f32, code_sum: f64) -> (f32, f32) {
        let scale = f64::from(scale);
        let middle = scale * (self.step * code_sum);
        let radius =
            scale * step * self.per_scale + f64::from(norm) * self.per_norm + f64::from(error) * self.per_error;
        ((middle - radius) as f32, (middle + radius) as f32)
    }
}

/// Divides the activations in two: the sum of the magnitudes of the large ones, and the Euclidean norm of the others.
///
/// A weight's error is at most half a step s of its row, and the errors of a row together about s * sqrt(n / 12): the former
/// serves better for the few activations that stick out, the latter for the mass. `squares` is the sum over x^2.
fn split(x: &[f32], squares: f64) -> (f64, f64) {
    let typical = (x.len() as f64 / 12.0).sqrt();
    let (mut peaks, mut rest) = (0.0, squares.sqrt());
    // With fewer of them in the mass, more stick out of it.
    for _ in 0..3 {
        let bar = (rest / typical) as f32;
        let (mut large, mut small) = (0.0, 0.0);
        for x in x.iter().map(|x| x.abs()) {
            let x64 = f64::from(x);
            if x > bar {
                large += x64;
            } else {
                small += x64 * x64;
            }
        }
        (peaks, rest) = (large, small.sqrt());
    }
    (peaks, rest * SLACK)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kernels::reference;
    use crate::model::Bytes;

    fn dense(weights: &[f32], cols: usize, kind: DenseType) -> Dense {
        let halves = weights.iter().flat_map(|&w| f16::from_f32(w).to_le_bytes());
        Dense {
            data: Bytes::whole(Arc::new(halves.collect::<Vec<u8>>())),
            kind,
            rows: weights.len() / cols,
            cols,
        }
    }

    fn go_on() -> AtomicBool {
        AtomicBool::new(false)
    }

    #[test]
    fn a_row_is_its_codes_and_what_they_leave() {
        // Subnormal, zero, the whole range, and halves between two codes.
        let rows: [fn(usize) -> f32; 4] = [
            |i| (i as f32 - 30.0) * 1e-7,
            |_| 0.0,
            |i| (i as f32 - 20.5) * 1500.0,
            |i| if i == 0 { 127.0 } else { i as f32 * 0.5 - 16.0 },
        ];
        let weights: Vec<f32> = rows.iter().flat_map(|row| (0..64).map(row)).collect();
        let head = CoarseHead::build(&dense(&weights, 64, DenseType::F16), &go_on(), |_| ()).unwrap();
        let Numbers {
            scales,
            norms,
            errors,
            coarse_errors,
        } = &head.numbers;
        let code = |r: usize, i: usize| {
            let coarse = reference::coarse_code(&head.coarse_codes()[r * 192..], i);
            let fine = reference::fine_code(&head.fine_codes()[r * 64..], i);
            (f64::from(coarse), f64::from(fine))
        };
        for (r, weights) in weights.chunks_exact(64).enumerate() {
            let scale = f64::from(scales[r]);
            let (mut norm, mut error, mut coarse_error) = (0.0, 0.0, 0.0);
            for (i, &w) in weights.iter().enumerate() {
                let w = f64::from(f16::from_f32(w).to_f32());
                let (coarse, fine) = code(r, i);
                let (e, f) = (
                    w - scale * (4.0 * coarse + fine - 128.0),
                    w - scale * (4.0 * coarse - 126.5),
                );
                assert!(
                    e.abs() <= 0.5001 * scale && f.abs() <= 2.0004 * scale,
                    "row {r}: {w} {coarse} {fine}"
                );
                norm += w * w;
                error += e * e;
                coarse_error += f * f;
            }
            for (stored, sum) in [(norms[r], norm), (errors[r], error), (coarse_errors[r], coarse_error)] {
                let (stored, real) = (f64::from(stored), sum.sqrt());
                assert!(stored >= real && stored <= real * (1.0 + 1e-6) + 1e-40, "row {r}");
            }
        }
        let of_last = [0, 1, 2, 3]
            .map(|i| code(3, i))
            .map(|(coarse, fine)| 4.0 * coarse + fine - 128.0);
        assert_eq!(of_last, [127.0, -16.0, -15.0, -14.0]); // 127.0, then -15.5, -15.0, -14.5 to even
        let all = 4 * (192 + 64 + 16);
        assert_eq!(CoarseHead::bytes_for(&dense(&weights, 64, DenseType::F16)), all);
        assert_eq!(head.bytes(4), all + 4 * 8); // two numbers are read again
    }

    #[test]
    fn activations_stay_within_the_sums() {
        // The sum of magnitudes is the limit for many equal ones, the largest for few.
        for (n, x) in [(64, 1.0), (2560, 3e-8), (8192, 6e4), (1 << 16, 1.0)] {
            for sparse in [1, 7, n] {
                let x: Vec<f32> = (0..n).map(|i| if i % sparse == 0 { x } else { 0.0 }).collect();
                let mut q = vec![0; n];
                let token = CoarseToken::new(&x, &mut q);
                let sum: u64 = q.iter().map(|q| u64::from(q.unsigned_abs())).sum();
                assert!(sum < 1 << 24, "{sum}");
                assert!(
                    q[0] == 32766 || sum > 15 << 20,
                    "no bits are given away: {} {sum}",
                    q[0]
                );
                assert!((f64::from(x[0]) - token.step * f64::from(q[0])).abs() <= token.step * 0.51);
            }
        }
        let mut q = [1; 64];
        CoarseToken::new(&[0.0; 64], &mut q);
        assert_eq!(q, [0; 64]);
    }

    #[test]
    fn what_has_no_coarse_head_says_why() {
        let plain = dense(&[1.0; 128], 64, DenseType::F16);
        let refused = |w: &Dense| CoarseHead::build(w, &go_on(), |_| ()).unwrap_err().to_string();
        assert!(CoarseHead::build(&plain, &go_on(), |_| ()).is_ok());
        assert!(refused(&dense(&[1.0; 128], 64, DenseType::Q6K)).contains("Q6K"));
        let long = Dense {
            rows: 1,
            cols: COLS_MAX + 1,
            ..plain.clone()
        };
        assert!(refused(&long).contains(&(COLS_MAX + 1).to_string()));
        let mut weights = [1.0; 128];
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            weights[77] = bad;
            assert!(refused(&dense(&weights, 64, DenseType::F16)).starts_with("row 1 "));
        }
        let stopped = CoarseHead::build(&plain, &AtomicBool::new(true), |_| ()).unwrap_err();
        assert!(matches!(stopped, NoCoarseHead::Stopped));
    }
}
