//! `sterna logits MODEL --tokens 1,2,3 --output F`: the raw logits after a sequence of tokens, for conformance tests.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::common::{CacheArgs, CommandError, ModelArgs, TokenList};
use crate::engine::SubmitError;
use crate::engine::session::Session;
use crate::machine::cpu::Machine;
use crate::machine::limits::Threads;

/// Which tokens, and where the logits go.
#[derive(clap::Args, Clone, Debug)]
pub struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, first to last
    #[arg(long, value_name = "IDS")]
    tokens: TokenList,
    /// File to write: 4 bytes for each entry of the vocabulary
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Threads of the forward pass, at most one a CPU; or `auto`: the cores that affinity and cgroup grant
    #[arg(short, long, value_name = "N", default_value = "auto", env = "STERNA_THREADS")]
    threads: Threads,
    /// Tokens per forward pass; the result does not depend on it
    #[arg(short, long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    #[command(flatten)]
    cache: CacheArgs,
}

/// Runs the command.
pub fn run(args: LogitsArgs, machine: &Machine) -> Result<(), CommandError> {
    let opened = args.model.open()?;
    let model = Arc::new(opened.model);
    let TokenList(tokens) = args.tokens;
    let (vocab, context) = (model.config.vocab, model.config.context);
    if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab) {
        return Err(SubmitError::UnknownToken { id, vocab }.into());
    }
    if tokens.len() > context {
        let tokens = tokens.len();
        return Err(SubmitError::PromptTooLong { tokens, context }.into());
    }
    let threads = args.threads.resolve();
    let mut session = Session::new(
        model,
        args.model.kernels(machine)?,
        threads,
        tokens.len(),
        args.batch_size as usize,
    )?
    .with_cache(args.cache.types())?;
    let logits = session.feed(&tokens)?;
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    fs::write(&args.output, bytes).map_err(|source| CommandError::File {
        action: "write",
        path: args.output,
        source,
    })
}
