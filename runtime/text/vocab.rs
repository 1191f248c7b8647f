//! The vocabulary: every token's bytes in one buffer, and the way back from bytes to the token.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::error::TokenizerError;
use crate::model::gguf::{Array, Value};

/// Most tokens.
const TOKENS_MAX: usize = 1 << 21;

/// What a token is, from `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text; also whatever type is unknown here.
    Normal,
    /// Structure, such as end of turn: never shown, and only read from text where that is asked for.
    Control,
    /// Text that is always cut out whole.
    UserDefined,
    /// Text outside the byte alphabet: shown as it is, never the result of encoding.
    Literal,
}

impl Kind {
    fn from_id(value: Value) -> Kind {
        match value {
            // 2 = unknown: a placeholder, treated like control in both directions, as llama.cpp does.
            Value::Signed(2 | 3) => Kind::Control,
            Value::Signed(4) => Kind::UserDefined,
            _ => Kind::Normal,
        }
    }
}

/// Tokens by id, and ids by bytes.
pub(super) struct Vocab {
    /// All tokens' bytes, one after the other.
    bytes: Vec<u8>,
    /// Token i is `bytes[ends[i - 1]..ends[i]]`.
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Ids of the normal tokens by their bytes. Keyed with a random seed: a file cannot be made to collide.
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Vocab {
    /// `tokens`: texts in the GPT-2 byte alphabet; `types`: their types, all normal when absent.
    pub(super) fn new(tokens: &Array, types: Option<&Array>) -> Result<Vocab, TokenizerError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let n = tokens.len;
        if n > TOKENS_MAX {
            return Err(TokenizerError::TooLarge {
                key: TOKENS,
                max: TOKENS_MAX,
            });
        }
        let kinds: Vec<Kind> = match types {
            Some(types) => types.scalars().map(Kind::from_id).collect(),
            None => vec![Kind::Normal; n],
        };
        let counted = |key, found| match found == n {
            true => Ok(()),
            false => Err(TokenizerError::Count {
                key,
                found,
                expected: n,
            }),
        };
        counted("tokenizer.ggml.token_type", kinds.len())?;

        let mut vocab = Vocab {
            bytes: Vec::with_capacity(8 * n),
            ends: Vec::with_capacity(n),
            kinds,
            table: HashTable::with_capacity(n),
            hasher: DefaultHashBuilder::default(),
        };
        for (text, id) in tokens.strings().zip(0u32..) {
            vocab.push(id, text)?;
        }
        counted(TOKENS, vocab.ends.len())?;
        Ok(vocab)
    }

    fn push(&mut self, id: u32, text: &[u8]) -> Result<(), TokenizerError> {
        let start = self.bytes.len();
        let encoded = self.kinds[id as usize] == Kind::Normal && decode_into(text, &mut self.bytes);
        if !encoded {
            self.bytes.truncate(start);
            self.bytes.extend_from_slice(text);
            // In the copy: the mapped file may change at any time.
            std::str::from_utf8(&self.bytes[start..]).map_err(|_| TokenizerError::NotUtf8(id))?;
            if self.kinds[id as usize] == Kind::Normal {
                self.kinds[id as usize] = Kind::Literal;
            }
        }
        self.ends
            .push(u32::try_from(self.bytes.len()).map_err(|_| TokenizerError::TooLarge {
                key: "tokenizer.ggml.tokens",
                max: u32::MAX as usize,
            })?);
        if encoded {
            let Vocab {
                table,
                bytes,
                ends,
                hasher,
                ..
            } = self;
            let text = |id| slice(bytes, ends, id);
            let hash = hasher.hash_one(text(id));
            match table.entry(
                hash,
                |&other| text(other) == text(id),
                |&other| hasher.hash_one(text(other)),
            ) {
                Entry::Vacant(place) => place.insert(id),
                Entry::Occupied(place) => {
                    return Err(TokenizerError::DuplicateToken {
                        first: *place.get(),
                        second: id,
                    });
                }
            };
        }
        Ok(())
    }

    /// Tokens in the vocabulary.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token: what it stands for in text. Empty outside the vocabulary.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        match (id as usize) < self.len() {
            true => slice(&self.bytes, &self.ends, id),
            false => &[],
        }
    }

    /// What the token is; control outside the vocabulary.
    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Control)
    }

    /// True when `id` is a normal token that stands for exactly these bytes.
    pub(super) fn is(&self, id: u32, bytes: &[u8]) -> bool {
        self.bytes(id) == bytes && self.kind(id) == Kind::Normal
    }

    /// The normal token that stands for exactly these bytes.
    pub(super) fn id(&self, bytes: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(bytes);
        self.table
            .find(hash, |&id| slice(&self.bytes, &self.ends, id) == bytes)
            .copied()
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let start = if id == 0 { 0 } else { ends[id as usize - 1] };
    &bytes[start as usize..ends[id as usize] as usize]
}

/// Appends what a text in GPT-2's byte alphabet stands for; false (and rubbish appended) when it is not in it.
///
/// Printable Latin-1 stands for itself, every other byte b for the next character from U+0100 on.
pub(super) fn decode_into(text: &[u8], out: &mut Vec<u8>) -> bool {
    let mut at = 0;
    while at < text.len() {
        let b = text[at];
        if (b'!'..=b'~').contains(&b) {
            out.push(b);
            at += 1;
            continue;
        }
        // All other characters of the alphabet are U+00A1 to U+0143: two bytes of UTF-8.
        let Some(&next @ 0x80..=0xbf) = text.get(at + 1) else {
            return false;
        };
        let code = usize::from(b & 0x1f) << 6 | usize::from(next & 0x3f);
        match (b, ALPHABET.get(code)) {
            (0xc2..=0xc5, Some(&byte @ 0..)) => out.push(byte as u8),
            _ => return false,
        }
        at += 2;
    }
    true
}

/// The byte that each character stands for, by code point; -1 for characters outside the alphabet.
const ALPHABET: [i16; 324] = {
    let mut alphabet = [-1; 324];
    let (mut byte, mut next) = (0, 256);
    while byte < 256 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte } else { next };
        if !printable {
            next += 1;
        }
        alphabet[code] = byte as i16;
        byte += 1;
    }
    alphabet
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet() {
        let decode = |text: &str| {
            let mut out = Vec::new();
            decode_into(text.as_bytes(), &mut out).then_some(out)
        };
        assert_eq!(decode("Hello"), Some(b"Hello".to_vec()));
        assert_eq!(decode("ĠĊ"), Some(b" \n".to_vec()));
        assert_eq!(decode("ÃŃ"), Some(vec![0xc3, 0xad]));
        assert_eq!(decode("Āł"), Some(vec![0x00, 0xa0]));
        for outside in [" ", "日", "ń", "\u{7f}", "\u{a0}", "🙂"] {
            assert_eq!(decode(outside), None, "{outside:?}");
        }
        let all: String = (33..324u32).filter_map(char::from_u32).collect();
        let mut bytes: Vec<u8> = all
            .chars()
            .filter_map(|c| decode(&c.to_string()))
            .map(|bytes| bytes[0])
            .collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }
}
