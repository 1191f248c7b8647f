//! Byte-pair encoding of one word: join the neighbours whose merge ranks first, until none is left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::error::TokenizerError;
use super::vocab::{self, Vocab};
use crate::model::gguf::Array;

/// Most merges.
const MERGES_MAX: usize = 1 << 23;

/// What two neighbouring tokens become, and how early.
#[derive(Debug, Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

/// The merges by their pair of tokens, and the tokens of single bytes.
pub(super) struct Bpe {
    merges: HashMap<(u32, u32), Merge>,
    bytes: [u32; 256],
}

impl Bpe {
    /// `merges`: "left right" in the GPT-2 byte alphabet, best first.
    pub(super) fn new(vocab: &Vocab, merges: &Array) -> Result<Bpe, TokenizerError> {
        const KEY: &str = "tokenizer.ggml.merges";
        if merges.len > MERGES_MAX {
            return Err(TokenizerError::TooLarge {
                key: KEY,
                max: MERGES_MAX,
            });
        }
        let mut bytes = [0; 256];
        for (byte, id) in (0..=255u8).zip(&mut bytes) {
            *id = vocab.id(&[byte]).ok_or(TokenizerError::MissingByte(byte))?;
        }
        let mut bpe = Bpe {
            merges: HashMap::with_capacity(merges.len),
            bytes,
        };
        let (mut found, mut word, mut last) = (0, Vec::new(), 0);
        for (rank, text) in (0u32..).zip(merges.strings()) {
            let (pair, id) = parse(vocab, text, &mut word, last).ok_or_else(|| TokenizerError::Merge {
                index: rank as usize,
                text: String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned(),
            })?;
            bpe.merges.entry(pair).or_insert(Merge { rank, id }); // the first of two ranks first
            (last, found) = (id, found + 1);
        }
        match found == merges.len {
            true => Ok(bpe),
            false => Err(TokenizerError::Count {
                key: KEY,
                found,
                expected: merges.len,
            }),
        }
    }

    /// Appends the tokens of `word`. O(n log n) in its length.
    pub(super) fn encode(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        symbols.extend(word.iter().zip(0u32..).map(|(&byte, at)| Symbol {
            id: self.bytes[usize::from(byte)],
            prev: at.wrapping_sub(1), // NONE for the first
            next: at + 1,
        }));
        let Some(last) = symbols.last_mut() else { return };
        last.next = NONE;

        let candidate = |symbols: &[Symbol], at: u32| {
            let left = symbols.get(at as usize)?;
            let right = symbols.get(left.next as usize)?;
            let merge = self.merges.get(&(left.id, right.id))?;
            Some(Reverse(Candidate {
                rank: merge.rank,
                at,
                pair: (left.id, right.id),
                id: merge.id,
            }))
        };
        // Collected first: a heap from a vector takes linear time.
        let mut start = std::mem::take(queue).into_vec();
        start.extend((0..symbols.len() as u32).filter_map(|at| candidate(symbols, at)));
        *queue = BinaryHeap::from(start);

        while let Some(Reverse(best)) = queue.pop() {
            let left = symbols[best.at as usize];
            let Some(&right) = symbols.get(left.next as usize) else {
                continue;
            };
            if (left.id, right.id) != best.pair {
                continue; // one of the two was merged with another in the meantime
            }
            symbols[left.next as usize].id = NONE; // gone: no pair matches it any more
            symbols[best.at as usize] = Symbol {
                id: best.id,
                next: right.next,
                ..left
            };
            if let Some(after) = symbols.get_mut(right.next as usize) {
                after.prev = best.at;
            }
            queue.extend(candidate(symbols, left.prev));
            queue.extend(candidate(symbols, best.at));
        }
        let mut at = 0;
        while let Some(symbol) = symbols.get(at as usize) {
            out.push(symbol.id);
            at = symbol.next;
        }
    }
}

/// The pair and the result of one merge, all three as tokens; `last`: the result of the merge before.
fn parse(vocab: &Vocab, text: &[u8], word: &mut Vec<u8>, last: u32) -> Option<((u32, u32), u32)> {
    let space = 1 + text.get(1..)?.iter().position(|&b| b == b' ')?;
    word.clear();
    let decoded = vocab::decode_into(&text[..space], word);
    let left = word.len();
    if !(decoded && vocab::decode_into(&text[space + 1..], word)) {
        return None;
    }
    let pair = (vocab.id(&word[..left])?, vocab.id(&word[left..])?);
    // Merges come in the order of their results, often several for one: the guess spares most look-ups.
    let guess = [last, last + 1].into_iter().find(|&id| vocab.is(id, word));
    Some((pair, guess.or_else(|| vocab.id(word))?))
}

/// No token, no symbol.
const NONE: u32 = u32::MAX;

/// A token of the word so far, linked to its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

/// Two neighbours that could be merged. Ordered by rank, then from left to right.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    at: u32,
    pair: (u32, u32),
    id: u32,
}

/// Buffers of [`Bpe::encode`], for re-use from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}
