//! The tokenizer: special tokens, words, merges, and what the file says about beginning and end.

use aho_corasick::{AhoCorasick, MatchKind};

use super::bpe::{Bpe, Scratch};
use super::error::TokenizerError;
use super::pre::{PRE_TOKENIZERS, PreTokenizer};
use super::vocab::{Kind, Vocab};
use crate::model::gguf::{Array, Gguf, ValueType};

/// Tokens that end a turn or a text, by their text: files name only one of theirs as EOS. All end with `>`.
const END_TEXTS: [&str; 11] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "<｜end▁of▁sentence｜>",
];

const _: () = {
    let mut i = 0;
    while i < END_TEXTS.len() {
        assert!(matches!(END_TEXTS[i].as_bytes(), [.., b'>']));
        i += 1;
    }
};

/// A vocabulary with its merges, and what the file says of special tokens.
pub struct Tokenizer {
    vocab: Vocab,
    bpe: Bpe,
    pre: &'static PreTokenizer,
    pre_reason: String,
    /// Control and user-defined tokens.
    special: Specials,
    /// User-defined tokens alone.
    user_defined: Specials,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    end: Vec<u32>,
}

impl Tokenizer {
    /// The tokenizer of a model file. `pre` overrides the file's pre-tokenizer, by its name.
    ///
    /// A file without `tokenizer.ggml.pre` is split as its vocabulary was trained when that is recognised, see
    /// [`Tokenizer::pre_tokenizer`]; `Some("default")` splits it as bitnet.cpp does.
    pub fn from_gguf(gguf: &Gguf, pre: Option<&str>) -> Result<Tokenizer, TokenizerError> {
        match gguf.require::<&str>("tokenizer.ggml.model")? {
            "gpt2" => {}
            other => return Err(TokenizerError::Model(other.to_owned())),
        }
        let strings = |key| gguf.array(key, ValueType::String);
        let tokens = gguf
            .require::<&Array>("tokenizer.ggml.tokens")
            .and(strings("tokenizer.ggml.tokens"))?;
        let merges = gguf
            .require::<&Array>("tokenizer.ggml.merges")
            .and(strings("tokenizer.ggml.merges"))?;
        let types = gguf.array("tokenizer.ggml.token_type", ValueType::I32)?;
        let (Some(tokens), Some(merges)) = (tokens, merges) else {
            unreachable!("required above");
        };
        let vocab = Vocab::new(tokens, types)?;
        let bpe = Bpe::new(&vocab, merges)?;
        let special = Specials::new(&vocab, &[Kind::Control, Kind::UserDefined])?;
        let user_defined = Specials::new(&vocab, &[Kind::UserDefined])?;

        let id = |key| match gguf.get::<u32>(key)? {
            Some(id) if id as usize >= vocab.len() => Err(TokenizerError::SpecialToken {
                key,
                id,
                vocab: vocab.len(),
            }),
            id => Ok(id),
        };
        let (bos, eos) = (id("tokenizer.ggml.bos_token_id")?, id("tokenizer.ggml.eos_token_id")?);
        let (eot, eom) = (id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?);
        // Most tokens are told apart by their last byte.
        let ends_text = |text: &[u8]| text.ends_with(b">") && END_TEXTS.iter().any(|end| end.as_bytes() == text);
        let named = (0..vocab.len() as u32).filter(|&id| ends_text(vocab.bytes(id)));
        let mut end: Vec<u32> = named.chain([eos, eot, eom].into_iter().flatten()).collect();
        end.sort_unstable();
        end.dedup();

        let (pre, pre_reason) = choose_pre(gguf, pre, &special, merges)?;
        let add_bos = gguf.get::<bool>("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.add_bos);
        Ok(Tokenizer {
            vocab,
            bpe,
            pre,
            pre_reason,
            special,
            user_defined,
            bos,
            eos,
            add_bos,
            end,
        })
    }

    /// Token ids of `text`. `bos`: begin with the BOS token if the model wants one, and `text` does not have it.
    /// `special`: text such as `<|eot_id|>` becomes its control token; otherwise it is plain text.
    pub fn encode(&self, text: &str, bos: bool, special: bool) -> Vec<u32> {
        let (mut out, mut scratch) = (Vec::new(), Scratch::default());
        let mut at = 0;
        for (start, end, id) in if special { &self.special } else { &self.user_defined }.find(text) {
            self.encode_text(&text[at..start], &mut scratch, &mut out);
            out.push(id);
            at = end;
        }
        self.encode_text(&text[at..], &mut scratch, &mut out);
        if let Some(id) = self.bos.filter(|_| bos && self.add_bos)
            && out.first() != Some(&id)
        {
            out.insert(0, id);
        }
        out
    }

    fn encode_text(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        self.pre.split(text, &mut |word| {
            let whole = self.pre.whole_words.then(|| self.vocab.id(word.as_bytes())).flatten();
            match whole {
                Some(id) => out.push(id),
                None => self.bpe.encode(&self.vocab, word.as_bytes(), scratch, out),
            }
        });
    }

    /// The bytes of one token; empty for control tokens unless `special`, and for ids outside the vocabulary.
    pub fn token_bytes(&self, id: u32, special: bool) -> &[u8] {
        match self.vocab.kind(id) {
            Kind::Control if !special => &[],
            _ => self.vocab.bytes(id),
        }
    }

    /// True for tokens that end a generation (EOS, EOT, EOM and their like).
    pub fn is_eog(&self, id: u32) -> bool {
        self.end.contains(&id)
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The token that texts begin with.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that texts end with.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The pre-tokenizer, and why it was chosen.
    pub fn pre_tokenizer(&self) -> (&'static PreTokenizer, &str) {
        (self.pre, &self.pre_reason)
    }

    /// The text of a token for chat templates; empty for `None`.
    pub(super) fn special_text(&self, id: Option<u32>) -> String {
        let bytes = id.map_or(&[][..], |id| self.vocab.bytes(id));
        String::from_utf8_lossy(bytes).into_owned()
    }
}

/// The override, else the file's, else the one that the vocabulary was trained with, else llama.cpp's default.
fn choose_pre(
    gguf: &Gguf,
    wanted: Option<&str>,
    special: &Specials,
    merges: &Array,
) -> Result<(&'static PreTokenizer, String), TokenizerError> {
    let named = |name: &str| {
        PreTokenizer::named(name).ok_or_else(|| TokenizerError::PreTokenizer {
            name: name.to_owned(),
            known: PRE_TOKENIZERS.iter().flat_map(|p| p.names).copied().collect(),
        })
    };
    if let Some(name) = wanted {
        return Ok((named(name)?, "asked for".to_owned()));
    }
    if let Some(name) = gguf.get::<&str>("tokenizer.ggml.pre")? {
        return Ok((named(name)?, "tokenizer.ggml.pre".to_owned()));
    }
    // Llama 3's vocabulary: its special tokens, over merges that begin with two spaces (GPT-2's begin with " t").
    // The published BitNet-b1.58-2B-4T file is one of those: it lacks the key, and was trained with this expression.
    let llama3 = ["<|begin_of_text|>", "<|eot_id|>"].iter().all(|t| special.contains(t))
        && merges.strings().next() == Some("Ġ Ġ".as_bytes());
    Ok(match llama3 {
        true => (
            named("llama-bpe")?,
            "no tokenizer.ggml.pre, but the vocabulary is Llama 3's".to_owned(),
        ),
        false => {
            tracing::warn!("the file has no tokenizer.ggml.pre: splitting text as llama.cpp's default does");
            (named("default")?, "no tokenizer.ggml.pre".to_owned())
        }
    })
}

/// Finds special tokens in text, all at once: the leftmost, and of those the longest.
struct Specials {
    /// `None` without any: nothing is searched.
    automaton: Option<AhoCorasick>,
    /// Texts and ids, by the automaton's pattern.
    tokens: Vec<(String, u32)>,
}

impl Specials {
    fn new(vocab: &Vocab, kinds: &[Kind]) -> Result<Specials, TokenizerError> {
        let ids = (0..vocab.len() as u32).filter(|&id| kinds.contains(&vocab.kind(id)) && !vocab.bytes(id).is_empty());
        let tokens: Vec<(String, u32)> = ids
            .map(|id| (String::from_utf8_lossy(vocab.bytes(id)).into_owned(), id))
            .collect();
        let automaton = match tokens.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(tokens.iter().map(|(text, _)| text))
                    .map_err(|_| TokenizerError::TooLarge {
                        key: "the text of all special tokens",
                        max: i32::MAX as usize,
                    })?,
            ),
        };
        Ok(Specials { automaton, tokens })
    }

    fn contains(&self, text: &str) -> bool {
        self.tokens.iter().any(|(t, _)| t == text)
    }

    /// (start, end, id) of the special tokens in `text`, in order. Positions are between characters.
    fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, usize, u32)> + 'a {
        let found = self.automaton.iter().flat_map(move |a| a.find_iter(text));
        found.map(|m| (m.start(), m.end(), self.tokens[m.pattern()].1))
    }
}
