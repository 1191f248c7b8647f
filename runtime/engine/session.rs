//! One sequence fed by hand, without a queue: for the commands and tests that look at logits themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::StartError;
use super::forward::{Forward, PassError, Row};
use super::head::{Logits, Need};
use super::kv::{CacheTypes, KvCache};
use super::sampling::Sampler;
use super::sparsity::Shares;
use crate::kernels::Variant;
use crate::machine::pool::Pool;
use crate::model::Model;

/// A sequence and the forward pass that works on it.
pub struct Session {
    forward: Forward,
    cache: [KvCache; 1],
    rows: Vec<Row>,
    /// Positions in the cache.
    len: usize,
    /// Most rows in a pass.
    batch: usize,
}

impl Session {
    /// An empty sequence with room for `capacity` tokens, fed in passes of at most `batch`. [`StartError::Cache`] where the address
    /// space is too small for it.
    pub fn new(
        model: Arc<Model>,
        kernels: &'static Variant,
        threads: usize,
        capacity: usize,
        batch: usize,
    ) -> Result<Self, StartError> {
        let cache = KvCache::reserve(&model.config, CacheTypes::default(), capacity).map_err(StartError::Cache)?;
        Ok(Session {
            cache: [cache],
            forward: Forward::new(model, kernels, threads),
            rows: Vec::new(),
            len: 0,
            batch: batch.max(1),
        })
    }

    /// The same, empty, with keys and values cached in another way. Fails as above.
    pub fn with_cache(self, types: CacheTypes) -> Result<Self, StartError> {
        let capacity = self.cache[0].capacity();
        let cache = KvCache::reserve(&self.forward.model().config, types, capacity).map_err(StartError::Cache)?;
        Ok(Session {
            cache: [cache],
            len: 0,
            ..self
        })
    }

    /// Appends `tokens`, at least one, all inside the vocabulary; the logits (vocab) of the last.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], PassError> {
        self.feed_for(tokens, Need::All).map(Logits::all)
    }

    /// The same; the token that follows the last of them.
    pub fn sample(&mut self, tokens: &[u32], sampler: &mut Sampler) -> Result<u32, PassError> {
        self.feed_for(tokens, sampler.need())
            .map(|logits| sampler.sample(logits))
    }

    fn feed_for(&mut self, tokens: &[u32], need: Need) -> Result<Logits<'_>, PassError> {
        let last = tokens.len().checked_sub(1).expect("at least one token");
        let last_chunk = last / self.batch * self.batch;
        for chunk in tokens[..last_chunk].chunks(self.batch) {
            self.plan(chunk, |_| Need::None);
            let output = self.forward.pass(&mut self.cache, &self.rows)?;
            (0..chunk.len()).try_for_each(|row| output.check(row))?;
        }
        let chunk = &tokens[last_chunk..];
        self.plan(chunk, |row| if row + 1 == chunk.len() { need } else { Need::None });
        let output = self.forward.pass(&mut self.cache, &self.rows)?;
        (0..chunk.len()).try_for_each(|row| output.check(row))?;
        Ok(output.logits(chunk.len() - 1)?)
    }

    /// Appends `tokens`, all inside the vocabulary; what `value` makes of the logits (vocab) of each, in their order.
    /// The threads share the calls.
    pub fn feed_each(
        &mut self,
        tokens: &[u32],
        value: &(dyn Fn(usize, &[f32]) -> f64 + Sync),
    ) -> Result<Vec<f64>, PassError> {
        let mut values = Vec::with_capacity(tokens.len());
        for (pass, chunk) in tokens.chunks(self.batch).enumerate() {
            self.plan(chunk, |_| Need::All);
            let output = self.forward.pass(&mut self.cache, &self.rows)?;
            (0..chunk.len()).try_for_each(|row| output.check(row))?;
            let slots: Vec<AtomicU64> = chunk.iter().map(|_| AtomicU64::new(0)).collect();
            let pool = output.pool();
            pool.run(&|thread| {
                for row in (thread..chunk.len()).step_by(pool.threads()) {
                    let logits = output.logits(row).expect("checked above").all();
                    let value = value(pass * self.batch + row, logits);
                    slots[row].store(value.to_bits(), Relaxed);
                }
            });
            values.extend(slots.into_iter().map(|slot| f64::from_bits(slot.into_inner())));
        }
        Ok(values)
    }

    /// The rows of the next pass; `need` says what is wanted of the logits of each.
    fn plan(&mut self, tokens: &[u32], need: impl Fn(usize) -> Need) {
        self.rows.clear();
        self.rows.extend(tokens.iter().enumerate().map(|(i, &token)| Row {
            cache: 0,
            position: self.len + i,
            token,
            need: need(i),
        }));
        self.len += tokens.len();
    }

    /// Forgets everything after the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Most rows in a pass.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// How much of the feed-forward was zero, layer by layer: see [`Forward::sparsity`].
    pub fn sparsity(&self) -> Vec<Shares> {
        self.forward.sparsity()
    }

    /// The threads of the pass.
    pub fn pool(&self) -> &Pool {
        self.forward.pool()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::engine::Sampling;
    use crate::engine::kv::CacheType;
    use crate::engine::testing;

    const TOKENS: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];

    fn session(batch: usize) -> Session {
        Session::new(testing::model(), testing::kernels(), 1, TOKENS.len(), batch).unwrap()
    }

    #[test]
    fn a_sequence_beyond_the_address_space_is_an_error() {
        let tokens = 1 << 50;
        let none = Session::new(testing::model(), testing::kernels(), 1, tokens, 1);
        assert!(matches!(none, Err(StartError::Cache(_))));
    }

    #[test]
    fn passes_of_any_size_give_the_same_logits() {
        let expected = session(1).feed(&TOKENS).unwrap().to_vec();
        for batch in [2, 3, 6, 7, 100] {
            assert_eq!(session(batch).feed(&TOKENS).unwrap(), expected, "{batch}");
        }
    }

    #[test]
    fn passes_of_any_size_give_the_same_logits_with_an_int8_cache() {
        let types = CacheTypes {
            k: CacheType::Q8_0,
            v: CacheType::Q8_0,
        };
        let logits = |batch, threads, types| {
            let mut session = Session::new(testing::model(), testing::kernels(), threads, TOKENS.len(), batch).unwrap();
            session = session.with_cache(types).unwrap();
            session.feed(&TOKENS).unwrap().to_vec()
        };
        let expected = logits(1, 1, types);
        for (batch, threads) in [(2, 1), (3, 2), (7, 3), (100, 2)] {
            assert_eq!(logits(batch, threads, types), expected, "{batch}, {threads} threads");
        }
        let exact = logits(1, 1, CacheTypes::default());
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let cosine = dot(&expected, &exact) / (dot(&expected, &expected) * dot(&exact, &exact)).sqrt();
        assert!(expected != exact && cosine > 0.999, "{cosine}");
    }

    #[test]
    fn each_position_has_the_logits_of_its_prefix() {
        let value = |i: usize, logits: &[f32]| f64::from(logits[i]);
        for (threads, batch) in [(1, 1), (2, 3), (3, 100)] {
            let mut all = Session::new(testing::model(), testing::kernels(), threads, TOKENS.len(), batch).unwrap();
            let values = all.feed_each(&TOKENS, &value).unwrap();
            let expected = (0..TOKENS.len()).map(|i| {
                let mut alone = session(9);
                value(i, alone.feed(&TOKENS[..=i]).unwrap())
            });
            assert_eq!(
                values,
                expected.collect::<Vec<_>>(),
                "{threads} threads, passes of {batch}"
            );
        }
    }

    #[test]
    fn a_coarse_head_changes_no_token() {
        const VOCAB: usize = 700;
        let model = testing::model_with_f16_head(VOCAB, |_| {});
        let sampling = |temperature, top_k, top_p, min_p| Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            seed: 7,
        };
        let samplings = [
            (Sampling::greedy(), true),
            (sampling(1.0, 40, 1.0, 0.0), true),
            (sampling(1.5, 20, 0.8, 0.0), true),
            (sampling(0.8, 40, 0.95, 0.05), true),
            (sampling(1.0, 0, 1.0, 0.2), true),
            (sampling(1.0, 0, 0.9, 0.2), false),
            (sampling(1.0, 0, 1.0, 0.0), false),
        ];
        // The tokens, and whether candidates were enough to choose them.
        let generate = |sampling: &Sampling| {
            let mut session = Session::new(Arc::clone(&model), testing::kernels(), 2, 40, 9).unwrap();
            let mut sampler = Sampler::new(sampling.clone(), VOCAB);
            let mut tokens = TOKENS.to_vec();
            let mut candidates = 0;
            for fed in [0].into_iter().chain(TOKENS.len()..39) {
                let token = session.sample(&tokens[fed..], &mut sampler).unwrap();
                tokens.push(token);
                candidates += session.forward.head().rescored();
            }
            (tokens, candidates > 0)
        };
        let expected = samplings.each_ref().map(|(sampling, _)| generate(sampling).0);
        model.code_head(None, &AtomicBool::new(false)).unwrap();
        for ((sampling, few), expected) in samplings.into_iter().zip(expected) {
            assert_eq!(generate(&sampling), (expected, few), "{sampling:?}");
        }
    }

    #[test]
    fn a_truncated_sequence_goes_on_from_there() {
        let expected = session(9).feed(&TOKENS).unwrap().to_vec();
        let mut session = session(9);
        session.feed(&[3, 1, 4, 7, 7]).unwrap();
        session.truncate(3);
        assert_eq!(session.feed(&TOKENS[3..]).unwrap(), expected);
    }
}
