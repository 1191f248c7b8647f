//! Whether something of a feed-forward is skipped: by the share of zeros in what was generated last.

use std::sync::atomic::{AtomicU64, Ordering};

/// The shares between which a choice stays as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// From here on zeros are skipped: by then it pays with one thread and with two, for one sequence and for several.
    pub sparse: f64,
    /// Below this they are not any more: about where skipping begins to cost time. The distance keeps a layer near either from changing
    /// to and fro with every sentence.
    pub dense: f64,
}

/// Of the inputs of `ffn_down`, whose columns are skipped.
///
/// On Zen 3 skipping takes as long as reading everything at 0.6 with one thread and one sequence, at 0.8 with two threads: memory gives leaps of
/// a few hundred bytes at half the rate of one stream (docs/sparse-feed-forward.md). Text has more zeros than the arbitrary tokens that are
/// measured first (the demo model: 0.05 to 0.1).
pub const DOWN: Thresholds = Thresholds {
    sparse: 0.82,
    dense: 0.78,
};

/// Of the gates, by which rows of `ffn_up` are skipped.
pub const UP: Thresholds = Thresholds {
    sparse: 0.70,
    dense: 0.66,
};

impl Thresholds {
    /// Whether it pays to skip at this share of zeros, where that is done now or not.
    pub fn pay(&self, share: f64, skipped: bool) -> bool {
        share >= if skipped { self.dense } else { self.sparse }
    }
}

/// Tokens that the average forgets within, by a factor of e: few enough to follow a change of subject, and enough for the zeros of
/// single tokens not to matter.
const MEMORY: f64 = 256.0;

/// A share of zeros, averaged over about the last 256 tokens: one thread adds, another looks. Two that add at once may lose an addend,
/// which does no harm.
#[derive(Debug)]
pub struct Zeros(AtomicU64);

impl Zeros {
    /// Between the thresholds: what was chosen stays until there is evidence.
    pub fn new(thresholds: Thresholds) -> Self {
        Zeros(thresholds.dense.midpoint(thresholds.sparse).to_bits().into())
    }

    /// Adds a pass of `tokens`.
    pub fn add(&self, share: f64, tokens: usize) {
        let average = self.share();
        let weight = (tokens as f64 / MEMORY).min(1.0);
        let average = average + weight * (share - average);
        self.0.store(average.to_bits(), Ordering::Relaxed);
    }

    /// The average.
    pub fn share(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENSE: f64 = DOWN.dense;
    const SPARSE: f64 = DOWN.sparse;

    #[test]
    fn a_choice_stays_between_the_thresholds() {
        let cases = [
            (0.0, false, false),
            (DENSE - 0.01, true, false),
            (DENSE, true, true),
            (SPARSE - 0.01, true, true),
            (SPARSE - 0.01, false, false),
            (SPARSE, false, true),
            (1.0, true, true),
            (f64::NAN, true, false),
            (f64::NAN, false, false),
        ];
        for (share, skipped, expected) in cases {
            assert_eq!(DOWN.pay(share, skipped), expected, "{share} {skipped}");
        }
        for thresholds in [DOWN, UP] {
            let start = Zeros::new(thresholds).share();
            assert!(thresholds.pay(start, true) && !thresholds.pay(start, false));
        }
    }

    /// Tokens of this share until the choice changes.
    fn tokens_until_change(share: f64, skipped: bool) -> Option<usize> {
        let zeros = Zeros::new(DOWN);
        (1..10_000).find(|_| {
            zeros.add(share, 1);
            DOWN.pay(zeros.share(), skipped) != skipped
        })
    }

    #[test]
    fn the_average_follows_within_a_few_hundred_tokens() {
        assert!((15..25).contains(&tokens_until_change(0.5, true).unwrap()));
        assert!((45..70).contains(&tokens_until_change(0.9, false).unwrap()));
        for steady in [0.781, 0.8, 0.819] {
            assert_eq!(tokens_until_change(steady, true), None);
            assert_eq!(tokens_until_change(steady, false), None);
        }
        let zeros = Zeros::new(DOWN);
        zeros.add(0.9, 1000);
        assert_eq!(zeros.share(), 0.9, "more than it remembers: nothing else is left");
        zeros.add(0.5, 64);
        assert!((zeros.share() - 0.8).abs() < 1e-9);
    }
}
