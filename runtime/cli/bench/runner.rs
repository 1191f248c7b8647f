//! A model and some sequences, worked on step by step.

use crate::engine::StartError;
use crate::engine::forward::{Forward, PassError, Row};
use crate::engine::head::Need;
use crate::engine::kv::{CacheTypes, KvCache};
use crate::engine::sampling::{Sampler, Sampling};

/// A forward pass with the caches of its sequences.
pub struct Runner {
    pub forward: Forward,
    /// One a sequence.
    caches: Vec<KvCache>,
    rows: Vec<Row>,
}

impl Runner {
    /// Empty sequences, with room for `capacity` tokens each. [`StartError::Cache`] where the address space is too small for them.
    pub fn new(forward: Forward, types: CacheTypes, sequences: usize, capacity: usize) -> Result<Self, StartError> {
        let cache = |_| KvCache::reserve(&forward.model().config, types, capacity).map_err(StartError::Cache);
        Ok(Runner {
            caches: (0..sequences.max(1)).map(cache).collect::<Result<_, _>>()?,
            forward,
            rows: Vec::new(),
        })
    }

    /// How keys and values are cached.
    pub fn cache_types(&self) -> CacheTypes {
        self.caches[0].types()
    }

    /// Most rows of a pass over a prompt.
    pub fn batch(&self) -> usize {
        512
    }

    /// A prompt into the cache of `sequence`, from its beginning; the hash of the last token's logits.
    pub fn feed(&mut self, sequence: usize, prompt: &[u32], last: Need) -> Result<Hash, PassError> {
        let mut hash = Hash::new();
        for (chunk, tokens) in prompt.chunks(self.batch()).enumerate() {
            let first = chunk * self.batch();
            self.rows.clear();
            self.rows.extend(tokens.iter().enumerate().map(|(i, &token)| Row {
                cache: sequence,
                position: first + i,
                token,
                need: if first + i + 1 == prompt.len() {
                    last
                } else {
                    Need::None
                },
            }));
            let output = self.forward.pass(&mut self.caches, &self.rows)?;
            (0..tokens.len()).try_for_each(|row| output.check(row))?;
            if self.rows.last().is_some_and(|row| row.need != Need::None) {
                let logits = output.logits(tokens.len() - 1)?.all();
                logits.iter().for_each(|logit| hash.add(logit.to_bits()));
            }
        }
        Ok(hash)
    }

    /// One token of every sequence: `last` are the tokens at `position`, and then those after it.
    pub fn step(&mut self, position: usize, last: &mut [u32]) -> Result<(), PassError> {
        let mut greedy = Sampler::new(Sampling::greedy(), self.forward.model().config.vocab);
        let need = greedy.need();
        self.rows.clear();
        self.rows.extend(last.iter().enumerate().map(|(cache, &token)| Row {
            cache,
            position,
            token,
            need,
        }));
        let output = self.forward.pass(&mut self.caches, &self.rows)?;
        for (row, last) in last.iter_mut().enumerate() {
            *last = greedy.sample(output.logits(row)?);
        }
        Ok(())
    }

    /// Tokens that are the same for every model of this vocabulary, and far apart in the embedding; other ones for
    /// each sequence.
    pub fn prompt(&self, sequence: usize, tokens: usize) -> Vec<u32> {
        let vocab = self.forward.model().config.vocab;
        let token = |i: usize| (i * 7919 + sequence * 104_729) % vocab;
        (0..tokens).map(|i| token(i) as u32).collect()
    }
}

/// Touches what a token reads: until then, mapped pages are not this process's.
pub fn warm(forward: &mut Forward) -> Result<(), PassError> {
    let mut caches = [KvCache::new(&forward.model().config, CacheTypes::default(), 1)];
    let row = Row {
        cache: 0,
        position: 0,
        token: 0,
        need: Sampler::new(Sampling::greedy(), forward.model().config.vocab).need(),
    };
    Ok(forward.pass(&mut caches, &[row])?.check(0)?)
}

/// FNV-1a, 64 bits, over little-endian words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    pub fn new() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, word: u32) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hash = Hash::new();
        hash.add(u32::from_le_bytes(*b"foob"));
        assert_eq!(hash.to_string(), "dd120e790c2512af");
    }
}
