//! Whether an `ffn_down` is laid out by columns: by the share of zeros at its input in what was generated last.

use std::sync::atomic::{AtomicU64, Ordering};

/// The share from which columns are skipped: by then it pays with one thread and with two, for one sequence and for several.
///
/// On Zen 3 skipping takes as long as reading everything at 0.6 with one thread and one sequence, at 0.8 with two threads: memory gives leaps of
/// a few hundred bytes at half the rate of one stream (docs/sparse-feed-forward.md). Text has more zeros than the arbitrary tokens that are
/// measured first (the demo model: 0.05 to 0.1).
pub const SPARSE: f64 = 0.82;

/// The share below which columns that are skipped become rows again: about where skipping begins to cost time. The distance to [`SPARSE`]
/// keeps a layer near either from changing to and fro with every sentence.
pub const DENSE: f64 = 0.78;

/// Tokens that the average forgets within, by a factor of e: few enough to follow a change of subject, and enough for the zeros of
/// single tokens not to matter.
const MEMORY: f64 = 256.0;

/// Whether columns are to be skipped at this share of zeros, where they are skipped now or not.
pub fn columns_pay(share: f64, skipped: bool) -> bool {
    share >= if skipped { DENSE } else { SPARSE }
}

/// A share of zeros, averaged over about the last 256 tokens: one thread adds, another looks. Two that add at once may lose an addend,
/// which does no harm.
#[derive(Debug)]
pub struct Zeros(AtomicU64);

impl Zeros {
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

/// Between the thresholds: what was chosen stays until there is evidence.
impl Default for Zeros {
    fn default() -> Self {
        Zeros(DENSE.midpoint(SPARSE).to_bits().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(columns_pay(share, skipped), expected, "{share} {skipped}");
        }
        let start = Zeros::default().share();
        assert!(columns_pay(start, true) && !columns_pay(start, false));
    }

    /// Tokens of this share until the choice changes.
    fn tokens_until_change(share: f64, skipped: bool) -> Option<usize> {
        let zeros = Zeros::default();
        (1..10_000).find(|_| {
            zeros.add(share, 1);
            columns_pay(zeros.share(), skipped) != skipped
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
        let zeros = Zeros::default();
        zeros.add(0.9, 1000);
        assert_eq!(zeros.share(), 0.9, "more than it remembers: nothing else is left");
        zeros.add(0.5, 64);
        assert!((zeros.share() - 0.8).abs() < 1e-9);
    }
}
