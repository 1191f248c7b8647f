//! From a request of any API family to its text: prompt to tokens, tokens to the engine, events to a response.
//!
//! A family parses its request into a [`Prompt`] and [`Options`], calls [`Generation::start`], and then either
//! collects the whole output or streams it through its own [`Format`]. Dropping the [`Generation`], which is what
//! happens when the client goes away, cancels the request in the engine.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, watch};

use crate::engine::{Event, FinishReason, Logprobs, Request, Stats};
use crate::text::Message;

use super::body::{Place, to_json};
use super::error::ApiError;
use super::options::Options;
use super::state::{App, Loaded};

/// Longest silence in a stream: shorter than the idle time-outs of common proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Threads that tokenize prompts.
pub const TOKENIZING_MAX: usize = 4;
static TOKENIZERS: Semaphore = Semaphore::const_new(TOKENIZING_MAX);

/// What to continue.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Plain text; special tokens in it count.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
    /// A chat, through the model's template.
    Chat(Vec<Message>),
}

/// A request that the engine works on.
pub struct Generation {
    events: UnboundedReceiver<Event>,
    cut: watch::Receiver<bool>,
    started: Instant,
    stats: Stats,
    over: bool,
    _running: Running,
}

/// What a generation yields.
#[derive(Debug)]
pub enum Piece {
    /// One token.
    Token(Token),
    /// Nothing more comes.
    End(End),
}

/// A generated token.
#[derive(Debug)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that is now certain. May be empty.
    pub text: String,
    /// Where the request asks for them.
    pub logprobs: Option<Logprobs>,
}

/// How a generation ended.
#[derive(Debug, Clone)]
pub struct End {
    /// Why.
    pub reason: FinishReason,
    /// The last text.
    pub text: String,
    /// Counts and times.
    pub stats: Stats,
}

/// A whole generation.
#[derive(Debug, Clone)]
pub struct Output {
    /// Everything that was generated.
    pub text: String,
    /// The tokens behind it.
    pub tokens: Vec<u32>,
    /// Of each of them, where the request asks for them.
    pub logprobs: Vec<Logprobs>,
    /// Why it ended.
    pub reason: FinishReason,
    /// Counts and times.
    pub stats: Stats,
}

impl Generation {
    /// Tokenizes the prompt, which frees the place of its body, and queues the request.
    pub async fn start(
        app: &App,
        loaded: &Arc<Loaded>,
        prompt: Prompt,
        place: Place,
        options: Options,
    ) -> Result<Self, ApiError> {
        let tokenizing = loaded.clone();
        // Who waits for a thread waits here, where a prompt goes away with its client.
        let turn = TOKENIZERS.acquire().await.expect("the semaphore is never closed");
        // A prompt of megabytes takes a while: not on a thread that serves connections.
        let tokenized = tokio::task::spawn_blocking(move || {
            let _held = (turn, place);
            tokens(&tokenizing, prompt)
        });
        let prompt = tokenized.await.unwrap_or_else(|_| Err(ApiError::internal()))?;
        let stats = Stats {
            prompt_tokens: prompt.len(),
            ..Stats::default()
        };
        let events = loaded.engine.submit(Request {
            prompt,
            sampling: options.sampling,
            max_tokens: options.max_tokens,
            stop: options.stop,
            ignore_eos: options.ignore_eos,
            logprobs: options.logprobs,
        })?;
        Ok(Generation {
            events,
            cut: app.cut.subscribe(),
            started: Instant::now(),
            stats,
            over: false,
            _running: Running::new(&app.running),
        })
    }

    /// The next piece; after [`Piece::End`] or an error there is none. Cancel-safe.
    pub async fn next(&mut self) -> Result<Piece, ApiError> {
        let event = tokio::select! {
            biased;
            event = self.events.recv() => Some(event),
            _ = self.cut.wait_for(|&cut| cut) => None,
        };
        let event = event.unwrap_or_else(|| Some(self.ended_early()));
        match event {
            Some(Event::Token { id, text, logprobs }) => {
                self.stats.generated_tokens += 1;
                Ok(Piece::Token(Token { id, text, logprobs }))
            }
            Some(Event::Done { reason, text, stats }) => {
                self.over = true;
                log_end(reason, &stats);
                Ok(Piece::End(End { reason, text, stats }))
            }
            Some(Event::Failed(failure)) => {
                self.over = true;
                tracing::error!("generation failed: {failure}");
                Err(failure.into())
            }
            None => {
                self.over = true;
                Err(ApiError::broken("the engine has stopped: restart the server"))
            }
        }
    }

    /// The server stops and the grace period is over: a proper end with what there is.
    fn ended_early(&self) -> Event {
        let decode_ms = self.started.elapsed().as_secs_f64() * 1e3;
        Event::Done {
            reason: FinishReason::Length,
            text: String::new(),
            stats: Stats {
                decode_ms,
                ..self.stats
            },
        }
    }

    /// The whole output at once.
    pub async fn collect(mut self) -> Result<Output, ApiError> {
        let (mut text, mut tokens, mut logprobs) = (String::new(), Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                Piece::Token(token) => {
                    tokens.push(token.id);
                    text.push_str(&token.text);
                    logprobs.extend(token.logprobs);
                }
                Piece::End(end) => {
                    text.push_str(&end.text);
                    return Ok(Output {
                        text,
                        tokens,
                        logprobs,
                        reason: end.reason,
                        stats: end.stats,
                    });
                }
            }
        }
    }

    /// The output as it comes, as `format` writes it.
    pub fn stream<F: Format>(self, format: F) -> Response {
        struct Stream<F>(Generation, F, bool);
        let parts = futures_util::stream::unfold(Some(Stream(self, format, true)), |state| async {
            let Stream(mut generation, mut format, first) = state?;
            let mut go_on = true;
            let part = loop {
                if first {
                    break format.begin();
                }
                let part = match tokio::time::timeout(KEEP_ALIVE, generation.next()).await {
                    Err(_) => F::KEEP_ALIVE.to_owned(),
                    Ok(Ok(Piece::Token(token))) => format.token(token),
                    Ok(Ok(Piece::End(end))) => {
                        go_on = false;
                        format.end(&end)
                    }
                    Ok(Err(error)) => {
                        go_on = false;
                        format.failed(&error)
                    }
                };
                if !part.is_empty() || !go_on {
                    break part;
                }
            };
            let next = go_on.then_some(Stream(generation, format, false));
            Some((Ok::<_, Infallible>(part), next))
        });
        let headers = [
            (header::CONTENT_TYPE, F::CONTENT_TYPE),
            (header::CACHE_CONTROL, "no-cache"),
            // nginx would hold the stream back.
            (header::HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        (headers, Body::from_stream(parts)).into_response()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.over {
            tracing::info!(
                generated_tokens = self.stats.generated_tokens,
                "cancelled: the client went away"
            );
        }
    }
}

/// How one API family writes a stream. Every method returns text for the wire; an empty one sends nothing.
pub trait Format: Send + 'static {
    /// The response's content type.
    const CONTENT_TYPE: &'static str = "text/event-stream";
    /// Sent into a long silence.
    const KEEP_ALIVE: &'static str = ": keep-alive\n\n";

    /// Before the first token.
    fn begin(&mut self) -> String;
    /// A token.
    fn token(&mut self, token: Token) -> String;
    /// After the last token.
    fn end(&mut self, end: &End) -> String;
    /// Instead of more.
    fn failed(&mut self, error: &ApiError) -> String {
        sse(&error.to_json())
    }
}

/// One server-sent event with JSON data.
pub fn sse(data: &impl Serialize) -> String {
    format!("data: {}\n\n", to_json(data))
}

fn tokens(loaded: &Loaded, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
    let text = match prompt {
        Prompt::Tokens(tokens) => return Ok(tokens),
        Prompt::Text(text) => text,
        Prompt::Chat(messages) => {
            let template = loaded
                .template
                .as_ref()
                .map_err(|error| ApiError::bad_request(error.to_string()))?;
            template
                .render(&messages, true)
                .map_err(|error| ApiError::invalid("messages", error))?
        }
    };
    // `encode` never doubles a BOS that the template wrote.
    Ok(loaded.tokenizer.encode(&text, true, true))
}

fn log_end(reason: FinishReason, stats: &Stats) {
    tracing::info!(
        prompt_tokens = stats.prompt_tokens,
        generated_tokens = stats.generated_tokens,
        guessed_tokens = stats.guessed_tokens,
        right_tokens = stats.right_tokens,
        queue_ms = stats.queue_ms.round(),
        prefill_ms = stats.prefill_ms.round(),
        decode_ms = stats.decode_ms.round(),
        ?reason,
        "generated"
    );
}

/// Counts and times as llama-server reports them.
pub fn timings(stats: &Stats) -> Value {
    let rate = |n: usize, ms: f64| if ms > 0.0 { n as f64 * 1e3 / ms } else { 0.0 };
    let each = |n: usize, ms: f64| if n > 0 { ms / n as f64 } else { 0.0 };
    let &Stats {
        prompt_tokens,
        generated_tokens,
        guessed_tokens,
        right_tokens,
        queue_ms,
        prefill_ms,
        decode_ms,
    } = stats;
    json!({
        "queue_ms": queue_ms,
        "prompt_n": prompt_tokens,
        "prompt_ms": prefill_ms,
        "prompt_per_token_ms": each(prompt_tokens, prefill_ms),
        "prompt_per_second": rate(prompt_tokens, prefill_ms),
        "predicted_n": generated_tokens,
        "predicted_ms": decode_ms,
        "predicted_per_token_ms": each(generated_tokens, decode_ms),
        "predicted_per_second": rate(generated_tokens, decode_ms),
        "draft_n": guessed_tokens,
        "draft_n_accepted": right_tokens,
    })
}

/// Counts a generation for as long as it lives: shutdown waits for none to be left.
struct Running(watch::Sender<usize>);

impl Running {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Running(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}
