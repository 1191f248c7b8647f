//! A model and some sequences, worked on step by step.

use crate::engine::StartError;
use crate::engine::forward::{Forward, PassError, Row, Traffic};
use crate::engine::head::Need;
use crate::engine::kv::{CacheTypes, KvCache};
use crate::engine::sampling::{Sampler, Sampling};

/// Most rows of a pass over a prompt: twice a server's default, so that a prompt of 512 is one pass.
const BATCH: usize = 512;

/// A forward pass with the caches of its sequences.
pub struct Runner {
    pub forward: Forward,
    /// One a sequence.
    caches: Vec<KvCache>,
    rows: Vec<Row>,
    read: Read,
}

/// Bytes that passes read, the cache aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    pub total: usize,
    /// Of them, in memory of our own.
    pub own: usize,
}

impl Runner {
    /// Empty sequences, with room for `capacity` tokens each. [`StartError::Cache`] where the address space is too small for them.
    pub fn new(forward: Forward, types: CacheTypes, sequences: usize, capacity: usize) -> Result<Self, StartError> {
        let cache = |_| KvCache::reserve(&forward.model().config, types, capacity).map_err(StartError::Cache);
        Ok(Runner {
            caches: (0..sequences.max(1)).map(cache).collect::<Result<_, _>>()?,
            forward,
            rows: Vec::new(),
            read: Read::default(),
        })
    }

    /// How keys and values are cached.
    pub fn cache_types(&self) -> CacheTypes {
        self.caches[0].types()
    }

    /// A prompt into the cache of `sequence`, its first token at position `at`; the hash of the last token's logits.
    pub fn feed(&mut self, sequence: usize, at: usize, prompt: &[u32], last: Need) -> Result<Hash, PassError> {
        let mut hash = Hash::new();
        for (chunk, tokens) in prompt.chunks(BATCH).enumerate() {
            let first = chunk * BATCH;
            self.rows.clear();
            self.rows.extend(tokens.iter().enumerate().map(|(i, &token)| Row {
                cache: sequence,
                position: at + first + i,
                token,
                need: if first + i + 1 == prompt.len() {
                    last
                } else {
                    Need::None
                },
            }));
            let output = self.forward.pass(&mut self.caches, &self.rows)?;
            (0..tokens.len()).try_for_each(|row| output.check(row))?;
            let logits = self.rows.last().is_some_and(|row| row.need != Need::None);
            if logits {
                let logits = output.logits(tokens.len() - 1)?.all();
                logits.iter().for_each(|logit| hash.add(logit.to_bits()));
            }
            self.account(logits);
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
        self.account(true);
        Ok(())
    }

    /// Adds what the last pass read, which depends on what it skipped.
    fn account(&mut self, logits: bool) {
        let Traffic { body, head, own } = self.forward.traffic();
        let (head, unread) = if logits {
            (head, 0)
        } else {
            (0, self.forward.head().traffic(self.forward.model()).1)
        };
        self.read.total += body + head;
        self.read.own += own - unread;
    }

    /// What was read since this was asked last.
    pub fn take_read(&mut self) -> Read {
        std::mem::take(&mut self.read)
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
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::engine::testing;
    use crate::model::Layout;

    /// Passes skip different rows and columns, so that the last one says nothing of the others.
    #[test]
    fn what_is_read_is_the_sum_over_the_passes() {
        for (kernels, rows, skipping) in testing::skipping() {
            let model = testing::model();
            let skipping = vec![skipping; 2];
            model
                .repack(None, &Layout { rows, skipping }, &AtomicBool::new(false))
                .unwrap();
            let runner = || {
                let forward = Forward::new(Arc::clone(&model), kernels, 1);
                Runner::new(forward, CacheTypes::default(), 1, 20).unwrap()
            };
            let (mut summed, mut asked) = (runner(), runner());
            let mut reads = Vec::new();
            for (position, token) in (0..20).enumerate() {
                summed.step(position, &mut [token]).unwrap();
                asked.step(position, &mut [token]).unwrap();
                reads.push(asked.take_read());
            }
            let sum = |of: fn(&Read) -> usize| reads.iter().map(of).sum::<usize>();
            let (total, own) = (sum(|read| read.total), sum(|read| read.own));
            assert_eq!(summed.take_read(), Read { total, own });
            assert_eq!(summed.take_read(), Read::default());
            assert_ne!(total, 20 * reads[19].total, "{}: the last pass would do", kernels.name);
            // The head counts where there are logits.
            let prompt = summed.prompt(0, 20);
            for (need, times) in [(Need::None, 0), (Need::All, 1)] {
                summed.feed(0, 0, &prompt, need).unwrap();
                let Traffic { body, head, own } = summed.forward.traffic();
                let (total, own) = (body + times * head, own - (1 - times) * head);
                assert_eq!(summed.take_read(), Read { total, own });
            }
        }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hash = Hash::new();
        hash.add(u32::from_le_bytes(*b"foob"));
        assert_eq!(hash.to_string(), "dd120e790c2512af");
    }
}
