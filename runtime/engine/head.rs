//! The output head: from the rows of a pass to what the sampler needs of their logits.

use std::ops::Range;

use super::forward::{all_finite, grow};
use super::sampling::Best;
use crate::kernels::{Lines, Variant, round_for_head};
use crate::machine::pool::Pool;
use crate::model::{CoarseHead, CoarseToken, Model};

/// What is wanted of a row's logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Need {
    /// Nothing: a row inside of a prompt.
    None,
    /// Every token whose logit is at least the `top`-th largest less `margin`. More than these may come.
    Candidates {
        /// At least 1.
        top: usize,
        /// At least 0.
        margin: f32,
    },
    /// All of them.
    All,
}

/// A token with its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit; the sampler puts the weight in its place that it is drawn with.
    pub value: f32,
}

/// What is known of a row's logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Logits<'a> {
    /// (vocab)
    All(&'a [f32]),
    /// At least those that were needed, by ascending id, at least one.
    Candidates(&'a [Candidate]),
}

impl<'a> Logits<'a> {
    /// The logits (vocab) of a row that needed all of them. Panics for another row.
    pub fn all(self) -> &'a [f32] {
        match self {
            Logits::All(logits) => logits,
            Logits::Candidates(_) => panic!("a row that needs all of its logits"),
        }
    }
}

/// The output head, its buffers grown to the largest pass so far. Shapes with m = rows that want logits.
#[derive(Default)]
pub struct Head {
    rest: Rest,
    /// Rows that want logits (m), ascending.
    wanted: Vec<usize>,
    /// What was found for each (m).
    found: Vec<Found>,
    /// Their residual stream (m, hidden).
    x: Vec<f32>,
    /// The same, normalised and rounded (m, hidden).
    h: Vec<f32>,
    /// (m, vocab)
    logits: Vec<f32>,
    /// Of all rows, one after the other.
    candidates: Vec<Candidate>,
    /// Of the coarse pass: activations as integers (m, padded hidden).
    q: Lines<i16>,
    /// (m); empty after a pass that did not read the codes.
    tokens: Vec<CoarseToken>,
    /// Sums over coarse codes (m, vocab).
    sums: Vec<i32>,
    /// Intervals of the logits (m, vocab).
    lower: Vec<f32>,
    /// (m, vocab)
    upper: Vec<f32>,
    /// Tokens to look at again, and their logits or the ends of their intervals.
    ids: Vec<u32>,
    values: Vec<f32>,
    /// Rows of W whose fine codes the last pass read, for all of its tokens.
    refined: usize,
    /// The likeliest by their intervals.
    best: Vec<Candidate>,
}

/// Passes that go without the coarse head, because it did not help.
#[derive(Default)]
struct Rest {
    /// How many, since the last one that did not help.
    passes: u32,
    /// How many of them are still to come.
    left: u32,
}

impl Rest {
    /// Whether this pass is none of them.
    fn is_over(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// The rest after a pass that the coarse head did or did not help. Where it was no use, it probably will not be next time: it is asked ever
    /// more seldom.
    fn after(&mut self, helped: bool) {
        self.passes = if helped { 0 } else { (2 * self.passes).clamp(2, 64) };
        self.left = self.passes;
    }
}

/// Where a row's logits are.
enum Found {
    /// All of them, in row i of the logits.
    All(usize),
    /// Some of them.
    Candidates(Range<usize>),
}

impl Head {
    /// Candidates of the last pass, all of which were computed from their rows of the F16 head.
    pub fn rescored(&self) -> usize {
        self.candidates.len()
    }

    /// Rows of which the last pass computed all logits.
    pub fn whole_rows(&self) -> usize {
        let whole = |found: &&Found| matches!(found, Found::All(_));
        self.found.iter().filter(whole).count()
    }

    /// Bytes that the last pass read, of them in memory of our own. Of a pass without logits, those of the next one at least.
    pub fn traffic(&self, model: &Model) -> (usize, usize) {
        let w = &model.embedding;
        let mapped = model.mapping.is_mapped();
        let whole = self.whole_rows() > 0;
        let Some(coarse) = model.coarse.get().filter(|_| !whole || !self.tokens.is_empty()) else {
            return (w.data.len(), if mapped { 0 } else { w.data.len() });
        };
        let codes = coarse.bytes(self.refined);
        let whole = if whole { w.data.len() } else { 0 };
        (
            codes + whole + self.rescored() * w.row_bytes(),
            codes + if mapped { 0 } else { whole },
        )
    }

    /// logits = token_embd @ rms(x) for the rows of x (n, hidden) that want them, all or those that are needed. `rows` (n) are their
    /// indices in the pass, ascending, and what each wants. A row with a logit that is not finite is marked in `broken`.
    pub fn run(
        &mut self,
        kernels: &Variant,
        pool: &Pool,
        model: &Model,
        x: &[f32],
        rows: impl Iterator<Item = (usize, Need)> + Clone,
        broken: &mut [bool],
    ) {
        let hidden = model.config.hidden;
        self.found.clear();
        self.candidates.clear();
        self.refined = 0;
        self.tokens.clear();
        self.wanted.clear();
        let wants = |need: Need| need != Need::None;
        self.wanted
            .extend(rows.clone().filter(|(_, need)| wants(*need)).map(|(r, _)| r));
        let m = self.wanted.len();
        if m == 0 {
            return;
        }
        let gathered = grow(&mut self.x, m * hidden);
        let wanted = x
            .chunks_exact(hidden)
            .zip(rows.clone())
            .filter(|(_, (_, need))| wants(*need));
        for (to, (x, _)) in gathered.chunks_exact_mut(hidden).zip(wanted) {
            to.copy_from_slice(x);
        }
        let h = grow(&mut self.h, m * hidden);
        kernels.rmsnorm(pool, gathered, &model.output_norm, model.config.rms_eps, h);
        round_for_head(&model.embedding, h);

        let needs = rows.map(|(_, need)| need).filter(|need| wants(*need));
        if let Some(coarse) = model.coarse.get()
            && self.coarse_helps(model, needs.clone())
        {
            self.run_coarse(kernels, pool, model, coarse, needs);
        }
        if self.found.is_empty() {
            self.found.extend((0..m).map(Found::All));
        }
        self.run_whole(kernels, pool, model, broken);
    }

    /// Whether a pass over the codes can spare one over the F16 head.
    fn coarse_helps(&mut self, model: &Model, mut needs: impl Iterator<Item = Need>) -> bool {
        let few = |need| matches!(need, Need::Candidates { top, .. } if top <= most_candidates(model));
        needs.all(few) && self.rest.is_over()
    }

    /// Finds what the rows need of their logits by intervals; all of a row's where too many of them could be needed. Finds
    /// nothing where a value is not finite: whether the row fails is for the whole head to say.
    fn run_coarse(
        &mut self,
        kernels: &Variant,
        pool: &Pool,
        model: &Model,
        coarse: &CoarseHead,
        needs: impl Iterator<Item = Need>,
    ) {
        let (hidden, vocab, m) = (model.config.hidden, model.config.vocab, self.wanted.len());
        let input = &self.h[..m * hidden];
        if !all_finite(input) {
            return;
        }
        let padded = coarse.padded_cols();
        self.q.resize(m * padded);
        let rows = input.chunks_exact(hidden).zip(self.q.chunks_exact_mut(padded));
        self.tokens.extend(rows.map(|(x, q)| CoarseToken::new(x, q)));
        let sums = grow(&mut self.sums, m * vocab);
        let bounds = (grow(&mut self.lower, m * vocab), grow(&mut self.upper, m * vocab));
        kernels.head_coarse(pool, coarse, &self.tokens, &self.q, sums, bounds);

        // For as many as could come, since how many do is another number in each pass.
        self.ids.clear();
        self.values.clear();
        self.ids.reserve(vocab);
        self.values.reserve(vocab);
        self.candidates.reserve(m * most_candidates(model));
        let mut whole = 0;
        for (i, need) in needs.enumerate() {
            let Need::Candidates { top, margin } = need else {
                unreachable!("checked by `coarse_helps`");
            };
            let x = &input[i * hidden..][..hidden];
            let rescore = |ids: &[u32], exact: &mut Vec<f32>| {
                exact.resize(ids.len(), 0.0);
                kernels.head_rows(pool, &model.embedding, x, ids, exact);
            };
            // No less than `top` rows reach the least logit of any `top` rows: of the best by their lower ends, for instance.
            let of_row = i * vocab..(i + 1) * vocab;
            best_of(&self.lower[of_row.clone()], top, &mut self.best);
            self.ids.clear();
            self.ids.extend(self.best.iter().map(|c| c.id));
            rescore(&self.ids, &mut self.values);
            let least = self.values.iter().copied().fold(f32::INFINITY, f32::min);
            // Rounded down, however the subtraction rounds.
            let least = if margin > 0.0 {
                (least - margin).next_down()
            } else {
                least
            };
            self.ids.clear();
            each_at_least(&self.upper[of_row.clone()], least, |id| self.ids.push(id as u32));
            self.refined += self.ids.len();
            self.values.resize(self.ids.len(), 0.0);
            let token = (&self.tokens[i], &self.q[i * padded..][..padded]);
            kernels.head_fine(pool, coarse, token, &self.sums[of_row], &self.ids, &mut self.values);
            let mut uppers = self.values.iter();
            self.ids.retain(|_| uppers.next().is_some_and(|&upper| upper >= least));
            // Less than `top` are left only by codes that are not those of W: somebody forged a side-car.
            if !(top..=most_candidates(model)).contains(&self.ids.len()) {
                self.found.push(Found::All(whole));
                whole += 1;
            } else {
                let first = self.candidates.len();
                rescore(&self.ids, &mut self.values);
                let some = self.ids.iter().zip(&self.values);
                self.candidates
                    .extend(some.map(|(&id, &value)| Candidate { id, value }));
                self.found.push(Found::Candidates(first..self.candidates.len()));
            }
        }
        self.rest.after(self.traffic(model).0 < model.embedding.data.len());
    }

    /// All logits of the rows that are still to find.
    fn run_whole(&mut self, kernels: &Variant, pool: &Pool, model: &Model, broken: &mut [bool]) {
        let (hidden, vocab) = (model.config.hidden, model.config.vocab);
        let mut whole = 0;
        for (at, found) in self.found.iter().enumerate() {
            if let Found::All(i) = found {
                self.h.copy_within(at * hidden..(at + 1) * hidden, i * hidden);
                whole += 1;
            }
        }
        if whole == 0 {
            return;
        }
        let logits = grow(&mut self.logits, whole * vocab);
        kernels.head(pool, &model.embedding, &self.h[..whole * hidden], logits);
        for (found, &r) in self.found.iter().zip(&self.wanted) {
            if let Found::All(i) = found {
                broken[r] |= !all_finite(&logits[i * vocab..][..vocab]);
            }
        }
    }

    /// What is known of the logits of a row that wanted them. Panics for another row.
    pub fn logits(&self, row: usize, vocab: usize) -> Logits<'_> {
        let at = self.wanted.binary_search(&row).expect("a row that wants logits");
        match &self.found[at] {
            Found::All(i) => Logits::All(&self.logits[i * vocab..][..vocab]),
            Found::Candidates(range) => Logits::Candidates(&self.candidates[range.clone()]),
        }
    }
}

/// Beyond so many, all logits cost about as much.
fn most_candidates(model: &Model) -> usize {
    model.config.vocab / 8
}

/// Values that are compared at once, without a branch for each.
const CHUNK: usize = 64;

/// The `k` greatest of `values`, at least one, into `best`: the greatest first, the lower id first among equals.
pub(super) fn best_of(values: &[f32], k: usize, best: &mut Vec<Candidate>) {
    let mut best = Best::new(k, best);
    for (first, chunk) in (0..).step_by(CHUNK).zip(values.chunks(CHUNK)) {
        if chunk.iter().fold(false, |any, &value| any | (value > best.bar)) {
            (first..)
                .zip(chunk)
                .for_each(|(id, &value)| best.offer(Candidate { id, value }));
        }
    }
    best.finish();
}

/// Calls `job` with the index of every value that is at least `least`, ascending.
fn each_at_least(values: &[f32], least: f32, mut job: impl FnMut(usize)) {
    for (first, chunk) in (0..).step_by(CHUNK).zip(values.chunks(CHUNK)) {
        if chunk.iter().fold(false, |any, &value| any | (value >= least)) {
            let some = (first..).zip(chunk).filter(|&(_, &value)| value >= least);
            some.for_each(|(i, _)| job(i));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::sampling::{Sampler, Sampling};
    use crate::engine::testing;
    use crate::kernels::variants;
    use crate::machine::cpu::Machine;
    use crate::model::HugeBuffer;

    const VOCAB: usize = 400;

    /// Rows of a head that make life hard for a coarse one.
    #[derive(Debug, Clone, Copy)]
    enum Rows {
        /// As they come.
        Plain,
        /// Some weights are a thousand times the others.
        Outliers,
        /// Every other row is the same, and the rest differs from it by one weight's last bit.
        Twins,
        /// Too small for normal f16.
        Tiny,
        /// As large as f16 goes.
        Huge,
        /// Hardly any that is not zero.
        Zeros,
        /// From one end of f16 to the other.
        Scales,
    }

    fn change(rows: Rows, embedding: &mut [f32]) {
        let hidden = testing::config().hidden;
        let twin = embedding[..hidden].to_vec();
        for (r, row) in embedding.chunks_exact_mut(hidden).enumerate() {
            match rows {
                Rows::Plain => {}
                Rows::Outliers => row.iter_mut().skip(r % 7).step_by(31).for_each(|w| *w *= 1000.0),
                Rows::Twins => {
                    row.copy_from_slice(&twin);
                    row[r % hidden] *= if r % 2 == 0 { 1.0 } else { 1.001 };
                }
                Rows::Tiny => row.iter_mut().for_each(|w| *w *= 1e-6),
                Rows::Huge => row
                    .iter_mut()
                    .for_each(|w| *w = w.signum() * (65504.0 - w.abs() * 100.0)),
                Rows::Zeros => row.iter_mut().enumerate().for_each(|(c, w)| {
                    *w = if r % 100 == 3 && c == 5 { *w } else { 0.0 };
                }),
                Rows::Scales => row.iter_mut().for_each(|w| *w *= 2f32.powi(r as i32 % 36 - 20)),
            }
        }
    }

    fn activations() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            20 => -1.0f32..1.0,
            1 => -3e4f32..3e4,
            1 => -1e-6f32..1e-6,
            1 => Just(0.0),
        ];
        let some = prop_oneof![4 => Just(1.0f32), 1 => Just(1e-6), 1 => Just(0.0), 1 => Just(5e4)];
        (prop::collection::vec(value, testing::config().hidden), some)
            .prop_map(|(x, by)| x.into_iter().map(|x| x * by).collect())
    }

    fn sampling() -> impl Strategy<Value = Sampling> {
        let some = |value: f32| prop_oneof![Just(0.0), 0.001f32..value];
        (some(3.0), 0usize..80, some(1.2), some(1.0), any::<u64>()).prop_map(|(temperature, top_k, p, min_p, seed)| {
            Sampling {
                temperature,
                top_k: top_k.saturating_sub(10),
                top_p: if p == 0.0 { 1.0 } else { p.min(1.0) },
                min_p,
                seed,
            }
        })
    }

    /// Both heads over the rows `x`; what is known of each must agree, and choose the same token. Returns how many rows were refined,
    /// and rescored.
    fn compare(model: &Model, kernels: &Variant, x: &[Vec<f32>], samplings: &[Sampling]) -> (usize, usize) {
        let pool = Pool::new(2);
        let x: Vec<f32> = x.concat();
        let needs = || {
            samplings
                .iter()
                .map(|sampling| Sampler::new(sampling.clone(), VOCAB).need())
        };
        let (mut whole, mut both) = (Head::default(), Head::default());
        let mut broken = [vec![false; samplings.len()], vec![false; samplings.len()]];
        let all = samplings.iter().map(|_| Need::All);
        whole.run(kernels, &pool, model, &x, (0..).zip(all), &mut broken[0]);
        model.code_head(None, &AtomicBool::new(false)).unwrap();
        both.run(kernels, &pool, model, &x, (0..).zip(needs()), &mut broken[1]);
        assert_eq!(broken[0], broken[1]);
        for (r, (sampling, need)) in samplings.iter().zip(needs()).enumerate() {
            let logits = whole.logits(r, VOCAB).all();
            if broken[0][r] {
                continue;
            }
            let choose = |logits| {
                let mut sampler = Sampler::new(sampling.clone(), VOCAB);
                [(); 5].map(|()| sampler.sample(logits))
            };
            let known = both.logits(r, VOCAB);
            assert_eq!(choose(known), choose(Logits::All(logits)), "{sampling:?}");
            match (need, known) {
                (Need::Candidates { top, margin }, Logits::Candidates(some)) => {
                    assert!(
                        some.iter()
                            .all(|c| c.value.to_bits() == logits[c.id as usize].to_bits())
                    );
                    assert!(some.windows(2).all(|pair| pair[0].id < pair[1].id));
                    let mut sorted = logits.to_vec();
                    sorted.sort_by(|a, b| b.total_cmp(a));
                    let needed = logits.iter().filter(|&&l| l >= sorted[top - 1] - margin).count();
                    let given = some.iter().filter(|c| c.value >= sorted[top - 1] - margin).count();
                    assert_eq!(given, needed);
                }
                (_, Logits::All(all)) => assert_eq!(all, logits),
                _ => panic!("all logits were needed"),
            }
        }
        (both.refined, both.rescored())
    }

    fn usable() -> impl Iterator<Item = &'static Variant> {
        let features = Machine::detect().features;
        variants().iter().filter(move |variant| variant.runs_on(&features))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_coarse_head_finds_what_the_whole_head_finds(
            rows in prop::sample::select(vec![
                Rows::Plain, Rows::Outliers, Rows::Twins, Rows::Tiny, Rows::Huge, Rows::Zeros, Rows::Scales,
            ]),
            x in prop::collection::vec(activations(), 5),
            samplings in prop::collection::vec(sampling(), 5),
            together in 1usize..5,
        ) {
            let model = testing::model_with_f16_head(VOCAB, |embedding| change(rows, embedding));
            for kernels in usable() {
                for (x, samplings) in x.chunks(together).zip(samplings.chunks(together)) {
                    compare(&model, kernels, x, samplings);
                }
            }
        }
    }

    #[test]
    fn few_candidates_are_enough_where_logits_differ() {
        let model = testing::model_with_f16_head(VOCAB, |_| {});
        let x: Vec<f32> = (0..testing::config().hidden)
            .map(|i| ((i * 37) % 101) as f32 - 50.0)
            .collect();
        for (top_k, most) in [(1, 8), (40, 80)] {
            let sampling = Sampling {
                temperature: 1.0,
                top_k,
                ..Sampling::greedy()
            };
            let (refined, rescored) = compare(&model, testing::kernels(), std::slice::from_ref(&x), &[sampling]);
            assert!((top_k..=most).contains(&rescored), "{rescored}");
            assert!(top_k == 1 || refined > rescored, "{refined} {rescored}");
        }
    }

    #[test]
    fn a_row_that_is_not_finite_fails_as_without() {
        let model = testing::model_with_f16_head(VOCAB, |_| {});
        let hidden = testing::config().hidden;
        let greedy = [(); 2].map(|()| Sampling::greedy());
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let mut x = [vec![1.0; hidden], vec![1.0; hidden]];
            x[1][3] = bad;
            compare(&model, testing::kernels(), &x, &greedy);
        }
    }

    #[test]
    fn a_head_where_intervals_say_nothing_is_asked_ever_more_seldom() {
        let model = testing::model_with_f16_head(VOCAB, |embedding| change(Rows::Twins, embedding));
        model.code_head(None, &AtomicBool::new(false)).unwrap();
        let mut head = Head::default();
        let x = vec![1.0; testing::config().hidden];
        let need = Need::Candidates { top: 1, margin: 0.0 };
        let mut asked = 0;
        for _ in 0..300 {
            head.run(
                testing::kernels(),
                &Pool::new(1),
                &model,
                &x,
                [(0, need)].into_iter(),
                &mut [false],
            );
            assert!(matches!(head.logits(0, VOCAB), Logits::All(_)));
            asked += head.tokens.len();
        }
        assert!((4..=12).contains(&asked), "{asked}");
    }

    #[test]
    fn codes_of_another_head_fall_back_to_the_whole() {
        let model = testing::model_with_f16_head(VOCAB, |_| {});
        let w = &model.embedding;
        let codes = HugeBuffer::zeroed(CoarseHead::code_bytes(w)).unwrap();
        let numbers = vec![0xff; CoarseHead::bytes_for(w) - codes.len()]; // NaN
        assert!(model.coarse.set(CoarseHead::from_parts(w, codes, &numbers)).is_ok());
        let mut head = Head::default();
        let x = vec![1.0; testing::config().hidden];
        let need = Need::Candidates { top: 2, margin: 0.5 };
        let rows = [(0, need)].into_iter();
        head.run(testing::kernels(), &Pool::new(1), &model, &x, rows, &mut [false]);
        assert_eq!(head.logits(0, VOCAB).all().len(), VOCAB);
        let codes = model.coarse.get().unwrap().bytes(0);
        assert_eq!(head.traffic(&model), (codes + w.data.len(), codes + w.data.len()));
    }

    #[test]
    fn the_best_are_found_across_chunks() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 389) % 1000 / 3) as f32).collect();
        for k in [1, 2, 40, 999] {
            let mut best = Vec::new();
            best_of(&values, k, &mut best);
            let mut sorted: Vec<(u32, f32)> = (0..).zip(values.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let expected: Vec<u32> = sorted[..k].iter().map(|(id, _)| *id).collect();
            assert_eq!(best.iter().map(|c| c.id).collect::<Vec<_>>(), expected);
        }
        let mut found = Vec::new();
        each_at_least(&values, 330.0, |i| found.push(i));
        let expected: Vec<usize> = (0..1000).filter(|&i| values[i] >= 330.0).collect();
        assert_eq!(found, expected);
    }
}
