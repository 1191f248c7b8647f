//! One sequence fed by hand, without a queue: for the commands and tests that look at logits themselves.

use std::sync::Arc;

use super::forward::{Forward, PassError, Row};
use super::head::{Logits, Need};
use super::kv::KvCache;
use super::sampling::Sampler;
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
    /// An empty sequence with room for `capacity` tokens, fed in passes of at most `batch`.
    pub fn new(model: Arc<Model>, kernels: &'static Variant, threads: usize, capacity: usize, batch: usize) -> Self {
        Session {
            cache: [KvCache::new(&model.config, capacity)],
            forward: Forward::new(model, kernels, threads),
            rows: Vec::new(),
            len: 0,
            batch: batch.max(1),
        }
    }

    /// Appends `tokens`, at least one, all inside the vocabulary; the logits (vocab) of the last.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], PassError> {
        self.feed_for(tokens, Need::All).map(Logits::all)
    }

    /// The same; the token that follows the last of them.
    pub fn sample(&mut self, tokens: &[u32], sampler: &mut Sampler) -> Result<u32, PassError> {
        let need = sampler.sampling().need(self.forward.model().config.vocab);
        self.feed_for(tokens, need).map(|logits| sampler.sample(logits))
    }

    fn feed_for(&mut self, tokens: &[u32], need: Need) -> Result<Logits<'_>, PassError> {
        let last = tokens.len().checked_sub(1).expect("at least one token");
        let last_chunk = last / self.batch * self.batch;
        for chunk in tokens[..last_chunk].chunks(self.batch) {
            self.plan(chunk, Need::None);
            let output = self.forward.pass(&mut self.cache, &self.rows)?;
            (0..chunk.len()).try_for_each(|row| output.check(row))?;
        }
        let chunk = &tokens[last_chunk..];
        self.plan(chunk, need);
        let output = self.forward.pass(&mut self.cache, &self.rows)?;
        (0..chunk.len()).try_for_each(|row| output.check(row))?;
        Ok(output.logits(chunk.len() - 1)?)
    }

    fn plan(&mut self, tokens: &[u32], last: Need) {
        self.rows.clear();
        self.rows.extend(tokens.iter().enumerate().map(|(i, &token)| Row {
            cache: 0,
            position: self.len + i,
            token,
            need: if i + 1 == tokens.len() { last } else { Need::None },
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

    /// The threads of the pass.
    pub fn pool(&self) -> &Pool {
        self.forward.pool()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;

    const TOKENS: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];

    fn session(batch: usize) -> Session {
        Session::new(testing::model(), testing::kernels(), 1, TOKENS.len(), batch)
    }

    #[test]
    fn passes_of_any_size_give_the_same_logits() {
        let expected = session(1).feed(&TOKENS).unwrap().to_vec();
        for batch in [2, 3, 6, 7, 100] {
            assert_eq!(session(batch).feed(&TOKENS).unwrap(), expected, "{batch}");
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
