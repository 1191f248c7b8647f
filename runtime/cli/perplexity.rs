//! `sterna perplexity MODEL FILE`: how well a model predicts a text.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::common::{CacheArgs, CommandError, ModelArgs, read_text};
use crate::engine::perplexity::{self, CONTEXT_MIN, Score};
use crate::engine::session::Session;
use crate::machine::cpu::Machine;
use crate::machine::limits::Threads;
use crate::text::Tokenizer;

/// Which text, and in what windows.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXPLANATION)]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Text in UTF-8 that the model was not trained on; - reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Tokens of context of a window, its BOS included [default: 512, or the model's if less]
    #[arg(short, long, visible_alias = "ctx-size", value_name = "TOKENS")]
    context: Option<usize>,
    /// Threads of the forward pass, at most one a CPU; or `auto`: the cores that affinity and cgroup grant
    #[arg(short, long, value_name = "N", default_value = "auto", env = "STERNA_THREADS")]
    threads: Threads,
    /// Tokens per forward pass; the result does not depend on it
    #[arg(short, long, visible_alias = "batch", value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    #[command(flatten)]
    cache: CacheArgs,
    /// Pre-tokenizer, overriding the model's: `llama-bpe`, or `default` for what bitnet.cpp does without one
    #[arg(long, value_name = "NAME", env = "STERNA_TOKENIZER_PRE")]
    tokenizer_pre: Option<String>,
    /// Print one JSON object: {"tokens", "bytes", "perplexity", "bits_per_byte", "context"}
    #[arg(long)]
    json: bool,
}

const EXPLANATION: &str = "\
Perplexity is the number of equally likely tokens that the model hesitates between, on average: 1 is certainty, the size of \
the vocabulary is ignorance. Compare models that share a tokenizer by it, over the same text and context; compare others by \
bits per byte.

The text is tokenised whole, without BOS, and cut into windows of context - 1 tokens. Each is read after one BOS token, and each \
token is scored once, given those before it in its window. The result is the same to the last bit on every CPU, with any \
--threads, --kernel and --batch-size.

Examples:
  sterna perplexity model.gguf heldout.txt
  sterna perplexity model.gguf heldout.txt --context 256 --json";

/// Tokens below which the number says little; a text that is shorter gets a remark.
const FEW_TOKENS: usize = 1000;

/// Runs the command.
pub fn run(args: PerplexityArgs, machine: &Machine) -> Result<(), CommandError> {
    let text = read_text(&args.file)?;
    let refuse = |reason: &str| CommandError::Text {
        what: args.file.display().to_string(),
        reason: reason.to_owned(),
    };
    if text.is_empty() {
        return Err(refuse("is empty: give a text of at least a few pages"));
    }
    let opened = args.model.open()?;
    let tokenizer = Tokenizer::from_gguf(&opened.gguf, args.tokenizer_pre.as_deref())?;
    let trained = opened.model.config.context;
    let context = args.context.unwrap_or(trained.min(512));
    if !(CONTEXT_MIN..=trained).contains(&context) {
        return Err(CommandError::Usage(format!(
            "--context {context} is outside {CONTEXT_MIN} to {trained}, which this model was trained for"
        )));
    }
    let Some(bos) = tokenizer.bos() else {
        return Err(CommandError::Usage(
            "the model names no BOS token, after which a text would begin: this measure is not defined for it"
                .to_owned(),
        ));
    };
    let tokens = tokenizer.encode(&text, false, false);
    if tokens.len() < 2 {
        return Err(refuse(
            "is too short, a single token: give a text of at least a few pages",
        ));
    }
    if tokens.len() < FEW_TOKENS {
        let few = tokens.len();
        eprintln!("sterna: {few} tokens are few: the number will say more about this text than about the model");
    }
    let mut session = Session::new(
        Arc::new(opened.model),
        args.model.kernels(machine)?,
        args.threads.resolve(),
        (context - 1).min(tokens.len()),
        args.batch_size as usize,
    )?
    .with_cache(args.cache.types())?;
    let bar = io::stderr().is_terminal();
    let score = perplexity::score(&mut session, bos, &tokens, context, |score| {
        if bar {
            draw(score, tokens.len());
        }
    })?;
    if bar {
        eprint!("\r\x1b[K");
    }
    report(&args, score, text.len(), context)
}

/// The bar on standard error, over the one before.
fn draw(score: Score, all: usize) {
    const WIDTH: usize = 30;
    let filled = score.tokens * WIDTH / all;
    let (full, empty) = ("#".repeat(filled), "-".repeat(WIDTH - filled));
    let (tokens, so_far) = (score.tokens, score.perplexity());
    eprint!("\r\x1b[K[{full}{empty}] {tokens} of {all} tokens, perplexity {so_far:.2} so far");
}

fn report(args: &PerplexityArgs, score: Score, bytes: usize, context: usize) -> Result<(), CommandError> {
    let (tokens, perplexity, bits_per_byte) = (score.tokens, score.perplexity(), score.bits_per_byte(bytes));
    let mut out = io::stdout().lock();
    if args.json {
        let object = json!({
            "tokens": tokens,
            "bytes": bytes,
            "perplexity": perplexity,
            "bits_per_byte": bits_per_byte,
            "context": context,
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "perplexity     {perplexity:.4}")?;
        writeln!(out, "bits per byte  {bits_per_byte:.4}")?;
        writeln!(out, "tokens         {tokens}, {bytes} bytes")?;
        writeln!(out, "context        {context}")?;
    }
    Ok(())
}
