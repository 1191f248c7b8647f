//! Text to tokens and back: byte-pair encoding, chat templates, streaming decode.

use serde::{Deserialize, Serialize};

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A vocabulary with its merges, and what the file says of special tokens.
pub struct Tokenizer {}

impl Tokenizer {
    /// Token ids of `text`. `bos`: begin with the BOS token if the model wants one. `special`: text such as
    /// `<|eot_id|>` becomes its control token; otherwise it is plain text.
    pub fn encode(&self, _text: &str, _bos: bool, _special: bool) -> Vec<u32> {
        todo!()
    }

    /// The bytes of one token; empty for control tokens unless `special`, and for ids outside the vocabulary.
    pub fn token_bytes(&self, _id: u32, _special: bool) -> &[u8] {
        todo!()
    }

    /// True for tokens that end a generation (EOS, EOT, EOM and their like).
    pub fn is_eog(&self, _id: u32) -> bool {
        todo!()
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        todo!()
    }
}

/// The model's chat template.
pub struct ChatTemplate {}

impl ChatTemplate {
    /// The prompt text of a chat, ready to be encoded with `special = true` (and `bos = false` when the
    /// template wrote the BOS text itself: [`Tokenizer::encode`] never doubles it).
    pub fn render(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<String, String> {
        todo!()
    }
}
