//! Pre-tokenizers: how text is split into words before each word is merged on its own.
//!
//! Models publish theirs as a regular expression. The few shapes that exist are written out here by hand: one pass,
//! linear for any input, nothing to compile at start-up and no backtracking to run out of. Tests compare them with the
//! expressions. Where llama.cpp chains several expressions, each splits the pieces of the one before.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct PreTokenizer {
    /// The values of `tokenizer.ggml.pre` that mean this row; the first names it.
    pub names: &'static [&'static str],
    /// The expressions, each applied to the pieces of the one before.
    stages: &'static [Stage],
    /// A word that is a token is that token, whatever the merges say.
    pub(super) whole_words: bool,
    /// Texts begin with BOS unless the file says otherwise.
    pub(super) add_bos: bool,
}

/// One expression. `\p{L}` letters, `\p{N}` numbers, `\p{P}` punctuation, `\s` white space.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Llama3 { digits: usize },
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
    Gpt2,
    /// `\p{N}`
    Number,
    /// `\p{N}+`
    Numbers,
    /// `[0-9][0-9][0-9]`
    ThreeDigits,
    /// `[\p{P}\$\+<=>\^~\|]+`
    Punctuation,
    /// ``[\p{P}\$\+<=>\^~\|`]+``
    PunctuationAndBacktick,
}

/// The pre-tokenizers that are known to be right, as llama.cpp names and defines them.
pub static PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        stages: &[Stage::Llama3 { digits: 3 }],
        whole_words: true,
        add_bos: true,
    },
    PreTokenizer {
        names: &["smaug-bpe", "dbrx"],
        stages: &[Stage::Llama3 { digits: 3 }],
        whole_words: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["qwen2", "stablelm2"],
        stages: &[Stage::Llama3 { digits: 1 }],
        whole_words: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais"],
        stages: &[Stage::Gpt2],
        whole_words: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone"],
        stages: &[Stage::Number, Stage::Gpt2],
        whole_words: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["falcon"],
        stages: &[Stage::PunctuationAndBacktick, Stage::Gpt2, Stage::ThreeDigits],
        whole_words: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["default"],
        stages: &[Stage::Punctuation, Stage::Gpt2, Stage::Numbers, Stage::ThreeDigits],
        whole_words: false,
        add_bos: false,
    },
];

impl PreTokenizer {
    /// The row that `name` means.
    pub fn named(name: &str) -> Option<&'static PreTokenizer> {
        PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name))
    }

    /// Calls `word` with the words of `text`, in order; together they are the text.
    pub(super) fn split<'a>(&self, text: &'a str, word: &mut impl FnMut(&'a str)) {
        split(self.stages, text, word);
    }
}

fn split<'a>(stages: &[Stage], text: &'a str, word: &mut impl FnMut(&'a str)) {
    let Some((stage, later)) = stages.split_first() else {
        return word(text);
    };
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(stage.first(rest));
        split(later, piece, word);
        rest = after;
    }
}

impl Stage {
    /// Bytes of the first piece of `text`, which is not empty: a match, or everything up to the next one.
    fn first(&self, text: &str) -> usize {
        match self {
            Stage::Llama3 { digits } => llama3(text, *digits),
            Stage::Gpt2 => gpt2(text),
            Stage::Number => match first_char(text) {
                number if is_number(number) => number.len_utf8(),
                _ => run(text, |c| !is_number(c)),
            },
            Stage::Numbers => run_or_gap(text, is_number),
            Stage::Punctuation => run_or_gap(text, is_punctuation),
            Stage::PunctuationAndBacktick => run_or_gap(text, |c| c == '`' || is_punctuation(c)),
            Stage::ThreeDigits => {
                let at = text
                    .as_bytes()
                    .windows(3)
                    .position(|w| w.iter().all(u8::is_ascii_digit));
                match at {
                    None => text.len(),
                    Some(0) => 3,
                    Some(gap) => gap,
                }
            }
        }
    }
}

fn llama3(text: &str, digits: usize) -> usize {
    let first = first_char(text);
    if first == '\''
        && let Some(len) = contraction(text, true)
    {
        return len;
    }
    // [^\r\n\p{L}\p{N}]?\p{L}+
    let prefix = if is_letter(first) || is_number(first) || is_newline(first) {
        0
    } else {
        first.len_utf8()
    };
    match run(&text[prefix..], is_letter) {
        0 => {}
        letters => return prefix + letters,
    }
    // \p{N}{1,digits}
    let numbers: usize = text
        .chars()
        .take(digits)
        .take_while(|&c| is_number(c))
        .map(char::len_utf8)
        .sum();
    if numbers > 0 {
        return numbers;
    }
    //  ?[^\s\p{L}\p{N}]+[\r\n]*
    match symbols(text) {
        0 => {}
        len => return len + run(&text[len..], is_newline),
    }
    // \s*[\r\n]+
    let spaces = run(text, char::is_whitespace);
    match text[..spaces].rfind(is_newline) {
        Some(last) => last + 1,
        None => white_space(text, spaces),
    }
}

fn gpt2(text: &str) -> usize {
    if text.starts_with('\'')
        && let Some(len) = contraction(text, false)
    {
        return len;
    }
    let space = usize::from(text.starts_with(' '));
    for class in [is_letter, is_number] {
        match run(&text[space..], class) {
            0 => {}
            len => return space + len,
        }
    }
    match symbols(text) {
        0 => white_space(text, run(text, char::is_whitespace)),
        len => len,
    }
}

/// ` ?[^\s\p{L}\p{N}]+`, or 0.
fn symbols(text: &str) -> usize {
    let space = usize::from(text.starts_with(' '));
    match run(&text[space..], |c| !(c.is_whitespace() || is_letter(c) || is_number(c))) {
        0 => 0,
        len => space + len,
    }
}

/// `\s+(?!\S)|\s+` on a text that begins with `spaces` bytes of white space: the last one is left to the word behind.
fn white_space(text: &str, spaces: usize) -> usize {
    let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
    if spaces < text.len() && last < spaces {
        spaces - last
    } else {
        spaces
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d` on a text that begins with an apostrophe.
fn contraction(text: &str, ignore_case: bool) -> Option<usize> {
    let fold = |c: char| match c {
        'ſ' if ignore_case => 's', // the one other character that folds to one of these letters
        c if ignore_case => c.to_ascii_lowercase(),
        c => c,
    };
    let mut chars = text[1..].chars();
    let (a, b) = (chars.next()?, chars.next());
    match (fold(a), b.map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => Some(1 + a.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(3),
        _ => None,
    }
}

/// Bytes at the start of `text` whose characters are of `class`.
fn run(text: &str, class: impl Fn(char) -> bool) -> usize {
    text.find(|c| !class(c)).unwrap_or(text.len())
}

/// `[class]+`, or what comes before it.
fn run_or_gap(text: &str, class: impl Fn(char) -> bool) -> usize {
    match run(text, &class) {
        0 => run(text, |c| !class(c)),
        len => len,
    }
}

fn first_char(text: &str) -> char {
    text.chars().next().expect("a piece is not empty")
}

fn is_newline(c: char) -> bool {
    c == '\r' || c == '\n'
}

/// `\p{L}`
fn is_letter(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_alphabetic(),
        false => c.general_category_group() == GeneralCategoryGroup::Letter,
    }
}

/// `\p{N}`: what the standard library calls numeric.
fn is_number(c: char) -> bool {
    c.is_numeric()
}

/// `[\p{P}\$\+<=>\^~\|]`: all of ASCII's but the backtick.
fn is_punctuation(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_punctuation() && c != '`',
        false => c.general_category_group() == GeneralCategoryGroup::Punctuation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    use fancy_regex::Regex;
    use proptest::prelude::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        PreTokenizer::named(name)
            .unwrap()
            .split(text, &mut |w| words.push(w.to_owned()));
        words
    }

    /// The compiled expressions of every row.
    static EXPRESSIONS: LazyLock<Vec<Vec<Regex>>> = LazyLock::new(|| {
        PRE_TOKENIZERS
            .iter()
            .map(|p| p.stages.iter().map(expression).collect())
            .collect()
    });

    /// The expression of each stage, as in its documentation.
    fn expression(stage: &Stage) -> Regex {
        const CASES: &str = r"'s|'t|'re|'ve|'m|'ll|'d";
        Regex::new(&match stage {
            Stage::Llama3 { digits } => format!(
                r"(?i:{CASES})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,{digits}}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            Stage::Gpt2 => format!(r"{CASES}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)"),
            Stage::Number => r"\p{N}".to_owned(),
            Stage::Numbers => r"\p{N}+".to_owned(),
            Stage::ThreeDigits => "[0-9][0-9][0-9]".to_owned(),
            Stage::Punctuation => r"[\p{P}\$\+<=>\^~\|]+".to_owned(),
            Stage::PunctuationAndBacktick => r"[\p{P}\$\+<=>\^~\|`]+".to_owned(),
        })
        .unwrap()
    }

    /// Matches and the gaps between them, stage by stage.
    fn by_expression(stages: &[Regex], text: &str) -> Vec<String> {
        let Some((stage, later)) = stages.split_first() else {
            return vec![text.to_owned()];
        };
        let (mut pieces, mut at) = (Vec::new(), 0);
        for found in stage.find_iter(text) {
            let found = found.unwrap();
            pieces.extend([&text[at..found.start()], found.as_str()]);
            at = found.end();
        }
        pieces.push(&text[at..]);
        pieces
            .into_iter()
            .filter(|p| !p.is_empty())
            .flat_map(|p| by_expression(later, p))
            .collect()
    }

    #[test]
    fn examples() {
        assert_eq!(
            words("llama-bpe", "I'LL pay 12345€  now\n\n ok"),
            ["I", "'LL", " pay", " ", "123", "45", "€", " ", " now", "\n\n", " ok"]
        );
        assert_eq!(
            words("default", "it's 12345 (x)"),
            ["it", "'", "s", " ", "123", "45", " ", "(", "x", ")"]
        );
        assert_eq!(words("qwen2", "a12"), ["a", "1", "2"]);
        assert_eq!(words("gpt-2", "a 12\t\tb"), ["a", " 12", "\t", "\t", "b"]);
        assert_eq!(words("llama-bpe", ""), Vec::<String>::new());
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|p| p.names).copied().collect();
        let n = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n);
    }

    /// Pieces of text in which every alternative of every expression begins, ends and overlaps.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => proptest::sample::select(vec![
                " ", "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{3000}", "\u{85}", "'", "'s", "'LL", "'Ve", "'ſ", "'r", "a", "Zé", "日本", "ß",
                "Привет", "א", "1", "12", "345", "6789", "Ⅷ", "½", "٣", "!", "--", "`", "$", "+", "€", "、", "«", "🙂", "\u{301}", "\u{0}", "\u{200b}"
            ]).prop_map(str::to_owned),
            1 => "[a-zA-Z0-9 '\n]{0,6}",
            1 => "\\PC{0,4}",
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn equals_the_expressions(text in text()) {
            for (pre, stages) in PRE_TOKENIZERS.iter().zip(EXPRESSIONS.iter()) {
                prop_assert_eq!(words(pre.names[0], &text), by_expression(stages, &text), "{}", pre.names[0]);
            }
        }
    }
}
