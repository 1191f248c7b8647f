//! The engine: forward pass, KV cache, scheduling, sampling.
//!
//! [`Engine::start`] owns the model on a thread of its own; callers [`Engine::submit`] a [`Request`] and
//! receive [`Event`]s. Dropping the receiver cancels the request.

pub mod background;
pub mod forward;
pub mod head;
pub mod kv;
pub mod logprobs;
pub mod perplexity;
pub mod sampling;
mod scheduler;
pub mod session;
pub mod sparsity;
mod speculate;
#[cfg(test)]
pub(crate) mod testing;

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::kernels::Variant;
use crate::machine::STACK_BYTES;
use crate::machine::limits::Limits;
use crate::model::{self, Model};
use crate::text::Tokenizer;
use forward::Forward;
use kv::{CacheTypes, KvCache};
pub use logprobs::Logprobs;
pub use sampling::Sampling;
use scheduler::{Scheduler, Shared};
pub use speculate::Speculation;

/// One generation.
#[derive(Debug, Clone)]
pub struct Request {
    /// Prompt tokens, at least one.
    pub prompt: Vec<u32>,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` = until the context is full.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation; they are not part of the output.
    pub stop: Vec<String>,
    /// Go on past end-of-generation tokens.
    pub ignore_eos: bool,
    /// Say how likely each token was, and the so many most likely in its place. Needs all logits of the model; changes no token.
    pub logprobs: Option<usize>,
}

/// What a request's receiver gets: any number of `Token`, then one `Done` or `Failed`.
#[derive(Debug, Clone)]
pub enum Event {
    /// A token was generated.
    Token {
        /// Its id.
        id: u32,
        /// The text that is now certain: whole UTF-8, no part of a stop text. May be empty.
        text: String,
        /// Where the request asks for them.
        logprobs: Option<Logprobs>,
    },
    /// The generation ended.
    Done {
        /// Why.
        reason: FinishReason,
        /// Text held back until now (it could have become a stop text, or bytes of an unfinished character).
        text: String,
        /// Counts and times.
        stats: Stats,
    },
    /// The generation could not go on.
    Failed(Failure),
}

/// Why a generation could not go on, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// What came of this request's tokens is not finite; others may go on.
    #[error(transparent)]
    NonFinite(#[from] forward::NonFinite),
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    Stopping,
    /// The engine cannot go on: every request fails from now on.
    #[error("{reason}")]
    Broken {
        /// What happened, and what to do.
        reason: String,
    },
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// End-of-generation token.
    Eos,
    /// One of the request's stop texts.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
}

/// Counts and times of one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Guesses at tokens that were verified.
    pub guessed_tokens: usize,
    /// Those of them that came true, which are among the generated ones.
    pub right_tokens: usize,
    /// Waiting in the queue, in milliseconds.
    pub queue_ms: f64,
    /// Prompt processing, in milliseconds.
    pub prefill_ms: f64,
    /// Generation, in milliseconds.
    pub decode_ms: f64,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SubmitError {
    /// Nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt does not fit.
    #[error(
        "the prompt has {tokens} tokens, and prompt and answer together have room for {context}: shorten it, or start \
         with a larger --ctx-size"
    )]
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// Tokens that fit, of prompt and answer.
        context: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token {id} is outside the vocabulary of {vocab}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A sampling parameter outside of its range.
    #[error(transparent)]
    Sampling(#[from] sampling::InvalidSampling),
    /// Too many requests wait already.
    #[error("the queue is full ({waiting} requests waiting): try again later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    Stopping,
    /// The engine cannot go on.
    #[error("{reason}")]
    Broken {
        /// What happened, and what to do.
        reason: String,
    },
}

/// Tokens per forward pass where nobody asks for another number. As fast as 128 and 512 (measured on Zen 3 and Zen 4, on one and two
/// threads); a larger pass only takes more memory.
pub const DEFAULT_BATCH: usize = 256;

/// Sizes that are fixed when the engine starts.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Threads of the forward pass.
    pub threads: usize,
    /// Tokens of context per sequence; 0 = what the model was trained for, which is also the most.
    pub context: usize,
    /// Sequences that are generated side by side.
    pub parallel: usize,
    /// Requests that may wait beyond those.
    pub queue: usize,
    /// Tokens per forward pass.
    pub batch: usize,
    /// What to do with guesses at the next tokens.
    pub speculation: Speculation,
    /// How keys and values are cached.
    pub cache: CacheTypes,
}

impl EngineConfig {
    /// Puts sizes that make no sense into their range. [`Engine::start`] does it; before that it is for whoever has to know the context.
    pub fn sanitized(mut self, model: &model::Config) -> Self {
        if self.context > model.context {
            tracing::warn!(
                "--ctx-size {} is more than the {} tokens the model was trained for: using {}",
                self.context,
                model.context,
                model.context
            );
        }
        self.context = match self.context {
            0 => model.context,
            context => context.min(model.context),
        };
        self.threads = self.threads.max(1);
        self.parallel = self.parallel.max(1);
        self
    }

    /// Bytes of memory that the engine takes beside the model, at most: caches, and what [`EngineConfig::buffer_bytes`] counts.
    pub fn memory_bytes(&self, model: &model::Config) -> u64 {
        let caches = KvCache::bytes(model, self.cache, self.context).saturating_mul(self.parallel as u64);
        caches.saturating_add(self.buffer_bytes(model))
    }

    /// Bytes of the buffers of its passes, at most.
    pub fn buffer_bytes(&self, model: &model::Config) -> u64 {
        let rows = self.batch.max(self.parallel);
        forward::buffer_bytes(model, self.threads, rows, rows.min(self.parallel.max(speculate::ROWS)))
    }
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Too little memory.
    #[error(transparent)]
    Memory(#[from] kv::DoesNotFit),
    /// Too little address space.
    #[error("cannot reserve the key/value caches: {0}; ask for less context, or fewer sequences at once")]
    Cache(std::io::Error),
    /// The system refused the thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(std::io::Error),
}

/// A handle to the engine's thread. Clones share it; with the last of them the engine stops.
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    config: EngineConfig,
    vocab: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the engine's thread.
    pub fn start(
        model: Arc<Model>,
        tokenizer: Arc<Tokenizer>,
        kernels: &'static Variant,
        config: EngineConfig,
    ) -> Result<Self, StartError> {
        let config = config.sanitized(&model.config);
        if let Some(limit_bytes) = Limits::read().memory_bytes {
            kv::check_budget(
                &model.config,
                config.cache,
                config.parallel,
                config.context,
                config
                    .buffer_bytes(&model.config)
                    .saturating_add(model.mapping.pinned_bytes()),
                limit_bytes,
            )?;
        }
        let caches = (0..config.parallel).map(|_| KvCache::reserve(&model.config, config.cache, config.context));
        let caches = caches.collect::<Result<Vec<_>, _>>().map_err(StartError::Cache)?;
        let shared = Arc::new(Shared::new());
        let vocab = model.config.vocab;
        let thread = thread::Builder::new()
            .name("sterna-engine".into())
            .stack_size(STACK_BYTES);
        let thread = thread.spawn({
            let (shared, config) = (Arc::clone(&shared), config.clone());
            move || {
                let forward = Forward::new(model, kernels, config.threads);
                serve(Scheduler::new(shared, forward, tokenizer, caches, &config));
            }
        });
        let thread = Mutex::new(Some(thread.map_err(StartError::Thread)?));
        Ok(Engine {
            handle: Arc::new(Handle {
                shared,
                config,
                vocab,
                thread,
            }),
        })
    }

    /// Queues a request, first come first served.
    pub fn submit(&self, request: Request) -> Result<UnboundedReceiver<Event>, SubmitError> {
        let Handle {
            shared, config, vocab, ..
        } = &*self.handle;
        let (tokens, context, vocab) = (request.prompt.len(), config.context, *vocab);
        if tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        if tokens >= context {
            return Err(SubmitError::PromptTooLong { tokens, context });
        }
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(SubmitError::UnknownToken { id, vocab });
        }
        request.sampling.validate()?;
        let (events, receiver) = mpsc::unbounded_channel();
        shared.submit(request, events, config.parallel + config.queue)?;
        Ok(receiver)
    }

    /// The sizes in force.
    pub fn config(&self) -> &EngineConfig {
        &self.handle.config
    }

    /// Requests that wait, and requests that are being generated.
    pub fn load(&self) -> (usize, usize) {
        self.handle.shared.load()
    }

    /// False once the engine has met something it cannot go on from: every request fails from then on.
    pub fn healthy(&self) -> bool {
        self.handle.shared.healthy()
    }

    /// Takes no more requests, finishes those that it has within `grace`, and ends the thread. Blocks until then.
    pub fn stop(&self, grace: Duration) {
        self.handle.stop(grace);
    }
}

impl Handle {
    fn stop(&self, grace: Duration) {
        const LONG: Duration = Duration::from_secs(365 * 24 * 3600); // an instant may not overflow
        self.shared.stop(Instant::now() + grace.min(LONG));
        // Held while joining, so that a second caller waits as well.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // A panic was reported to the requests that it ended.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// The life of the engine's thread: it ends with a sentence for whoever still waits, whatever happens.
fn serve(mut scheduler: Scheduler) {
    match panic::catch_unwind(AssertUnwindSafe(|| scheduler.run())) {
        Ok(Ok(())) => scheduler.fail_all(&Failure::Stopping),
        Ok(Err(lost)) => {
            tracing::error!("{lost}");
            let reason = lost.to_string();
            scheduler.fail_all(&Failure::Broken { reason });
        }
        Err(_) => {
            tracing::error!("the engine's thread panicked");
            let reason = "the engine stopped after an internal error: restart the server and report this".to_owned();
            scheduler.fail_all(&Failure::Broken { reason });
        }
    }
}
