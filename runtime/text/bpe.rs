//! Byte-pair encoding of one word: join the neighbours whose merge ranks first, until none is left.
//!
//! A merge is looked up by its result: the bytes of two neighbours together are a token or not, and where that token
//! was split tells which merge it is. So building needs one pass over the list and no table of pairs, which is what
//! makes 280 thousand merges ready in milliseconds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::error::TokenizerError;
use super::vocab::{self, Vocab};
use crate::machine::join;
use crate::model::gguf::Array;

/// Most merges.
const MERGES_MAX: usize = 1 << 23;

/// The merges by their result, and the tokens of single bytes.
pub(super) struct Bpe {
    /// The merges that make token t are `merges[first[t]..first[t + 1]]`, by split; of equal ones the first counts.
    first: Vec<u32>,
    merges: Vec<Merge>,
    bytes: [u32; 256],
}

/// One way to make a token.
#[derive(Debug, Clone, Copy, Default)]
struct Merge {
    /// Bytes of the left part.
    split: u32,
    /// Place in the file's list: lower is earlier.
    rank: u32,
}

impl Bpe {
    /// `list`: "left right" in the GPT-2 byte alphabet, best first.
    pub(super) fn new(vocab: &Vocab, list: &Array) -> Result<Bpe, TokenizerError> {
        const KEY: &str = "tokenizer.ggml.merges";
        if list.len > MERGES_MAX {
            return Err(TokenizerError::TooLarge {
                key: KEY,
                max: MERGES_MAX,
            });
        }
        let mut bytes = [0; 256];
        for (byte, id) in (0..=255u8).zip(&mut bytes) {
            *id = vocab.id(&[byte]).ok_or(TokenizerError::MissingByte(byte))?;
        }

        let texts: Vec<&[u8]> = list.strings().collect();
        if texts.len() != list.len {
            return Err(TokenizerError::Count {
                key: KEY,
                found: texts.len(),
                expected: list.len,
            });
        }
        let parsed = parse(vocab, &texts).map_err(|index| TokenizerError::Merge {
            index,
            text: String::from_utf8_lossy(&texts[index][..texts[index].len().min(100)]).into_owned(),
        })?;
        let (first, merges) = by_result(&parsed, vocab.len());
        Ok(Bpe { first, merges, bytes })
    }

    /// Appends the tokens of `word`. O(n log n) in its length.
    pub(super) fn encode(&self, vocab: &Vocab, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        symbols.extend(word.iter().zip(0u32..).map(|(&byte, at)| Symbol {
            id: self.bytes[usize::from(byte)],
            end: at + 1,
            prev: at.wrapping_sub(1),
        }));
        // Collected first: a heap from a vector takes linear time.
        let mut start = std::mem::take(queue).into_vec();
        start.extend((0..word.len() as u32).filter_map(|at| self.candidate(vocab, word, symbols, at)));
        *queue = BinaryHeap::from(start);

        while let Some(Reverse(best)) = queue.pop() {
            let left = symbols[best.at as usize];
            let Some(right) = symbols.get(left.end as usize) else {
                continue;
            };
            if (left.end, right.end) != (best.split, best.end) {
                continue; // one of the two was merged with another in the meantime
            }
            symbols[best.split as usize].end = GONE;
            symbols[best.at as usize] = Symbol {
                id: best.id,
                end: best.end,
                ..left
            };
            if let Some(after) = symbols.get_mut(best.end as usize) {
                after.prev = best.at;
            }
            queue.extend(self.candidate(vocab, word, symbols, left.prev));
            queue.extend(self.candidate(vocab, word, symbols, best.at));
        }
        let mut at = 0;
        while let Some(symbol) = symbols.get(at as usize) {
            out.push(symbol.id);
            at = symbol.end;
        }
    }

    /// The merge of the symbol at `at` with the one behind it.
    fn candidate(&self, vocab: &Vocab, word: &[u8], symbols: &[Symbol], at: u32) -> Option<Reverse<Candidate>> {
        let left = symbols.get(at as usize)?;
        let right = symbols.get(left.end as usize)?;
        let id = vocab.id(&word[at as usize..right.end as usize])?;
        let ways = &self.merges[self.first[id as usize] as usize..self.first[id as usize + 1] as usize];
        let split = left.end - at;
        let way = ways
            .get(ways.partition_point(|m| m.split < split))
            .filter(|m| m.split == split)?;
        Some(Reverse(Candidate {
            rank: way.rank,
            at,
            split: left.end,
            end: right.end,
            id,
        }))
    }
}

/// (result, length of the left part) of all merges; the index of one that is none. Half of them are parsed on a thread of their own, since
/// nothing else at start-up takes as long.
fn parse(vocab: &Vocab, texts: &[&[u8]]) -> Result<Vec<(u32, u32)>, usize> {
    let (front, back) = texts.split_at(texts.len() / 2);
    let (parsed, rest) = join(|| parse_in_order(vocab, front), || parse_in_order(vocab, back));
    let mut parsed = parsed?;
    parsed.extend(rest.map_err(|index| front.len() + index)?);
    Ok(parsed)
}

fn parse_in_order(vocab: &Vocab, texts: &[&[u8]]) -> Result<Vec<(u32, u32)>, usize> {
    let mut parsed: Vec<(u32, u32)> = Vec::with_capacity(texts.len());
    let mut word = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let last = parsed.last().map_or(0, |&(id, _)| id);
        parsed.push(parse_one(vocab, text, &mut word, last).ok_or(index)?);
    }
    Ok(parsed)
}

/// (result, length of the left part) of one merge; `last`: the result of the merge before.
fn parse_one(vocab: &Vocab, text: &[u8], word: &mut Vec<u8>, last: u32) -> Option<(u32, u32)> {
    let space = 1 + text.get(1..)?.iter().position(|&b| b == b' ')?;
    word.clear();
    let decoded = vocab::decode_into(&text[..space], word);
    let split = u32::try_from(word.len()).ok()?;
    if !(decoded && vocab::decode_into(&text[space + 1..], word) && (split as usize) < word.len()) {
        return None;
    }
    // Merges come in the order of their results, often several for one: the guess spares most look-ups.
    let guess = [last, last + 1].into_iter().find(|&id| vocab.is(id, word));
    Some((guess.or_else(|| vocab.id(word))?, split))
}

/// Groups (result, split) pairs, given by rank, by their result; within one by split, then rank.
fn by_result(parsed: &[(u32, u32)], vocab: usize) -> (Vec<u32>, Vec<Merge>) {
    let mut first = vec![0; vocab + 1];
    for &(id, _) in parsed {
        first[id as usize + 1] += 1;
    }
    for id in 0..vocab {
        first[id + 1] += first[id];
    }
    let (mut next, mut merges) = (first.clone(), vec![Merge::default(); parsed.len()]);
    for (&(id, split), rank) in parsed.iter().zip(0..) {
        merges[next[id as usize] as usize] = Merge { split, rank };
        next[id as usize] += 1;
    }
    for range in first.windows(2) {
        merges[range[0] as usize..range[1] as usize].sort_unstable_by_key(|m| (m.split, m.rank));
    }
    (first, merges)
}

/// The `end` of a symbol that was merged into the one before it: no live symbol ends at 0.
const GONE: u32 = 0;

/// A token of the word so far. The symbol at index i begins with byte i; `symbols[end]` is the next one.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    end: u32,
    /// Where the symbol before it begins; outside the word for the first.
    prev: u32,
}

/// Two neighbours, at..split and split..end, that could be merged. Ordered by rank, then from left to right.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    at: u32,
    split: u32,
    end: u32,
    id: u32,
}

/// Buffers of [`Bpe::encode`], for re-use from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}
