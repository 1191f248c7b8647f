//! What a benchmark will measure, and whether it fits: into the model's context, and into memory.

use super::BenchArgs;
use crate::cli::common::CommandError;
use crate::engine::kv::{CacheTypes, KvCache};
use crate::kernels::reference::BLOCK;
use crate::machine::limits::Limits;
use crate::model::Config;

/// What will be measured, on each number of threads.
pub struct Plan {
    pub threads: Vec<usize>,
    pub prefills: Vec<usize>,
    pub decodes: Vec<Decode>,
    pub skipped: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decode {
    pub sequences: usize,
    pub context: usize,
    pub tokens: usize,
}

impl Decode {
    /// Tokens of context that it needs.
    fn positions(&self) -> usize {
        self.context.saturating_add(self.tokens).saturating_add(1)
    }
}

impl Plan {
    pub fn new(args: &BenchArgs) -> Result<Plan, CommandError> {
        let mut decodes = Vec::new();
        for &sequences in args.sequences.iter().filter(|&&n| n > 0) {
            for &context in &args.context {
                decodes.extend(args.decode.iter().filter(|&&n| n > 0).map(|&tokens| Decode {
                    sequences,
                    context,
                    tokens,
                }));
            }
        }
        let plan = Plan {
            threads: match &args.threads[..] {
                [] => thread_counts(Limits::read().threads()),
                // Once each: what is above the number of CPUs is that number.
                asked => asked.iter().fold(Vec::new(), |mut counts, threads| {
                    let threads = threads.resolve();
                    if !counts.contains(&threads) {
                        counts.push(threads);
                    }
                    counts
                }),
            },
            prefills: args.prefill.iter().copied().filter(|&n| n > 0).collect(),
            decodes,
            skipped: Vec::new(),
        };
        if plan.prefills.is_empty() && plan.decodes.is_empty() {
            return Err(CommandError::Nothing("every list holds only 0".to_owned()));
        }
        Ok(plan)
    }

    /// Without what does not fit into the model's context.
    pub fn within(mut self, trained: usize) -> Result<Plan, CommandError> {
        let mut skipped = Vec::new();
        let mut fits = |what: String, tokens: usize| {
            if tokens > trained {
                skipped.push(format!(
                    "{what} needs room for {tokens} tokens, and the model has room for {trained}"
                ));
            }
            tokens <= trained
        };
        self.prefills
            .retain(|&tokens| fits(format!("prefill of {tokens}"), tokens));
        self.decodes.retain(|decode| {
            let what = format!("decode of {} after {}", decode.tokens, decode.context);
            fits(what, decode.positions())
        });
        if self.prefills.is_empty() && self.decodes.is_empty() {
            return Err(CommandError::Nothing(skipped.join("; ")));
        }
        skipped.dedup(); // the same for several numbers of sequences
        Ok(Plan { skipped, ..self })
    }

    /// Tokens of context that the longest measurement needs.
    pub fn capacity(&self) -> usize {
        let decodes = self.decodes.iter().map(Decode::positions);
        decodes.chain(self.prefills.iter().copied()).max().unwrap_or(1)
    }

    /// Most sequences of a measurement, at least one.
    pub fn sequences(&self) -> usize {
        self.decodes.iter().map(|decode| decode.sequences).max().unwrap_or(1)
    }

    /// Bytes of memory that the sequences come to, if a process that may use `limit_bytes` has them. Of those, a quarter is for the passes
    /// that only read.
    pub fn memory(&self, config: &Config, types: CacheTypes, limit_bytes: Option<u64>) -> Result<u64, TooLarge> {
        /// Caches lie in huge pages, but for the end of some: at most this.
        const PAGE: u64 = 2 << 20;
        let may = limit_bytes.map_or(u64::MAX, |bytes| bytes - bytes / 4);
        // A sequence's row in the buffers of a pass.
        let row = 4 * (config.vocab + 4 * config.hidden + 3 * config.ffn) as u64;
        let (mut need, mut fit) = (0u64, 0);
        for sequence in 0..self.sequences() {
            let decodes = self.decodes.iter().filter(|decode| decode.sequences > sequence);
            let prefills = self.prefills.iter().copied().filter(|_| sequence == 0);
            let positions = decodes.map(Decode::positions).chain(prefills).max().unwrap_or(1);
            let cache = KvCache::bytes(config, types, positions);
            let cache = cache.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
            need = need.saturating_add(cache).saturating_add(row);
            fit += usize::from(need <= may);
        }
        if need <= may {
            return Ok(need);
        }
        Err(TooLarge {
            need_bytes: need,
            may_bytes: may,
            sequences: self.sequences(),
            tokens: self.capacity(),
            fit,
            fit_tokens: (may / KvCache::bytes(config, types, BLOCK).max(1)) as usize * BLOCK,
        })
    }
}

/// The sequences do not fit into the memory that this process may use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{sequences} sequences of up to {tokens} tokens need {} MiB of memory, and {} MiB may be used for them: {}",
    need_bytes.div_ceil(1 << 20), may_bytes >> 20, self.advice()
)]
pub struct TooLarge {
    need_bytes: u64,
    may_bytes: u64,
    sequences: usize,
    tokens: usize,
    /// Sequences that fit.
    fit: usize,
    /// Tokens of a single one that fit, in whole blocks.
    fit_tokens: usize,
}

impl TooLarge {
    fn advice(&self) -> String {
        match self.fit {
            0 => format!(
                "{} tokens of one fit, lower --prefill, --context and --decode, or allow more memory",
                self.fit_tokens
            ),
            fit => format!("{fit} of them fit, lower --sequences, or --context and --decode"),
        }
    }
}

/// An entry of `--sequences`.
pub fn sequences(text: &str) -> Result<usize, String> {
    /// Of each there is a cache, a mapping in the address space, of which a system allows some 65 thousand.
    const MOST: usize = 4096;
    match text.trim().parse() {
        Ok(n) if n <= MOST => Ok(n),
        _ => Err(format!("a number from 0 to {MOST} is needed")),
    }
}

/// 1 to `all`; of many, the powers of two and all.
fn thread_counts(all: usize) -> Vec<usize> {
    const FEW: usize = 8;
    (1..=all)
        .filter(|&n| n <= FEW && all <= FEW || n.is_power_of_two() || n == all)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;

    #[test]
    fn threads_are_one_to_all_or_powers_of_two() {
        assert_eq!(thread_counts(1), [1]);
        assert_eq!(thread_counts(6), [1, 2, 3, 4, 5, 6]);
        assert_eq!(thread_counts(24), [1, 2, 4, 8, 16, 24]);
        assert_eq!(thread_counts(64), [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn what_does_not_fit_is_skipped_and_said() {
        let plan = |context| Plan {
            threads: vec![1],
            prefills: vec![128, 512],
            decodes: vec![
                Decode {
                    sequences: 1,
                    context: 0,
                    tokens: 64,
                },
                Decode {
                    sequences: 1,
                    context,
                    tokens: 64,
                },
            ],
            skipped: Vec::new(),
        };
        let fits = plan(2048).within(2113).unwrap();
        assert_eq!((fits.skipped.len(), fits.capacity()), (0, 2113));
        let less = plan(2048).within(511).unwrap();
        assert_eq!((&less.prefills[..], less.decodes.len()), (&[128][..], 1));
        assert_eq!(less.skipped.len(), 2);
        assert!(less.skipped[1].contains("2113 tokens"), "{:?}", less.skipped);
        let nothing = plan(usize::MAX).within(5).err().expect("nothing fits").to_string();
        assert!(nothing.contains("room for 5"), "{nothing}");
    }

    #[test]
    fn sequences_that_do_not_fit_into_memory_are_refused_with_what_fits() {
        let (config, types) = (testing::config(), CacheTypes::default());
        let decode = |sequences, context| Decode {
            sequences,
            context,
            tokens: 8,
        };
        let plan = |decodes: &[Decode]| Plan {
            threads: vec![1],
            prefills: Vec::new(),
            decodes: decodes.to_vec(),
            skipped: Vec::new(),
        };
        let one = plan(&[decode(1, 0)]).memory(&config, types, None).unwrap();
        assert!(one >= 2 << 20, "a huge page");
        // The longer context is of one sequence only.
        let several = plan(&[decode(4, 0), decode(1, 1 << 20)]);
        let long = plan(&[decode(1, 1 << 20)]).memory(&config, types, None).unwrap();
        assert_eq!(several.memory(&config, types, None), Ok(long + 3 * one));
        let limit = |bytes: u64| Some(bytes.div_ceil(3) * 4);
        assert!(several.memory(&config, types, limit(long + 3 * one)).is_ok());
        let error = several
            .memory(&config, types, limit(long + 2 * one))
            .unwrap_err()
            .to_string();
        assert!(error.contains("4 sequences of up to 1048585 tokens"), "{error}");
        assert!(error.contains("3 of them fit, lower --sequences"), "{error}");
        let error = several.memory(&config, types, Some(1 << 20)).unwrap_err().to_string();
        assert!(error.contains("tokens of one fit, lower --prefill"), "{error}");
        let endless = plan(&[decode(4096, usize::MAX)]);
        assert!(endless.memory(&config, types, Some(u64::MAX)).is_err());
        assert_eq!(sequences("4096"), Ok(4096));
        for bad in ["4097", "-1", "99999999999999999999", ""] {
            assert!(sequences(bad).unwrap_err().contains("0 to 4096"), "{bad}");
        }
    }
}
