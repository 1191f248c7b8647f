//! From logits to the next token.
//!
//! The same seed gives the same tokens on every machine: the generator's output is part of its definition, the
//! exponential is computed by operations that every CPU rounds alike, and candidates have one order.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

use super::head::{Candidate, Logits, Need};
use crate::kernels::reference::exp;

/// How the next token is chosen.
///
/// Temperature 0 is greedy. Otherwise the filters apply in the order `top_k`, `top_p`, `min_p` to the model's own
/// distribution, and the temperature to what they leave, as in llama.cpp.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 = greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 = all.
    pub top_k: usize,
    /// Keep the smallest set whose probability reaches this; 1 = all.
    pub top_p: f32,
    /// Drop tokens less likely than this times the most likely; 0 = none.
    pub min_p: f32,
    /// Same seed, same request, same tokens, on every machine.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token, always.
    pub fn greedy() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
        }
    }

    /// Checks the ranges; the error names the parameter.
    pub fn validate(&self) -> Result<(), InvalidSampling> {
        let check = |ok: bool, name, value, range| match ok {
            true => Ok(()),
            false => Err(InvalidSampling { name, value, range }),
        };
        let t = self.temperature;
        check(
            t.is_finite() && t >= 0.0,
            "temperature",
            t,
            "a finite number, 0 or more",
        )?;
        check(
            (0.0..=1.0).contains(&self.top_p),
            "top_p",
            self.top_p,
            "between 0 and 1",
        )?;
        check(
            (0.0..=1.0).contains(&self.min_p),
            "min_p",
            self.min_p,
            "between 0 and 1",
        )
    }
}

/// A sampling parameter outside of its range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{name} must be {range}, not {value}")]
pub struct InvalidSampling {
    /// The parameter, as requests spell it.
    pub name: &'static str,
    value: f32,
    range: &'static str,
}

/// Chooses the tokens of one request.
pub struct Sampler {
    sampling: Sampling,
    rng: Pcg64Mcg,
    /// Tokens still in the choice, re-used from token to token.
    candidates: Vec<Candidate>,
}

/// The most likely first; the lower id first among equals, zeros of either sign included.
fn by_likelihood(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    (b.value + 0.0).total_cmp(&(a.value + 0.0)).then(a.id.cmp(&b.id))
}

impl Sampler {
    /// A sampler over `vocab` tokens, at the beginning of its random sequence.
    pub fn new(mut sampling: Sampling, vocab: usize) -> Self {
        // As many as all is no limit. Said here, where nobody knows yet how many logits there will be: a filter decides in which
        // order the candidates are, and so what a seed gives.
        if sampling.top_k >= vocab {
            sampling.top_k = 0;
        }
        Sampler {
            rng: Pcg64Mcg::seed_from_u64(sampling.seed),
            sampling,
            candidates: Vec::new(),
        }
    }

    /// What it needs of the logits.
    pub fn need(&self) -> Need {
        /// What rounding can move e^x: 1 %, where it is 2e-7 (tested with the kernels).
        const ROUNDING: f64 = 0.01;
        let top = |top, margin| Need::Candidates { top, margin };
        let &Sampling {
            top_k, top_p, min_p, ..
        } = &self.sampling;
        match top_k {
            _ if self.sampling.temperature == 0.0 => top(1, 0.0),
            // The filters that follow look at nothing but what this one leaves.
            k if k > 0 => top(k, 0.0),
            // exp(logit - largest) >= min_p
            _ if top_p >= 1.0 && min_p > 0.0 => top(1, (ROUNDING - libm::log(min_p.into())) as f32),
            _ => Need::All,
        }
    }

    /// The next token, from finite logits: all of them, or those that [`Sampler::need`] asks for. Both give the same token.
    pub fn sample(&mut self, logits: Logits<'_>) -> u32 {
        let best = match logits {
            Logits::All(logits) => {
                let id = argmax(logits);
                let value = logits[id as usize];
                Candidate { id, value }
            }
            Logits::Candidates(some) => first_best(some),
        };
        if self.sampling.temperature == 0.0 {
            return best.id;
        }
        let max = best.value;
        match logits {
            Logits::All(logits) => {
                self.keep_top_k((0..).zip(logits).map(|(id, &value)| Candidate { id, value }));
            }
            Logits::Candidates(some) => self.keep_top_k(some.iter().copied()),
        }
        self.keep_top_p(max);
        if self.sampling.min_p > 0.0 {
            let min_p = self.sampling.min_p;
            self.candidates.retain(|c| exp(c.value - max) >= min_p);
        }
        self.draw(max)
    }

    /// Fills the candidates with the `top_k` most likely, in that order; with all, by id, when that is 0.
    fn keep_top_k(&mut self, all: impl Iterator<Item = Candidate>) {
        let k = self.sampling.top_k;
        let candidates = &mut self.candidates;
        candidates.clear();
        if k == 0 {
            candidates.extend(all);
            return;
        }
        let mut best = Best::new(k, candidates);
        all.for_each(|candidate| best.offer(candidate));
        best.finish();
    }

    /// Keeps the most likely candidates up to a probability of `top_p` among them, and puts them in order.
    fn keep_top_p(&mut self, max: f32) {
        let top_p = f64::from(self.sampling.top_p);
        if top_p >= 1.0 {
            return;
        }
        let candidates = &mut self.candidates;
        let weight = |c: &Candidate| f64::from(exp(c.value - max));
        let needed = top_p * candidates.iter().map(weight).sum::<f64>();
        // Sort as much as is needed and no more: a few hundred tokens usually hold nearly all of the probability.
        let (mut sorted, mut sum) = (0, 0.0);
        while sorted < candidates.len() {
            let rest = &mut candidates[sorted..];
            let block = (4 * sorted).max(128).min(rest.len());
            if block < rest.len() {
                rest.select_nth_unstable_by(block, by_likelihood);
            }
            rest[..block].sort_unstable_by(by_likelihood);
            for (i, candidate) in rest[..block].iter().enumerate() {
                sum += weight(candidate);
                if sum >= needed {
                    candidates.truncate(sorted + i + 1);
                    return;
                }
            }
            sorted += block;
        }
    }

    /// Draws one candidate, with probability proportional to exp(logit / temperature).
    fn draw(&mut self, max: f32) -> u32 {
        let mut sum = 0.0;
        for candidate in &mut self.candidates {
            candidate.value = exp((candidate.value - max) / self.sampling.temperature);
            sum += f64::from(candidate.value);
        }
        let mut left = self.uniform() * sum;
        for candidate in &self.candidates {
            left -= f64::from(candidate.value);
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding can leave a trace after the last one.
        let last = self.candidates.iter().rfind(|c| c.value > 0.0);
        last.expect("the most likely token is never dropped and weighs 1").id
    }

    /// Uniform in \[0, 1), with 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Collects the `k` most likely of the candidates that it is offered, in one pass and a few selections among 2 k.
pub(super) struct Best<'a> {
    k: usize,
    kept: &'a mut Vec<Candidate>,
    /// Only candidates beyond this need to be offered.
    pub bar: f32,
}

impl<'a> Best<'a> {
    /// Collects into `kept`, after emptying it. `k` is at least 1.
    pub fn new(k: usize, kept: &'a mut Vec<Candidate>) -> Self {
        kept.clear();
        let bar = f32::NEG_INFINITY;
        Best { k, kept, bar }
    }

    /// By ascending id, so that an equal value of a higher id never displaces one that is kept.
    pub fn offer(&mut self, candidate: Candidate) {
        if candidate.value > self.bar {
            self.kept.push(candidate);
            // Collect twice as many, halve, and from then on take only what beats the worst one kept.
            if self.kept.len() == 2 * self.k {
                self.kept.select_nth_unstable_by(self.k - 1, by_likelihood);
                self.kept.truncate(self.k);
                self.bar = self.kept[self.k - 1].value;
            }
        }
    }

    /// Leaves the `k` most likely, sorted: their order does not depend on how the selection works.
    pub fn finish(self) {
        self.kept.sort_unstable_by(by_likelihood);
        self.kept.truncate(self.k);
    }
}

/// The first of the largest.
fn first_best(candidates: &[Candidate]) -> Candidate {
    let best = candidates
        .iter()
        .copied()
        .reduce(|best, c| if c.value > best.value { c } else { best });
    best.expect("at least one candidate")
}

/// The first of the largest logits.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &x) in logits.iter().enumerate() {
        if x > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tokens that may be drawn, by sorting everything.
    fn allowed(logits: &[f32], sampling: &Sampling) -> Vec<u32> {
        let max = logits[argmax(logits) as usize];
        let mut all: Vec<Candidate> = (0..).zip(logits).map(|(id, &value)| Candidate { id, value }).collect();
        all.sort_by(by_likelihood);
        if sampling.top_k > 0 {
            all.truncate(sampling.top_k);
        }
        let weight = |c: &Candidate| f64::from(exp(c.value - max));
        if sampling.top_p < 1.0 {
            let needed = f64::from(sampling.top_p) * all.iter().map(weight).sum::<f64>();
            let mut sum = 0.0;
            let keep = all.iter().position(|c| {
                sum += weight(c);
                // Summed in another order than in the sampler: allow for rounding.
                sum >= needed + 1e-9
            });
            all.truncate(keep.map_or(all.len(), |i| i + 1));
        }
        all.retain(|c| exp(c.value - max) >= sampling.min_p * 0.999_999);
        all.iter().map(|c| c.id).collect()
    }

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values, so that ties are common.
        let value = prop_oneof![8 => -20.0f32..20.0, 8 => (-4i8..4).prop_map(f32::from), 1 => Just(-0.0)];
        prop::collection::vec(value, 1..700)
    }

    fn sampling() -> impl Strategy<Value = Sampling> {
        (0.01f32..5.0, 0usize..60, 0.0f32..=1.2, 0.0f32..1.0, any::<u64>()).prop_map(|(temperature, k, p, m, seed)| {
            Sampling {
                temperature,
                top_k: k,
                top_p: p.min(1.0),
                min_p: if m > 0.5 { 0.0 } else { m },
                seed,
            }
        })
    }

    /// Draws from all logits and from the needed ones, with those beside whose bit is set in `extra`.
    fn compare_all_with_needed(logits: &[f32], sampling: Sampling, extra: u64) -> Result<(), TestCaseError> {
        let sampler = || Sampler::new(sampling.clone(), logits.len());
        if let Need::Candidates { top, margin } = sampler().need() {
            let mut sorted = logits.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let least = sorted[top - 1] - margin;
            let all = (0u32..).zip(logits).map(|(id, &value)| Candidate { id, value });
            let some = all.filter(|c| c.value >= least || extra >> (c.id % 64) & 1 == 1);
            let some: Vec<Candidate> = some.collect();
            let (mut a, mut b) = (sampler(), sampler());
            for _ in 0..10 {
                prop_assert_eq!(a.sample(Logits::All(logits)), b.sample(Logits::Candidates(&some)));
            }
        } else {
            prop_assert!(sampling.top_k == 0 || sampling.top_k >= logits.len());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn only_allowed_tokens_are_drawn(logits in logits(), sampling in sampling()) {
            let allowed = allowed(&logits, &sampling);
            let mut sampler = Sampler::new(sampling, logits.len());
            for _ in 0..20 {
                let id = sampler.sample(Logits::All(&logits));
                prop_assert!(allowed.contains(&id), "{id} of {allowed:?}");
            }
        }

        #[test]
        fn greedy_takes_the_first_maximum(logits in logits()) {
            let id = Sampler::new(Sampling::greedy(), logits.len()).sample(Logits::All(&logits)) as usize;
            prop_assert!(logits[..id].iter().all(|&x| x < logits[id]));
            prop_assert!(logits[id..].iter().all(|&x| x <= logits[id]));
        }

        #[test]
        fn one_candidate_is_the_greedy_choice(logits in logits(), seed: u64) {
            let greedy = argmax(&logits);
            let narrow = |top_k, top_p, min_p| Sampling { temperature: 2.0, top_k, top_p, min_p, seed };
            prop_assert_eq!(Sampler::new(narrow(1, 1.0, 0.0), logits.len()).sample(Logits::All(&logits)), greedy);
            prop_assert_eq!(Sampler::new(narrow(0, 0.0, 0.0), logits.len()).sample(Logits::All(&logits)), greedy);
            let best = Sampler::new(narrow(0, 1.0, 1.0), logits.len()).sample(Logits::All(&logits));
            prop_assert_eq!(logits[best as usize], logits[greedy as usize]);
        }

        /// Whatever more than the needed tokens may be among the candidates.
        #[test]
        fn the_needed_candidates_give_the_token_that_all_logits_give(
            logits in logits(), sampling in sampling(), greedy: bool, p: bool, extra: u64
        ) {
            let temperature = if greedy { 0.0 } else { sampling.temperature };
            let top_p = if p { sampling.top_p } else { 1.0 };
            let sampling = Sampling { temperature, top_p, ..sampling };
            compare_all_with_needed(&logits, sampling, extra)?;
        }

        #[test]
        fn a_seed_repeats_itself(logits in logits(), sampling in sampling()) {
            let draw = || {
                let mut sampler = Sampler::new(sampling.clone(), logits.len());
                [(); 10].map(|()| sampler.sample(Logits::All(&logits)))
            };
            prop_assert_eq!(draw(), draw());
        }
    }

    /// A limit of all tokens or more must not put some in order by likelihood, and all by id.
    #[test]
    fn a_limit_that_limits_nothing_changes_no_order() {
        let cases: [&[f32]; 3] = [&[1.0, 2.0], &[0.0, -0.0, 0.0, -0.0], &[-1.0, 3.0, 2.5, 3.0]];
        for logits in cases {
            for (top_k, top_p, seed) in
                (0..=logits.len() + 1).flat_map(|k| (0..40).flat_map(move |s| [(k, 1.0, s), (k, 0.9, s)]))
            {
                let sampling = Sampling {
                    temperature: 1.0,
                    top_k,
                    top_p,
                    min_p: 0.11,
                    seed,
                };
                compare_all_with_needed(logits, sampling, seed).unwrap();
            }
        }
    }

    /// Drawn once and written down: a change here changes what users' seeds give.
    #[test]
    fn seeds_give_the_same_tokens_for_ever() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 100.0).collect();
        let draw = |top_k, top_p, min_p, seed| {
            let temperature = 0.8;
            let mut sampler = Sampler::new(
                Sampling {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    seed,
                },
                logits.len(),
            );
            [(); 6].map(|()| sampler.sample(Logits::All(&logits)))
        };
        assert_eq!(draw(0, 1.0, 0.0, 1), [865, 149, 482, 729, 371, 568]);
        assert_eq!(draw(40, 0.95, 0.05, 1), [272, 605, 136, 346, 173, 99]);
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.0, 1.0f32, 2.0];
        let mut sampler = Sampler::new(
            Sampling {
                temperature: 1.0,
                ..Sampling::greedy()
            },
            logits.len(),
        );
        let mut counts = [0; 3];
        (0..30_000).for_each(|_| counts[sampler.sample(Logits::All(&logits)) as usize] += 1);
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            let expected = f64::from(logit).exp() / sum;
            assert!((f64::from(*count) / 30_000.0 - expected).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn parameters_outside_their_range_are_named() {
        let message = |change: fn(&mut Sampling)| {
            let mut sampling = Sampling::greedy();
            change(&mut sampling);
            sampling.validate().unwrap_err().to_string()
        };
        assert_eq!(
            message(|s| s.temperature = -1.0),
            "temperature must be a finite number, 0 or more, not -1"
        );
        assert!(message(|s| s.temperature = f32::NAN).starts_with("temperature"));
        assert!(message(|s| s.top_p = 1.5).starts_with("top_p must be between 0 and 1"));
        assert!(message(|s| s.min_p = f32::NAN).starts_with("min_p"));
        assert_eq!(Sampling::greedy().validate(), Ok(()));
    }
}
