//! The output head in int8, and what its logits can differ from those of the F16 head: half of the bytes, no changed token.
//!
//! A pass over int8 codes gives each logit an interval that the F16 head's value lies in, rounding errors of both included.
//! Only rows whose interval reaches far enough up are worth the F16 head's own arithmetic. The bound is derived in
//! docs/coarse-head.md; the letters here are those of that page.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;

use super::{Dense, DenseType, HugeBuffer, Model, Sidecar};

/// Columns that the kernel takes at once.
const BLOCK: usize = 64;
/// Largest sum of |X| of a row of activations: with int8 codes, no sum of products can leave i32.
const SUM_MAX: f64 = ((1 << 24) - 1) as f64;
/// Covers the rounding of everything that is computed in f64 on the way, which is 2^-53 an operation.
const SLACK: f64 = 1.0 + 1e-9;
/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;
/// Covers what the ends of an interval lose of its radius when they are rounded to f32.
const ENDS: f64 = 1.0 + 1e-6;

/// int8 codes of an F16 matrix W (rows, cols): w = scale * code + error.
#[derive(Debug)]
pub struct CoarseHead {
    /// (rows, cols), two's complement, none is -128.
    codes: HugeBuffer,
    rows: usize,
    cols: usize,
    /// s: scale of each row.
    scales: Vec<f32>,
    /// At least the Euclidean norm of each row.
    norms: Vec<f32>,
    /// At least the Euclidean norm of each row's error.
    errors: Vec<f32>,
}

/// Why there is none. The F16 head does without.
#[derive(Debug, thiserror::Error)]
pub enum NoCoarseHead {
    /// The matrix is stored in another type.
    #[error("a head in {0:?} is read as it is: only F16 is halved by int8")]
    Kind(DenseType),
    /// Rows are not whole blocks, or too long for the sums.
    #[error("rows of {0} weights: whole blocks of {BLOCK} are needed, and less than 2^22")]
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

impl CoarseHead {
    /// Bytes that the codes of `w` take, and the three numbers of each row.
    pub fn bytes_for(w: &Dense) -> usize {
        w.rows * (w.cols + 12)
    }

    /// Codes `w`, row by row, until `cancel` is set.
    pub fn build(w: &Dense, cancel: &AtomicBool) -> Result<Self, NoCoarseHead> {
        Self::build_with(w, cancel, |_| ())
    }

    /// The same; `done` hears of rows that are coded, some at a time.
    fn build_with(w: &Dense, cancel: &AtomicBool, done: impl Fn(Range<usize>)) -> Result<Self, NoCoarseHead> {
        /// Parts of the head that `done` hears of.
        const PARTS: usize = 16;
        let (rows, cols) = (w.rows, w.cols);
        Self::codable(w)?;
        let mut head = CoarseHead {
            codes: HugeBuffer::zeroed(rows * cols)?,
            rows,
            cols,
            scales: Vec::with_capacity(rows),
            norms: Vec::with_capacity(rows),
            errors: Vec::with_capacity(rows),
        };
        let mut wide = vec![0.0; cols];
        let part = rows.div_ceil(PARTS);
        let codes = head.codes.chunks_exact_mut(cols);
        for (r, (row, codes)) in w.data.chunks_exact(w.row_bytes()).zip(codes).enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(NoCoarseHead::Stopped);
            }
            let coded = encode(row, &mut wide, codes).ok_or(NoCoarseHead::NonFinite(r))?;
            head.scales.push(coded.scale);
            head.norms.push(coded.norm);
            head.errors.push(coded.error);
            if (r + 1).is_multiple_of(part) {
                done(r + 1 - part..r + 1);
            }
        }
        Ok(head)
    }

    /// Whether the kernels take codes of `w`.
    pub(super) fn codable(w: &Dense) -> Result<(), NoCoarseHead> {
        if w.kind != DenseType::F16 {
            return Err(NoCoarseHead::Kind(w.kind));
        }
        if w.cols == 0 || !w.cols.is_multiple_of(BLOCK) || w.cols >= 1 << 22 {
            return Err(NoCoarseHead::Cols(w.cols));
        }
        Ok(())
    }

    /// The three numbers of each row as bytes, for [`CoarseHead::from_parts`].
    pub(super) fn numbers(&self) -> Vec<u8> {
        let all = self.scales.iter().chain(&self.norms).chain(&self.errors);
        all.flat_map(|number| number.to_le_bytes()).collect()
    }

    /// Those of `w`, which is [`CoarseHead::codable`], as they were: the codes (rows, cols) and the numbers.
    pub(super) fn from_parts(w: &Dense, codes: HugeBuffer, numbers: &[u8]) -> Self {
        assert_eq!((codes.len(), numbers.len()), (w.rows * w.cols, 12 * w.rows));
        let all: Vec<f32> = numbers.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let of = |which: usize| all[which * w.rows..][..w.rows].to_vec();
        CoarseHead {
            codes,
            rows: w.rows,
            cols: w.cols,
            scales: of(0),
            norms: of(1),
            errors: of(2),
        }
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The codes (rows, cols), as bytes.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Bytes that a pass over all rows reads.
    pub fn bytes(&self) -> usize {
        self.codes.len() + 12 * self.rows
    }

    /// Intervals of the logits of rows `first..` for one token, from the sums of codes * X over each row.
    pub fn bounds(&self, first: usize, sums: &[i32], token: &CoarseToken, lower: &mut [f32], upper: &mut [f32]) {
        let rows = first..first + sums.len();
        let (scales, norms) = (&self.scales[rows.clone()], &self.norms[rows.clone()]);
        let weights = scales.iter().zip(norms).zip(&self.errors[rows]);
        let out = lower.iter_mut().zip(upper);
        for ((((&scale, &norm), &error), &sum), (lower, upper)) in weights.zip(sums).zip(out) {
            let scale = f64::from(scale);
            let middle = scale * (token.step * f64::from(sum));
            let radius =
                scale * token.per_scale + f64::from(norm) * token.per_norm + f64::from(error) * token.per_error;
            *lower = (middle - radius) as f32;
            *upper = (middle + radius) as f32;
        }
    }
}

impl Model {
    /// Codes the output head, for all passes from then on. Passes may run meanwhile.
    ///
    /// Reads the whole head and allocates [`CoarseHead::bytes_for`] it; for a time when nobody waits.
    pub fn code_head(&self, cancel: &AtomicBool) -> Result<(), NoCoarseHead> {
        self.code_head_from(None, cancel)
    }

    /// The same, but what `kept` has is read from there.
    pub fn code_head_from(&self, kept: Option<&mut Sidecar>, cancel: &AtomicBool) -> Result<(), NoCoarseHead> {
        let w = &self.embedding;
        if let Some(head) = kept.and_then(|kept| kept.read_head(self)) {
            let _ = self.coarse.set(head);
            return Ok(());
        }
        // Few rows will be needed from then on, and those are read from the file. Until then whoever still reads the pages gets them
        // from the page cache.
        let head = CoarseHead::build_with(w, cancel, |rows| {
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
}

/// Codes one row of F16, least significant byte first, through `wide` (cols). `None` when it is not finite.
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
        *code = (w * inverse + MAGIC).to_bits() as u8;
    }
    let (mut norm, mut error) = ([0f64; 8], [0f64; 8]);
    for (codes, wide) in codes.as_chunks::<8>().0.iter().zip(wide.as_chunks::<8>().0) {
        for i in 0..8 {
            let w = f64::from(wide[i]);
            // Exact: the product has 31 bits, and the difference no more than 40.
            let e = w - f64::from(scale) * f64::from(codes[i] as i8);
            norm[i] += w * w;
            error[i] += e * e;
        }
    }
    let root = |sums: [f64; 8]| ((sums.iter().sum::<f64>().sqrt() * SLACK) as f32).next_up();
    Some(Coded {
        scale,
        norm: root(norm),
        error: root(error),
    })
}

/// What the bounds need to know of one token's activations x, besides its X: x = step * X + rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoarseToken {
    /// t
    step: f64,
    /// Radius of a row's interval: its scale times this ...
    per_scale: f64,
    /// ... plus its norm times this ...
    per_norm: f64,
    /// ... plus its error's norm times this.
    per_error: f64,
}

impl CoarseToken {
    /// Rounds activations x (cols), which are finite, to integers `q`.
    ///
    /// Of these, |X| < 2^15 and the sum of |X| < 2^24.
    pub fn new(x: &[f32], q: &mut [i16]) -> Self {
        /// 1.5 * 2^52: adding it rounds to an integer, half to even, and leaves that in the low bits.
        const MAGIC: f64 = 6_755_399_441_055_744.0;
        let n = x.len() as f64;
        let largest = f64::from(x.iter().fold(0f32, |max, x| max.max(x.abs())));
        let total: f64 = x.iter().map(|x| f64::from(x.abs())).sum();
        // Each X is at most 1/2 larger than |x| / t, and they are n.
        let step = (largest / 32766.0).max(total / (SUM_MAX - n));
        let step = if step > 0.0 { step } else { 1.0 };
        let (mut squares, mut rounding) = (0.0, 0.0);
        for (q, &x) in q.iter_mut().zip(x) {
            let x = f64::from(x);
            let magic = x / step + MAGIC;
            *q = magic.to_bits() as i16;
            let f = x - step * (magic - MAGIC);
            squares += x * x;
            rounding += f * f;
        }
        let (norm, rounding) = (squares.sqrt() * SLACK, rounding.sqrt() * SLACK);
        let (peaks, rest) = split(x, squares);
        // Additions in a lane of 32, and five to fold the lanes; the products of two F16 are exact in f32.
        let additions = (x.len().div_ceil(32) + 6) as f64;
        let gamma = additions * U / (1.0 - additions * U);
        // And what they lose of its middle v, where |v| <= (|w| + |e|) (|x| + |f|).
        let ends = 2.0 * U * (norm + rounding);
        CoarseToken {
            step,
            per_scale: 0.5001 * peaks * ENDS,
            per_norm: (gamma * norm + rounding + ends) * ENDS,
            per_error: (rest + rounding + ends) * ENDS,
        }
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
        let head = CoarseHead::build(&dense(&weights, 64, DenseType::F16), &go_on()).unwrap();
        for (r, weights) in weights.chunks_exact(64).enumerate() {
            let scale = f64::from(head.scales[r]);
            let (mut norm, mut error) = (0.0, 0.0);
            for (&w, &code) in weights.iter().zip(&head.codes()[r * 64..]) {
                let w = f64::from(f16::from_f32(w).to_f32());
                let e = w - scale * f64::from(code as i8);
                assert!(e.abs() <= 0.5001 * scale && code != 0x80, "row {r}: {w} {code}");
                norm += w * w;
                error += e * e;
            }
            for (stored, sum) in [(head.norms[r], norm), (head.errors[r], error)] {
                let (stored, real) = (f64::from(stored), sum.sqrt());
                assert!(stored >= real && stored <= real * (1.0 + 1e-6) + 1e-40, "row {r}");
            }
        }
        assert_eq!(head.codes()[3 * 64..][..4], [127, 0xf0, 0xf1, 0xf2]); // 127.0, then -15.5, -15.0, -14.5 to even
        assert_eq!(
            head.bytes(),
            CoarseHead::bytes_for(&dense(&weights, 64, DenseType::F16))
        );
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
        let refused = |w: &Dense| CoarseHead::build(w, &go_on()).unwrap_err().to_string();
        assert!(CoarseHead::build(&plain, &go_on()).is_ok());
        assert!(refused(&dense(&[1.0; 128], 64, DenseType::Q6K)).contains("Q6K"));
        assert!(refused(&dense(&[1.0; 96], 96, DenseType::F16)).contains("96"));
        let mut weights = [1.0; 128];
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            weights[77] = bad;
            assert!(refused(&dense(&weights, 64, DenseType::F16)).starts_with("row 1 "));
        }
        let stopped = CoarseHead::build(&plain, &AtomicBool::new(true)).unwrap_err();
        assert!(matches!(stopped, NoCoarseHead::Stopped));
    }
}
