//! Why a file's vocabulary cannot be used.

use crate::model::gguf::GgufError;

/// Why [`Tokenizer::from_gguf`](super::Tokenizer::from_gguf) failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// A key is missing or has the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Not byte-level BPE.
    #[error("tokenizer.ggml.model is {0:?}, which is not supported: only gpt2 (byte-level BPE) is")]
    Model(String),
    /// A pre-tokenizer without a row in the table.
    #[error("the pre-tokenizer {name:?} is not supported, only {}: choose one with --tokenizer-pre", .known.join(", "))]
    PreTokenizer {
        /// The name in the file or in the override.
        name: String,
        /// The names in the table.
        known: Vec<&'static str>,
    },
    /// An array that is shorter than its count, or does not fit the others.
    #[error("{key} has {found} entries, it must have {expected}: the file is damaged")]
    Count {
        /// The metadata key.
        key: &'static str,
        /// Entries found.
        found: usize,
        /// Entries needed.
        expected: usize,
    },
    /// More text than a vocabulary can have.
    #[error("{key} is larger than the {max} that are supported: the file is damaged")]
    TooLarge {
        /// The metadata key.
        key: &'static str,
        /// The limit.
        max: usize,
    },
    /// A token's text is not UTF-8.
    #[error("token {0} is not UTF-8: the file is damaged")]
    NotUtf8(u32),
    /// Two tokens with one text.
    #[error("tokens {first} and {second} have the same text: the file is damaged")]
    DuplicateToken {
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A byte that no token stands for, so that not every text could be encoded.
    #[error("the vocabulary has no token for the byte {0:#04x}: the file is damaged")]
    MissingByte(u8),
    /// A merge that does not join two tokens into a third.
    #[error("merge {index} ({text:?}) does not join two tokens into a third: the file is damaged")]
    Merge {
        /// Its place in the list.
        index: usize,
        /// Its text.
        text: String,
    },
    /// A special token's id outside the vocabulary.
    #[error("{key} is {id}, outside the vocabulary of {vocab}: the file is damaged")]
    SpecialToken {
        /// The metadata key.
        key: &'static str,
        /// The id.
        id: u32,
        /// Tokens in the vocabulary.
        vocab: usize,
    },
}
