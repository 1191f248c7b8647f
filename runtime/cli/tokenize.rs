//! `sterna tokenize MODEL TEXT`: the tokens of a text.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::common::{CommandError, read_text};
use crate::model::{GgufFile, MapOptions};
use crate::text::Tokenizer;

/// Which text, and how to print its tokens.
#[derive(Clone, Debug, clap::Args)]
pub struct TokenizeArgs {
    /// GGUF file, or a directory that holds one
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The text; - reads standard input
    #[arg(value_name = "TEXT")]
    text: String,
    /// Print one JSON object: `{"tokens": [ids], "pieces": [texts]}`
    #[arg(long)]
    json: bool,
    /// Do not begin with the BOS token
    #[arg(long)]
    no_bos: bool,
    /// Read text such as <|eot_id|> as plain text, not as the special token
    #[arg(long)]
    no_special: bool,
    /// Pre-tokenizer, overriding the model's: `llama-bpe`, or `default` for what bitnet.cpp does without one
    #[arg(long, value_name = "NAME", env = "STERNA_TOKENIZER_PRE")]
    tokenizer_pre: Option<String>,
}

/// Runs the command. Needs only the vocabulary of the model: any architecture will do.
pub fn run(args: TokenizeArgs) -> Result<(), CommandError> {
    let file = GgufFile::open(&args.model, MapOptions::default())?;
    let tokenizer = Tokenizer::from_gguf(&file.gguf, args.tokenizer_pre.as_deref())?;
    let text = match args.text.as_str() {
        "-" => read_text(Path::new("-"))?,
        text => text.to_owned(),
    };
    let tokens = tokenizer.encode(&text, !args.no_bos, !args.no_special);
    let pieces = tokens
        .iter()
        .map(|&id| String::from_utf8_lossy(tokenizer.token_bytes(id, true)));
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(
            out,
            "{}",
            json!({"tokens": tokens, "pieces": pieces.collect::<Vec<_>>()})
        )?;
    } else {
        for (id, piece) in tokens.iter().zip(pieces) {
            writeln!(out, "{id:>8} {piece:?}")?;
        }
    }
    Ok(())
}
