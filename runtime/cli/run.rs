//! `sterna run MODEL [PROMPT]`: one prompt with streamed output, or a chat at a terminal.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::sync::Arc;

use serde_json::json;

use super::common::{CommandError, ModelArgs, TokenList};
use crate::engine::{Engine, EngineConfig, Event, FinishReason, Request, Sampling, Stats};
use crate::machine::cpu::Machine;
use crate::machine::limits::Threads;
use crate::text::{ChatTemplate, Message, Tokenizer};

/// What to continue, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Text to continue; without it, standard input
    #[arg(conflicts_with = "tokens")]
    prompt: Option<String>,
    /// Token ids to continue, instead of text
    #[arg(long, value_name = "IDS")]
    tokens: Option<TokenList>,
    /// Threads of the forward pass, or `auto`: the cores that affinity and cgroup grant
    #[arg(short, long, value_name = "N", default_value = "auto", env = "STERNA_THREADS")]
    threads: Threads,
    /// Most tokens to generate [default: until the model ends, or the context does]
    #[arg(short = 'n', long, value_name = "N", env = "STERNA_MAX_TOKENS")]
    max_tokens: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Text that ends the generation; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on past end-of-generation tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Tokens of context, prompt and answer together [default: 4096, or the model's if less]
    #[arg(
        short,
        long,
        value_name = "TOKENS",
        default_value_t = 4096,
        hide_default_value = true,
        env = "STERNA_CTX_SIZE"
    )]
    ctx_size: usize,
    /// Pre-tokenizer, overriding the model's: `llama-bpe`, or `default` for what bitnet.cpp does without one
    #[arg(long, value_name = "NAME", env = "STERNA_TOKENIZER_PRE")]
    tokenizer_pre: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Take the prompt as it is: no BOS token in front, and `<|...|>` is plain text
    #[arg(long)]
    raw: bool,
}

/// How tokens are chosen.
#[derive(clap::Args, Clone, Debug)]
struct SamplingArgs {
    /// 0 = always the most likely token
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "T",
        default_value_t = 0.0,
        env = "STERNA_TEMPERATURE"
    )]
    temperature: f32,
    /// Choose among the K most likely tokens; 0 = all
    #[arg(long, value_name = "K", default_value_t = 40, env = "STERNA_TOP_K")]
    top_k: usize,
    /// Choose among the most likely tokens that hold this much probability together
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "P",
        default_value_t = 0.95,
        env = "STERNA_TOP_P"
    )]
    top_p: f32,
    /// Drop tokens less likely than this times the most likely
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "P",
        default_value_t = 0.05,
        env = "STERNA_MIN_P"
    )]
    min_p: f32,
    /// The same seed gives the same tokens, on every machine
    #[arg(long, value_name = "S", default_value_t = 0, env = "STERNA_SEED")]
    seed: u64,
}

impl From<&SamplingArgs> for Sampling {
    fn from(args: &SamplingArgs) -> Self {
        Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            seed: args.seed,
        }
    }
}

/// Runs the command.
pub fn run(args: RunArgs, machine: &Machine) -> Result<(), CommandError> {
    let opened = args.model.open()?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(&opened.gguf, args.tokenizer_pre.as_deref())?);
    let config = EngineConfig {
        threads: args.threads.resolve(),
        context: args.ctx_size,
        parallel: 1,
        queue: 0,
        batch: 512,
    };
    let engine = Engine::start(
        Arc::new(opened.model),
        Arc::clone(&tokenizer),
        args.model.kernels(machine)?,
        config,
    )?;
    let prompt = match (&args.tokens, &args.prompt) {
        (Some(TokenList(tokens)), _) => tokens.clone(),
        (None, Some(text)) => tokenizer.encode(text, !args.raw, !args.raw),
        (None, None) if io::stdin().is_terminal() && !args.json => {
            let template = ChatTemplate::from_gguf(&opened.gguf, &tokenizer, None)?;
            return chat(&args, &engine, &tokenizer, &template);
        }
        (None, None) => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            // The newline that `echo` and editors end a text with is not part of it.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            tokenizer.encode(text, !args.raw, !args.raw)
        }
    };
    if args.json {
        let answer = generate(&args, &engine, prompt.clone(), |_| Ok(()))?;
        show(&format!("{}\n", answer.to_json(&prompt)))?;
    } else {
        generate(&args, &engine, prompt, show)?;
        show("\n")?;
    }
    Ok(())
}

/// A finished generation.
struct Answer {
    tokens: Vec<u32>,
    text: String,
    reason: FinishReason,
    stats: Stats,
}

impl Answer {
    fn to_json(&self, prompt: &[u32]) -> serde_json::Value {
        let Stats {
            prompt_tokens,
            generated_tokens,
            prefill_ms,
            decode_ms,
            ..
        } = self.stats;
        let per_second = |tokens: usize, ms: f64| if ms > 0.0 { tokens as f64 / ms * 1e3 } else { 0.0 };
        // The first token comes out of the prompt's last pass.
        let decoded = generated_tokens.saturating_sub(1);
        json!({
            "prompt_tokens": prompt,
            "tokens": self.tokens,
            "text": self.text,
            "finish_reason": match self.reason {
                FinishReason::Eos | FinishReason::Stop => "stop",
                FinishReason::Length => "length",
            },
            "timings": {
                "prompt_n": prompt_tokens,
                "prompt_ms": prefill_ms,
                "prompt_per_second": per_second(prompt_tokens, prefill_ms),
                "predicted_n": generated_tokens,
                "predicted_ms": decode_ms,
                "predicted_per_second": per_second(decoded, decode_ms),
            },
        })
    }
}

/// Generates to the end; `piece` sees the text as it comes.
fn generate(
    args: &RunArgs,
    engine: &Engine,
    prompt: Vec<u32>,
    mut piece: impl FnMut(&str) -> io::Result<()>,
) -> Result<Answer, CommandError> {
    let mut events = engine.submit(Request {
        prompt,
        sampling: (&args.sampling).into(),
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
    })?;
    let (mut tokens, mut all) = (Vec::new(), String::new());
    loop {
        match events.blocking_recv() {
            Some(Event::Token { id, text }) => {
                piece(&text)?;
                tokens.push(id);
                all.push_str(&text);
            }
            Some(Event::Done { reason, text, stats }) => {
                piece(&text)?;
                all.push_str(&text);
                return Ok(Answer {
                    tokens,
                    text: all,
                    reason,
                    stats,
                });
            }
            Some(Event::Failed(message)) => return Err(CommandError::Generation(message)),
            None => unreachable!("the engine ends every request with Done or Failed"),
        }
    }
}

/// Prints at once. A closed standard output is an error, not a panic as with `println!`.
fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A chat by lines: each is a message, and an empty input (Ctrl-D) ends it.
fn chat(args: &RunArgs, engine: &Engine, tokenizer: &Tokenizer, template: &ChatTemplate) -> Result<(), CommandError> {
    let mut messages: Vec<Message> = Vec::new();
    let message = |role: &str, content: String| Message {
        role: role.to_owned(),
        content,
    };
    eprintln!("Write a message and press Enter; Ctrl-D ends the chat.");
    for line in prompts(io::stdin().lock()) {
        messages.push(message("user", line?));
        let text = template.render(&messages, true).map_err(CommandError::Render)?;
        let prompt = tokenizer.encode(&text, true, true);
        match generate(args, engine, prompt, show) {
            Ok(answer) => messages.push(message("assistant", answer.text)),
            Err(error @ CommandError::Submit(_)) => {
                eprintln!("{error}; the chat begins anew");
                messages.clear();
            }
            Err(error) => return Err(error),
        }
        show("\n")?;
    }
    Ok(())
}

/// The lines that a person enters, with a prompt in front of each.
fn prompts(mut input: impl BufRead) -> impl Iterator<Item = io::Result<String>> {
    std::iter::from_fn(move || {
        loop {
            eprint!("> ");
            let mut line = String::new();
            match input.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) if line.trim().is_empty() => continue,
                Ok(_) => return Some(Ok(line.trim().to_owned())),
                Err(error) => return Some(Err(error)),
            }
        }
    })
}
