//! Whether a candidate is faster: a decision about ratios of paired timings that noise alone would hardly produce.
//!
//! Nothing is assumed of the noise but that it treats both of a pair alike: the interval is that of the median's order
//! statistics. What the machine makes of no difference at all, the plan against itself, has to be exceeded on top.

use crate::stats::median;

/// Seconds of the plan and of the candidate, a pair.
pub type Pair = (f64, f64);

/// How sure an interval's ends are, each.
const ERROR: f64 = 0.01;
/// A gain below this is not worth a knob of its own.
const LEAST_GAIN: f64 = 0.005;

/// How many times as fast the candidate is.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Ratio {
    /// Median of the pairs.
    pub median: f64,
    /// Below it the true median lies with a probability of 1 %.
    pub low: f64,
    /// Above it, likewise.
    pub high: f64,
}

impl Ratio {
    /// Of plan / candidate; `None` with too few pairs to say anything.
    pub fn of(pairs: &[Pair]) -> Option<Ratio> {
        let mut ratios: Vec<f64> = pairs.iter().map(|(plan, candidate)| plan / candidate).collect();
        if ratios.iter().any(|ratio| !ratio.is_finite()) {
            return None;
        }
        ratios.sort_by(f64::total_cmp);
        let outside = outside(ratios.len())?;
        Some(Ratio {
            median: median(&ratios),
            low: ratios[outside],
            high: ratios[ratios.len() - 1 - outside],
        })
    }

    /// How far it is from no difference, at worst.
    fn bias(&self) -> f64 {
        (self.high - 1.0).max(1.0 - self.low).max(0.0)
    }

    /// Half of the interval.
    pub fn spread(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// How many of `n` sorted values lie below the median's interval: the largest k with P(at most k of n coins) <= ERROR.
fn outside(n: usize) -> Option<usize> {
    let mut term = 0.5f64.powi(i32::try_from(n).ok()?);
    let mut sum = 0.0;
    let mut found = None;
    for k in 0..n / 2 {
        sum += term;
        if sum > ERROR {
            break;
        }
        found = Some(k);
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    found
}

/// The decision, with its reason.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Faster beyond noise.
    Faster(Ratio),
    /// Not, or not surely.
    Keep {
        /// Where there were enough pairs.
        ratio: Option<Ratio>,
        /// Why the plan stays.
        reason: String,
    },
}

/// Judges `pairs`, beside the plan against itself.
pub fn judge(pairs: &[Pair], control: &[Pair]) -> Verdict {
    let (Some(ratio), Some(control)) = (Ratio::of(pairs), Ratio::of(control)) else {
        return Verdict::Keep {
            ratio: None,
            reason: format!("{} and {} pairs say nothing: more --rounds", pairs.len(), control.len()),
        };
    };
    let noise = control.bias().max(LEAST_GAIN);
    if ratio.low - 1.0 > noise {
        return Verdict::Faster(ratio);
    }
    let reason = if ratio.high < 1.0 {
        "slower".to_owned()
    } else {
        format!("within the noise of {:.1} %", noise * 100.0)
    };
    Verdict::Keep {
        ratio: Some(ratio),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs with this ratio, each disturbed by up to `noise`, the machine's speed drifting by a factor of two.
    fn pairs(ratio: f64, noise: f64, n: usize) -> Vec<Pair> {
        let wave = |i: usize, k: usize| ((i * k % 101) as f64 / 50.0 - 1.0) * noise;
        let machine = |i: usize| 1.0 + (i % 17) as f64 / 17.0;
        let pair = |i| {
            (
                machine(i) * ratio * (1.0 + wave(i, 37)),
                machine(i) * (1.0 + wave(i, 53)),
            )
        };
        (0..n).map(pair).collect()
    }

    #[test]
    fn a_gain_beyond_the_noise_is_found_and_measured() {
        let Verdict::Faster(ratio) = judge(&pairs(1.06, 0.02, 40), &pairs(1.0, 0.02, 40)) else {
            panic!("6 % are more than 2 % of noise")
        };
        assert!((ratio.median - 1.06).abs() < 0.02, "{ratio:?}");
        assert!(ratio.low < ratio.median && ratio.median < ratio.high);
    }

    #[test]
    fn a_gain_within_the_noise_is_rejected() {
        for (ratio, noise) in [(1.0, 0.02), (1.004, 0.0001), (1.02, 0.1), (0.9, 0.02)] {
            let verdict = judge(&pairs(ratio, noise, 40), &pairs(1.0, noise, 40));
            assert!(matches!(verdict, Verdict::Keep { .. }), "{ratio} {noise}: {verdict:?}");
        }
        // The plan seems to gain 5 % on itself: 4 % of a candidate mean nothing.
        let verdict = judge(&pairs(1.04, 0.001, 40), &pairs(1.05, 0.001, 40));
        assert!(
            matches!(&verdict, Verdict::Keep { reason, .. } if reason.contains("within the noise")),
            "{verdict:?}"
        );
        let verdict = judge(&pairs(0.8, 0.01, 40), &pairs(1.0, 0.01, 40));
        assert!(
            matches!(&verdict, Verdict::Keep { reason, .. } if reason == "slower"),
            "{verdict:?}"
        );
    }

    #[test]
    fn a_few_wild_pairs_decide_nothing() {
        let mut wild = pairs(1.0, 0.001, 40);
        wild[..8].iter_mut().for_each(|pair| pair.0 *= 10.0);
        assert!(matches!(judge(&wild, &pairs(1.0, 0.001, 40)), Verdict::Keep { .. }));
    }

    #[test]
    fn too_few_pairs_say_nothing() {
        for n in 0..7 {
            let verdict = judge(&pairs(2.0, 0.001, n), &pairs(1.0, 0.001, 40));
            assert!(matches!(verdict, Verdict::Keep { ratio: None, .. }), "{n}");
        }
        assert!(matches!(
            judge(&pairs(2.0, 0.001, 7), &pairs(1.0, 0.001, 7)),
            Verdict::Faster(_)
        ));
        assert_eq!(Ratio::of(&[(1.0, 0.0); 20]), None, "no time at all");
    }

    #[test]
    fn the_interval_is_that_of_the_binomial_distribution() {
        // P(0 of 7) = 1/128 < 1 %, P(0 of 6) = 1/64; of 20: P(<= 4) = 0.59 %, P(<= 5) = 2.07 %.
        assert_eq!([6, 7, 20].map(outside), [None, Some(0), Some(4)]);
    }
}
