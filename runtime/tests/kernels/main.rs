//! Every compiled kernel against the scalar reference, with `==`: edge shapes, extremes, random cases.
//!
//! Iterates the variants of this build. One that this CPU cannot run is a printed SKIP, never silently dropped; the
//! other architecture's levels run under emulation in CI, and so do those of AVX-512 where its CPU lacks them.

mod attention;
mod head;
#[path = "../levels.rs"]
mod levels;
mod linear;
mod sparse;

use half::f16;
use sterna::kernels::{QuantRows, Variant, reference, variants};
use sterna::machine::cpu::Machine;
use sterna::machine::pool::Pool;
use sterna::model::Bytes;

/// The variants that this CPU runs, and a fixed set of pools.
fn each(test: impl Fn(&'static Variant, &Pool)) {
    let features = Machine::detect().features;
    for variant in variants() {
        if !levels::testable(variant.name, variant.features, variant.runs_on(&features)) {
            continue;
        }
        for &threads in levels::threads() {
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

            let quantized = |rows: &[f32]| {
                let mut out = QuantRows::default();
                variant.quantize(pool, rows, n, &mut out);
                out
            };
            let mut out = QuantRows::default();
            variant.norm_quantize(pool, &x, &y[..n], 1e-5, &mut out);
            assert_eq!(out, quantized(&expected), "norm_quantize {n} {}", variant.name);

            let mut inner = x.clone();
            reference::relu2_mul(&x, &y, &mut inner);
            for (x, e) in inner.chunks_exact(n).zip(expected.chunks_exact_mut(n)) {
                reference::rmsnorm(x, &y[..n], 1e-5, e);
            }
            variant.gated_norm_quantize(pool, (&x, &y), &y[..n], 1e-5, &mut out);
            assert_eq!(out, quantized(&expected), "gated_norm_quantize {n} {}", variant.name);
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
