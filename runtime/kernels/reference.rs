//! The scalar definition of every kernel. Permanent, in one file, written to be read.
//!
//! Shapes are (rows, columns), row-major. Compiled kernels must give these bits exactly.

use half::f16;

/// Lanes of a float reduction: element i is added to lane `i % 32`, in order; then lanes fold in halves.
pub const LANES: usize = 32;

/// Folds lanes in halves: `lane[i] += lane[i + width / 2]`, until one is left.
fn fold<T: Copy + std::ops::AddAssign, const N: usize>(mut lanes: [T; N]) -> T {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            let upper = lanes[i + width];
            lanes[i] += upper;
        }
        width /= 2;
    }
    lanes[0]
}

/// sum of a\[i\] * b\[i\], in 32 f32 lanes.
pub fn dot(a: impl IntoIterator<Item = f32>, b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    for (i, (a, &b)) in a.into_iter().zip(b).enumerate() {
        lanes[i % LANES] += a * b;
    }
    fold(lanes)
}

/// Quantises one row to int8: s = 127 / max(1e-5, max|x|), q = round-half-even(x * s). Returns (s, sum of q).
///
/// As bitnet.cpp's `quantize_row_i8_s`. When some x is not finite, s is NaN and q is 0: what is computed from the
/// row is then NaN, which the engine refuses to sample from.
pub fn quantize(x: &[f32], q: &mut [i8]) -> (f32, i32) {
    if x.iter().any(|v| !v.is_finite()) {
        q.fill(0);
        return (f32::NAN, 0);
    }
    let max = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let s = (127.0 / f64::from(max).max(1e-5)) as f32;
    let mut sum = 0;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * s).round_ties_even().clamp(-128.0, 127.0) as i8;
        sum += i32::from(*q);
    }
    (s, sum)
}

/// The code (0, 1, 2 for -1, 0, +1; 3 never occurs in a valid file and counts as +2) of weight `col` in an I2_S row.
pub fn i2s_code(row: &[u8], col: usize) -> u8 {
    let (block, j) = (col / 128, col % 128);
    row[block * 32 + j % 32] >> (6 - 2 * (j / 32)) & 3
}

/// y\[r\] = sum over c of (code(r, c) - 1) * x\[c\]. W (rows, cols) in I2_S @ x (cols) -> y (rows).
pub fn i2s_gemv(w: &[u8], x: &[i8], y: &mut [i32]) {
    for (row, y) in w.chunks_exact(x.len() / 4).zip(y) {
        *y = x
            .iter()
            .enumerate()
            .map(|(c, &q)| (i32::from(i2s_code(row, c)) - 1) * i32::from(q))
            .sum();
    }
}

/// y = acc / s * scale, in that order, in f32.
pub fn rescale(acc: i32, s: f32, scale: f32) -> f32 {
    acc as f32 / s * scale
}

/// y = x / sqrt(mean(x^2) + eps) * weight; the mean in f64 (16 lanes), the rest in f32.
pub fn rmsnorm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let mut lanes = [0f64; 16];
    for (i, &v) in x.iter().enumerate() {
        lanes[i % 16] += f64::from(v) * f64::from(v);
    }
    let mean = (fold(lanes) / x.len() as f64) as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * w;
    }
}

/// NeoX RoPE on one head: pairs (i, i + d/2); cos and sin (d/2). Rounded to f16, as attention multiplies it.
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = x.split_at_mut(x.len() / 2);
    for i in 0..a.len() {
        let (u, v) = (a[i], b[i]);
        a[i] = f16::from_f32(u * cos[i] - v * sin[i]).to_f32();
        b[i] = f16::from_f32(u * sin[i] + v * cos[i]).to_f32();
    }
}

/// y = relu(gate)^2 * up.
pub fn relu2_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
        let r = g.max(0.0);
        *y = r * r * u;
    }
}

/// e^x for x <= 0, to about 1 ulp, by operations that every ISA rounds alike: n = round(x / ln 2), a
/// polynomial in the remainder (Cephes expf), then 2^n into the exponent. Below -87 it is 0; of NaN, NaN.
pub fn exp(x: f32) -> f32 {
    if x < -87.0 {
        return 0.0;
    }
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, half to even
    let n = x * std::f32::consts::LOG2_E + MAGIC - MAGIC;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_2e-4f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = p * r + c;
    }
    let y = p * (r * r) + r + 1.0;
    f32::from_bits(y.to_bits().wrapping_add((n as i32 as u32) << 23))
}

/// Positions that attention takes together: each block of them has its own maximum, sum and mix, which are then merged.
pub const BLOCK: usize = 128;

/// Keys or values of one KV head as they are cached, (positions, d).
pub enum Cached {
    /// f16 values.
    F16(Vec<f32>),
    /// Codes, and the scale of each position, as [`quantize_cached`] makes them.
    Q8_0(Vec<i8>, Vec<f32>),
}

/// Quantises a key or value to int8: the codes of [`quantize`], and the scale that they are multiplied with; NaN where some x is
/// not finite.
pub fn quantize_cached(x: &[f32], codes: &mut [i8]) -> f32 {
    1.0 / quantize(x, codes).0
}

/// Quantises a query to int16: codes up to 32767, or as many as keep a sum over all elements times 127 inside of i32. Returns the
/// scale that they are multiplied with; NaN where some x is not finite.
pub fn quantize_query(x: &[f32], codes: &mut [i16]) -> f32 {
    let limit = (i32::MAX as usize / 127 / x.len()).min(32767) as f32;
    // As integers, which vectorises, and finds infinities and NaN.
    let top = x.iter().fold(0, |top, v| top.max(v.abs().to_bits().cast_signed()));
    let max = f32::from_bits(top.cast_unsigned());
    if !max.is_finite() {
        codes.fill(0);
        return f32::NAN;
    }
    let max = max.max(WEIGHT_MIN);
    let inverse = limit / max;
    for (code, x) in codes.iter_mut().zip(x) {
        *code = round(x * inverse) as i16;
    }
    max / limit
}

/// The nearest integer, half to even, for |x| < 2^22: in the low bits, after an addition.
fn round(x: f32) -> i32 {
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;

/// What a maximum is at least that codes are scaled by.
const WEIGHT_MIN: f32 = 1e-30;

/// Attention of one query head over `len` cached positions. q (d) of f16 values, k, v (positions, d) -> out (d).
///
/// For each block, with the maximum of its scores, p = exp(score - max), sum = all p in 16 f32 lanes by position, mix = p * v;
/// then [`merge`] in order, and out = mix / sum as a product with 1 / sum. Over f16, score = (q . k) * scale with the product in
/// one f32 sum, p is rounded to f16, and mix is one f32 sum an element: products of f16 values are exact in f32, so that fusing them
/// with the addition changes nothing. Over codes, the sums are of integers, which is exact in any order: with q' of
/// [`quantize_query`], score = (q' . k') times `q_scale`, `k_scale` and scale; w = p times `v_scale` is rounded to multiples of
/// unit = max(w) / 32767, so that mix = unit times the sum of (w / unit) v'.
pub fn attention(q: &[f32], k: &Cached, v: &Cached, len: usize, scale: f32, out: &mut [f32]) {
    let d = q.len();
    let mut query = vec![0; d];
    let q_scale = quantize_query(q, &mut query);
    let score = |t: usize| {
        scale
            * match k {
                Cached::F16(k) => q.iter().zip(&k[t * d..]).fold(0f32, |s, (q, k)| s + q * k),
                Cached::Q8_0(k, scales) => {
                    let products = query.iter().zip(&k[t * d..]);
                    let sum: i32 = products.map(|(&q, &k)| i32::from(q) * i32::from(k)).sum();
                    sum as f32 * q_scale * scales[t]
                }
            }
    };
    let (mut max, mut sum) = (f32::NAN, f32::NAN);
    let mut mix = vec![0.0; d];
    for first in (0..len).step_by(BLOCK) {
        let block = first..len.min(first + BLOCK);
        let mut p: Vec<f32> = block.clone().map(score).collect();
        let top = p.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
        p.iter_mut().for_each(|p| *p = exp(*p - top));
        out.fill(0.0);
        match v {
            Cached::F16(v) => {
                p.iter_mut().for_each(|p| *p = f16::from_f32(*p).to_f32());
                for (p, t) in p.iter().zip(block) {
                    out.iter_mut().zip(&v[t * d..]).for_each(|(o, v)| *o += p * v);
                }
            }
            Cached::Q8_0(v, scales) => {
                let weights: Vec<f32> = p.iter().zip(&scales[first..]).map(|(p, scale)| p * scale).collect();
                let most = weights.iter().fold(WEIGHT_MIN, |m, &w| m.max(w));
                let mut sums = vec![0; d];
                for (w, t) in weights.iter().zip(block) {
                    let w = round(w * (32767.0 / most));
                    sums.iter_mut()
                        .zip(&v[t * d..])
                        .for_each(|(s, &v)| *s += w * i32::from(v));
                }
                let unit = most / 32767.0;
                out.iter_mut().zip(sums).for_each(|(o, s)| *o = s as f32 * unit);
            }
        }
        let mut lanes = [0f32; 16];
        p.iter().enumerate().for_each(|(t, p)| lanes[t % 16] += p);
        if first == 0 {
            (max, sum) = (top, fold(lanes));
            mix.copy_from_slice(out);
        } else {
            merge((&mut max, &mut sum, &mut mix), (top, fold(lanes), out));
        }
    }
    let inverse = 1.0 / sum;
    out.iter_mut().zip(&mix).for_each(|(o, m)| *o = m * inverse);
}

/// Joins attention over later positions: (max, sum, mix (d)) of each. Both are scaled to the greater maximum, then added.
pub fn merge((max, sum, mix): (&mut f32, &mut f32, &mut [f32]), (next_max, next_sum, next_mix): (f32, f32, &[f32])) {
    let top = max.max(next_max);
    let (a, b) = (exp(*max - top), exp(next_max - top));
    *max = top;
    *sum = *sum * a + next_sum * b;
    mix.iter_mut().zip(next_mix).for_each(|(m, n)| *m = *m * a + n * b);
}

/// The code (6 bits) of weight `col` in a row of the coarse head: blocks of 256 codes, 32 k + i for field k of i, in 96 words.
pub fn coarse_code(row: &[u8], col: usize) -> u16 {
    let (block, k, i) = (col / 256, col % 256 / 32, col % 32);
    let word = |which: usize| {
        u16::from_le_bytes([
            row[192 * block + 64 * which + 2 * i],
            row[192 * block + 64 * which + 2 * i + 1],
        ])
    };
    match k {
        0..3 => word(k) & 63,
        3..6 => word(k - 3) >> 10,
        6 => word(0) >> 6 & 15 | word(1) >> 2 & 48,
        _ => word(2) >> 6 & 15 | word(1) >> 4 & 48,
    }
}

/// The other 2 bits of it, in their row: 32 words for a block.
pub fn fine_code(row: &[u8], col: usize) -> u16 {
    let (block, k, i) = (col / 256, col % 256 / 32, col % 32);
    u16::from_le_bytes([row[64 * block + 2 * i], row[64 * block + 2 * i + 1]]) >> (2 * k) & 3
}

/// y\[r\] = sum over c of code(r, c) * x\[c\]. Codes (rows, cols) as `code` finds them, x (cols) -> y (rows).
pub fn head_codes(w: &[u8], code: impl Fn(&[u8], usize) -> u16, x: &[i16], y: &mut [i32]) {
    for (row, y) in w.chunks_exact(w.len() / y.len()).zip(y) {
        *y = x
            .iter()
            .enumerate()
            .map(|(c, &x)| i32::from(code(row, c)) * i32::from(x))
            .sum();
    }
}

/// One row of a Q8_0 matrix, dequantised: blocks of 32 in 34 bytes, f16 scale d then 32 x i8; w = d * q.
pub fn q8_0_row(row: &[u8], out: &mut [f32]) {
    for (block, out) in row.chunks_exact(34).zip(out.chunks_exact_mut(32)) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (o, &q) in out.iter_mut().zip(&block[2..]) {
            *o = d * f32::from(q as i8);
        }
    }
}

/// One row of a Q6_K matrix, dequantised: blocks of 256 in 210 bytes, ql\[128\], qh\[64\], i8 sub-scales\[16\], f16 d;
/// w = (d * sub-scale) * (code - 32).
pub fn q6_k_row(row: &[u8], out: &mut [f32]) {
    for (block, out) in row.chunks_exact(210).zip(out.chunks_exact_mut(256)) {
        let (ql, qh, sub) = (&block[..128], &block[128..192], &block[192..208]);
        let d = f16::from_le_bytes([block[208], block[209]]).to_f32();
        for (i, o) in out.iter_mut().enumerate() {
            let (half, quarter, lane) = (i / 128, i / 32 % 4, i % 32);
            let low = ql[half * 64 + quarter % 2 * 32 + lane] >> (4 * (quarter / 2)) & 15;
            let high = qh[half * 32 + lane] >> (2 * quarter) & 3;
            let code = i32::from(low | high << 4) - 32;
            *o = d * f32::from(sub[i / 16] as i8) * code as f32;
        }
    }
}

/// One row of a matrix of f32.
pub fn f32_row(row: &[u8], out: &mut [f32]) {
    for (o, b) in out.iter_mut().zip(row.chunks_exact(4)) {
        *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    }
}

/// One row of a matrix of f16, widened.
pub fn f16_row(row: &[u8], out: &mut [f32]) {
    for (o, b) in out.iter_mut().zip(row.chunks_exact(2)) {
        *o = f16::from_le_bytes([b[0], b[1]]).to_f32();
    }
}
