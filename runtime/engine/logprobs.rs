//! How likely tokens are to the model: the log-softmax over all logits, at temperature 1 and before any filter, as OpenAI documents
//! it and llama-server computes it.
//!
//! In f64, with libm's functions and added up in the order of the ids: the same bits on every CPU, whatever the threads.

use super::head::best_of;

/// From the logits of a row to the logarithms of their probabilities.
#[derive(Debug, Clone, Copy)]
pub struct LogSoftmax {
    max: f64,
    /// log(sum of exp(logit - max))
    log_sum: f64,
}

impl LogSoftmax {
    /// Over the logits (vocab), which are finite.
    pub fn new(logits: &[f32]) -> Self {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum = logits
            .iter()
            .fold(0.0, |sum, &logit| sum + libm::exp(f64::from(logit) - max));
        LogSoftmax {
            max,
            log_sum: libm::log(sum),
        }
    }

    /// Of the token with this logit, in nats: 0 or less.
    pub fn of(self, logit: f32) -> f64 {
        (f64::from(logit) - self.max) - self.log_sum
    }
}

/// What a request that asks for log-probabilities is told of each token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the generated token.
    pub chosen: f64,
    /// The most likely tokens in its place with theirs, the most likely first, the lower id first among equals.
    pub top: Vec<(u32, f64)>,
}

impl Logprobs {
    /// Of token `chosen` and the `top` most likely, from finite logits (vocab).
    pub fn new(logits: &[f32], chosen: u32, top: usize) -> Self {
        let softmax = LogSoftmax::new(logits);
        let mut best = Vec::new();
        if top > 0 {
            best_of(logits, top.min(logits.len()), &mut best);
        }
        Logprobs {
            chosen: softmax.of(logits[chosen as usize]),
            top: best.iter().map(|c| (c.id, softmax.of(c.value))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values, so that ties are common.
        let value = prop_oneof![8 => -20.0f32..20.0, 8 => (-4i8..4).prop_map(f32::from), 1 => Just(-0.0)];
        prop::collection::vec(value, 1..700)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_top_is_the_head_of_everything_in_order(logits in logits(), chosen: prop::sample::Index, top in 0usize..800) {
            let id = chosen.index(logits.len());
            let all = Logprobs::new(&logits, id as u32, logits.len());
            let softmax = LogSoftmax::new(&logits);
            let mut sorted: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&logit| softmax.of(logit))).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            prop_assert_eq!(&all.top, &sorted);
            prop_assert_eq!(all.chosen, softmax.of(logits[id]));
            let some = Logprobs::new(&logits, id as u32, top);
            prop_assert_eq!(&some.top[..], &sorted[..top.min(sorted.len())]);
            prop_assert_eq!(some.chosen, all.chosen);
        }

        #[test]
        fn probabilities_add_up_to_one(logits in logits()) {
            let softmax = LogSoftmax::new(&logits);
            let sum: f64 = logits.iter().map(|&logit| softmax.of(logit).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-12, "{}", sum);
        }
    }

    #[test]
    fn the_scale_of_finite_logits_does_not_matter() {
        let even = [5.0f32; 4];
        assert_eq!(LogSoftmax::new(&even).of(5.0), -libm::log(4.0));
        for offset in [0.0, 80.0, -3e38f32] {
            let logits = [1.0f32, -2.0, 0.5].map(|x| x + offset);
            let softmax = LogSoftmax::new(&logits);
            let sum: f64 = logits.iter().map(|&logit| softmax.of(logit).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{offset}: {sum}");
        }
        let far = LogSoftmax::new(&[f32::MAX, -f32::MAX]);
        assert_eq!(far.of(f32::MAX), 0.0);
        assert!(far.of(-f32::MAX).is_finite(), "JSON has no infinity");
    }
}
