//! The tokenizer against the peers: bitnet.cpp's golden tokens, and Hugging Face's `tokenizers` on any text.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::{Tokenizer, TokenizerError};
use crate::model::gguf::{Array, Gguf};
use crate::model::testing::{V, Writer, small_model};
use crate::model::{GgufFile, MapOptions};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/runtime/tests/data");
const MULTILINGUAL: &str = include_str!("../tests/data/multilingual.txt");

static NANO: LazyLock<GgufFile> =
    LazyLock::new(|| GgufFile::open(&Path::new(DATA).join("nano-i2_s.gguf"), MapOptions::default()).unwrap());
static OURS: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_gguf(&NANO.gguf, None).unwrap());
static PEER: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| peer(&NANO.gguf));

/// Hugging Face's tokenizer over the same vocabulary, set up as Llama 3's tokenizer.json is.
fn peer(gguf: &Gguf) -> tokenizers::Tokenizer {
    let strings = |key: &str| -> Vec<String> {
        let array = gguf.require::<&Array>(key).unwrap();
        array
            .strings()
            .map(|s| String::from_utf8(s.to_vec()).unwrap())
            .collect()
    };
    let tokens = strings("tokenizer.ggml.tokens");
    let special = (tokens.len() - 256..tokens.len()).map(|id| {
        json!({"id": id, "content": tokens[id], "special": true, "normalized": false,
                         "single_word": false, "lstrip": false, "rstrip": false})
    });
    let vocab: serde_json::Map<_, _> = tokens[..tokens.len() - 256]
        .iter()
        .zip(0..)
        .map(|(t, id): (_, u32)| (t.clone(), json!(id)))
        .collect();
    let expression = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let file = json!({
        "version": "1.0",
        "added_tokens": special.collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "model": {"type": "BPE", "vocab": vocab, "merges": strings("tokenizer.ggml.merges"), "ignore_merges": true},
    });
    tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap()
}

fn peer_tokens(text: &str) -> Vec<u32> {
    PEER.encode_fast(text, false).unwrap().get_ids().to_vec()
}

/// The bytes of all tokens.
fn decode(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|&id| tokenizer.token_bytes(id, true))
        .copied()
        .collect()
}

#[test]
fn the_golden_tokens() {
    for name in ["p0", "p1", "p2"] {
        let path = |end: &str| Path::new(DATA).join("nano-i2_s").join(format!("{name}.{end}"));
        // "PROMPT ...\nGREEDY ...": the generated half is noise and need not be UTF-8.
        let text = String::from_utf8_lossy(&std::fs::read(path("txt")).unwrap()).into_owned();
        let prompt = text.strip_prefix("PROMPT ").unwrap().split_once("\nGREEDY").unwrap().0;
        let npy = std::fs::read(path("tokens.npy")).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([npy[8], npy[9]]));
        let tokens: Vec<u32> = npy[header..]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect();
        assert_eq!(OURS.encode(prompt, true, true), tokens, "{name}");
    }
}

#[test]
fn multilingual_text_equals_the_peer() {
    let tokens = OURS.encode(MULTILINGUAL, false, true);
    assert_eq!(tokens, peer_tokens(MULTILINGUAL));
    assert_eq!(decode(&OURS, &tokens), MULTILINGUAL.as_bytes());
    for line in MULTILINGUAL.lines() {
        assert_eq!(OURS.encode(line, false, true), peer_tokens(line), "{line}");
    }
}

proptest! {
    #[test]
    fn any_text_equals_the_peer(parts in proptest::collection::vec(
        prop_oneof![
            any::<String>(),
            "[a-z ]{0,20}",
            "[ \n\r\t'0-9A-Za-z.,!?]{0,12}",
            proptest::sample::select(vec!["<|eot_id|>", "<|begin_of_text|>", "<|eot_id", "the the", "    ", "日本語", "Привет", "\u{200d}"])
                .prop_map(str::to_owned),
        ], 0..6)
    ) {
        let text = parts.concat();
        let tokens = OURS.encode(&text, false, true);
        prop_assert_eq!(&tokens, &peer_tokens(&text));
        prop_assert_eq!(decode(&OURS, &tokens), text.as_bytes());
    }

    #[test]
    fn plain_text_never_becomes_a_special_token(text in "(<\\|eot_id\\|>|<\\||[a-z<|>_ ]){0,12}") {
        let tokens = OURS.encode(&text, false, false);
        prop_assert!(tokens.iter().all(|&id| (id as usize) < OURS.vocab() - 256));
        prop_assert_eq!(decode(&OURS, &tokens), text.as_bytes());
    }
}

#[test]
fn bos_is_added_once() {
    let bos = OURS.bos().unwrap();
    let plain = OURS.encode("Hi", false, true);
    assert_eq!(OURS.encode("Hi", true, true), [&[bos], &plain[..]].concat());
    assert_eq!(
        OURS.encode("<|begin_of_text|>Hi", true, true),
        [&[bos], &plain[..]].concat()
    );
    assert_eq!(OURS.encode("", true, true), [bos]);
    assert!(OURS.encode("", false, true).is_empty());
}

#[test]
fn special_tokens_end_and_hide() {
    let eot = OURS.encode("<|eot_id|>", false, true);
    assert!(
        matches!(eot[..], [id] if OURS.is_eog(id) && OURS.token_bytes(id, false).is_empty()
        && OURS.token_bytes(id, true) == b"<|eot_id|>")
    );
    assert!(OURS.is_eog(OURS.eos().unwrap()) && !OURS.is_eog(OURS.bos().unwrap()));
    assert_eq!(
        (OURS.token_bytes(u32::MAX, true), OURS.is_eog(u32::MAX)),
        (&b""[..], false)
    );
}

/// A word without a boundary is the worst case of merging, a text without words that of splitting.
#[test]
fn long_words_take_no_quadratic_time() {
    for piece in ["a", "ab", " ", "1", "日本", "'", "\r\n", "<|"] {
        let text = piece.repeat(200_000);
        assert_eq!(decode(&OURS, &OURS.encode(&text, false, true)), text.as_bytes());
    }
}

fn tokenizer(change: impl FnOnce(&mut Writer)) -> Result<Tokenizer, TokenizerError> {
    let mut writer = small_model();
    change(&mut writer);
    Tokenizer::from_gguf(&writer.load().unwrap().1, None)
}

/// The small model's tokens, and what `change` makes of them.
fn tokens(change: impl FnOnce(&mut Vec<String>)) -> Vec<String> {
    let gguf = small_model().load().unwrap().1;
    let array = gguf.require::<&Array>("tokenizer.ggml.tokens").unwrap();
    let mut tokens = array
        .strings()
        .map(|s| String::from_utf8(s.to_vec()).unwrap())
        .collect();
    change(&mut tokens);
    tokens
}

#[test]
fn the_pre_tokenizer_is_chosen_with_a_reason() {
    let chosen = |t: &Tokenizer| (t.pre_tokenizer().0.names[0], t.pre_tokenizer().1.to_owned());
    assert_eq!(chosen(&OURS), ("llama-bpe", "tokenizer.ggml.pre".to_owned()));
    let asked = Tokenizer::from_gguf(&NANO.gguf, Some("default")).unwrap();
    assert_eq!(chosen(&asked), ("default", "asked for".to_owned()));
    // The small model has Llama 3's special tokens but not its merges.
    let unknown = tokenizer(|w| {
        w.remove("tokenizer.ggml.pre");
    })
    .unwrap();
    assert_eq!(chosen(&unknown), ("default", "no tokenizer.ggml.pre".to_owned()));
    let spaces = tokens(|t| t[256] = "ĠĠ".to_owned());
    let llama3 = tokenizer(|w| {
        w.remove("tokenizer.ggml.pre");
        w.set("tokenizer.ggml.tokens", V::Strs(&spaces));
        w.set("tokenizer.ggml.merges", V::Strs(&["Ġ Ġ".to_owned()]));
    });
    assert_eq!(
        chosen(&llama3.unwrap()),
        (
            "llama-bpe",
            "no tokenizer.ggml.pre, but the vocabulary is Llama 3's".to_owned()
        )
    );
}

#[test]
fn vocabularies_that_cannot_be_used() {
    let error = |change: &dyn Fn(&mut Writer)| tokenizer(|w| change(w)).err().unwrap();
    let with = |tokens: Vec<String>| {
        error(&|w| {
            w.set("tokenizer.ggml.tokens", V::Strs(&tokens));
        })
    };
    assert_eq!(
        error(&|w| {
            w.set("tokenizer.ggml.model", V::Str("llama"));
        }),
        TokenizerError::Model("llama".to_owned())
    );
    assert!(
        error(&|w| {
            w.set("tokenizer.ggml.pre", V::Str("klingon"));
        })
        .to_string()
        .contains("llama-bpe"),
    );
    assert_eq!(
        with(tokens(|t| t[256] = "a".to_owned())),
        TokenizerError::DuplicateToken { first: 97, second: 256 }
    );
    assert_eq!(
        with(tokens(|t| t[97] = "aa".to_owned())),
        TokenizerError::MissingByte(b'a')
    );
    assert!(matches!(
        with(tokens(|t| t[256] = "Ġb".to_owned())),
        TokenizerError::Merge { index: 0, .. }
    ));
    assert!(matches!(
        error(&|w| {
            w.set("tokenizer.ggml.merges", V::Strs(&["Ġa".to_owned()]));
        }),
        TokenizerError::Merge { index: 0, .. }
    ));
    // Halves of the list are parsed side by side; the first error counts.
    for bad in [&[3][..], &[1, 3]] {
        let mut merges = vec!["Ġ a".to_owned(); 4];
        bad.iter().for_each(|&at| merges[at] = "Ġa".to_owned());
        let found = error(&|w| {
            w.set("tokenizer.ggml.merges", V::Strs(&merges));
        });
        assert!(matches!(found, TokenizerError::Merge { index, .. } if index == bad[0]));
    }
    assert_eq!(
        error(&|w| {
            w.set("tokenizer.ggml.token_type", V::I32s(&[1, 2]));
        }),
        TokenizerError::Count {
            key: "tokenizer.ggml.token_type",
            found: 2,
            expected: 259
        }
    );
    assert!(matches!(
        error(&|w| {
            w.set("tokenizer.ggml.eos_token_id", V::U32(259));
        }),
        TokenizerError::SpecialToken {
            id: 259,
            vocab: 259,
            ..
        }
    ));
}

#[test]
fn user_defined_tokens_are_cut_out_of_plain_text() {
    let mut types = vec![1; 257];
    types.extend([4, 3]);
    let t = tokenizer(|w| {
        w.set("tokenizer.ggml.token_type", V::I32s(&types));
    })
    .unwrap();
    assert_eq!(t.encode("a<|begin_of_text|>", false, false), [97, 257]);
    assert_eq!(t.token_bytes(257, false), b"<|begin_of_text|>");
}
