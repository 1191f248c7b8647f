//! `sterna run MODEL [PROMPT]`: one prompt with streamed output, or a chat at a terminal.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::chat::Chat;
use super::common::{CacheArgs, CacheDirArgs, CommandError, ModelArgs, TokenList, read_text};
use super::warnings::Hold;
use crate::engine::background::{Preparing, Priority};
use crate::engine::{DEFAULT_BATCH, Engine, EngineConfig, Event, FinishReason, Request, Sampling, Speculation, Stats};
use crate::machine::cpu::Machine;
use crate::machine::limits::Threads;
use crate::settings::Context;
use crate::text::{ChatTemplate, TemplateError, Tokenizer};

/// What to continue, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Text to continue; without it, standard input, or a chat at a terminal
    #[arg(conflicts_with = "tokens")]
    prompt: Option<String>,
    /// Token ids to continue, instead of text
    #[arg(long, value_name = "IDS")]
    tokens: Option<TokenList>,
    /// Threads of the forward pass, at most one a CPU; or `auto`: the cores that affinity and cgroup grant
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
    #[arg(short, long, value_name = "TOKENS", env = "STERNA_CTX_SIZE")]
    ctx_size: Option<usize>,
    /// Guess tokens from the text so far, and verify them together where that pays: `ngram`, or `none`; the output is the same
    #[arg(long, value_name = "TYPE", default_value = "ngram", env = "STERNA_SPEC_TYPE")]
    spec_type: Speculation,
    #[command(flatten)]
    cache: CacheArgs,
    /// Pre-tokenizer, overriding the model's: `llama-bpe`, or `default` for what bitnet.cpp does without one
    #[arg(long, value_name = "NAME", env = "STERNA_TOKENIZER_PRE")]
    tokenizer_pre: Option<String>,
    /// Keep the weights as the file has them, instead of re-packing them for this CPU during a chat or a long answer
    #[arg(long, env = "STERNA_NO_REPACK", value_parser = clap::builder::FalseyValueParser::new())]
    no_repack: bool,
    #[command(flatten)]
    kept: CacheDirArgs,
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
        context: args
            .ctx_size
            .map_or(Context::AtMost(4096), Context::Exactly)
            .of(opened.model.config.context),
        parallel: 1,
        queue: 1, // a message after an answer that was stopped and is not quite over
        batch: DEFAULT_BATCH,
        speculation: args.spec_type,
        cache: args.cache.types(),
    };
    let (model, kernels) = (Arc::new(opened.model), args.model.kernels(machine)?);
    let engine = Engine::start(model.clone(), Arc::clone(&tokenizer), kernels, config)?;
    let other_bytes = engine.config().memory_bytes(&model.config);
    let cache = args.kept.of(&opened.path);
    let prepare = |priority| Preparing::start(model.clone(), kernels, cache.clone(), other_bytes, priority);
    let request = |prompt| Request {
        prompt,
        sampling: (&args.sampling).into(),
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        logprobs: None,
    };
    let at_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let prompt = match (&args.tokens, &args.prompt) {
        (Some(TokenList(tokens)), _) => tokens.clone(),
        (None, Some(text)) => tokenizer.encode(text, !args.raw, !args.raw),
        (None, None) if at_terminal && !args.json => {
            let template = match ChatTemplate::from_gguf(&opened.gguf, &tokenizer, None) {
                Err(TemplateError::None) => None,
                template => Some(template?),
            };
            // While the first message is written, and the answers are read.
            let _preparing = (!args.no_repack).then(|| prepare(Priority::WhenIdle));
            let chat = Chat {
                engine: &engine,
                tokenizer: &tokenizer,
                template,
                request: request(Vec::new()),
            };
            return chat.run();
        }
        (None, None) => {
            let text = read_text(Path::new("-"))?;
            // The newline that `echo` and editors end a text with is not part of it.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            tokenizer.encode(text, !args.raw, !args.raw)
        }
    };
    let _warnings = Hold::begin(); // they come after the answer, not within it
    // Nothing here waits for more than the engine's events: a runtime without timers and sockets.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let to_the_end = std::future::pending();
    let (mut pieces, mut preparing) = (0, None);
    let long = args.max_tokens.is_none_or(|most| most > LONG_AFTER + LONG_AFTER);
    let answer = generate(&engine, request(prompt.clone()), to_the_end, |text| {
        pieces += 1;
        if pieces == LONG_AFTER && long && !args.no_repack {
            preparing = Some(prepare(Priority::AsOthers));
        }
        if args.json { Ok(()) } else { show(text) }
    });
    let answer = runtime.block_on(answer)?;
    if args.json {
        show(&format!("{}\n", answer.to_json(&prompt)))?;
    } else {
        show("\n")?;
    }
    Ok(())
}

/// An answer of so many tokens is taken to go on for as many more, which is about what re-packing the weights costs and then spares.
const LONG_AFTER: usize = 64;

/// A generation that is over.
pub struct Answer {
    /// What was generated.
    pub tokens: Vec<u32>,
    /// Their text, without what the stop texts and unfinished characters cost.
    pub text: String,
    /// `None` if it was interrupted.
    pub reason: Option<FinishReason>,
    /// Of one that was not interrupted.
    stats: Stats,
    /// From the first token to the last.
    decoding: Duration,
}

impl Answer {
    /// Tokens per second after the first, which the prompt's pass gives.
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens.len().saturating_sub(1) as f64 / self.decoding.as_secs_f64().max(1e-9)
    }

    fn to_json(&self, prompt: &[u32]) -> serde_json::Value {
        let Stats {
            prompt_tokens,
            generated_tokens,
            guessed_tokens,
            right_tokens,
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
                Some(FinishReason::Eos | FinishReason::Stop) => "stop",
                Some(FinishReason::Length) => "length",
                None => "interrupted",
            },
            "timings": {
                "prompt_n": prompt_tokens,
                "prompt_ms": prefill_ms,
                "prompt_per_second": per_second(prompt_tokens, prefill_ms),
                "predicted_n": generated_tokens,
                "predicted_ms": decode_ms,
                "predicted_per_second": per_second(decoded, decode_ms),
                "draft_n": guessed_tokens,
                "draft_n_accepted": right_tokens,
            },
        })
    }
}

/// Generates to the end, or until `interrupted`; `piece` sees the text as it comes.
pub async fn generate(
    engine: &Engine,
    request: Request,
    interrupted: impl Future<Output = ()>,
    mut piece: impl FnMut(&str) -> io::Result<()>,
) -> Result<Answer, CommandError> {
    // Dropped at the end, which cancels what is still going on.
    let mut events = engine.submit(request)?;
    let mut interrupted = pin!(interrupted);
    let mut answer = Answer {
        tokens: Vec::new(),
        text: String::new(),
        reason: None,
        stats: Stats::default(),
        decoding: Duration::ZERO,
    };
    let mut first = None;
    loop {
        let event = tokio::select! {
            biased; // listening before the first word is shown
            () = &mut interrupted => return Ok(answer),
            event = events.recv() => event,
        };
        match event.expect("the engine ends every request with Done or Failed") {
            Event::Token { id, text, .. } => {
                answer.decoding = first.get_or_insert_with(Instant::now).elapsed();
                answer.tokens.push(id);
                answer.text.push_str(&text);
                piece(&text)?;
            }
            Event::Done { reason, text, stats } => {
                answer.text.push_str(&text);
                piece(&text)?;
                (answer.reason, answer.stats) = (Some(reason), stats);
                return Ok(answer);
            }
            Event::Failed(failure) => return Err(failure.into()),
        }
    }
}

/// Prints at once. A closed standard output is an error, not a panic as with `println!`.
pub fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
