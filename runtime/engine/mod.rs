//! The engine: forward pass, KV cache, scheduling, sampling.
//!
//! [`Engine::start`] owns the model on a thread of its own; callers [`Engine::submit`] a [`Request`] and
//! receive [`Event`]s. Dropping the receiver cancels the request.

pub mod forward;
pub mod kv;
pub mod sampling;
#[cfg(test)]
mod testing;

pub use sampling::Sampling;

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::kernels::Variant;
use crate::model::Model;
use crate::text::Tokenizer;

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
    /// The generation could not go on; the message is for the user.
    Failed(String),
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
    /// Waiting in the queue, in milliseconds.
    pub queue_ms: f64,
    /// Prompt processing, in milliseconds.
    pub prefill_ms: f64,
    /// Generation, in milliseconds.
    pub decode_ms: f64,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubmitError {
    /// Nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt does not fit.
    #[error(
        "the prompt has {tokens} tokens, the context holds {context}: shorten it or start with a larger --ctx-size"
    )]
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// Tokens that fit.
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
    /// Too many requests wait already.
    #[error("the queue is full ({waiting} requests waiting): try again later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    Stopping,
}

/// Sizes that are fixed when the engine starts.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Threads of the forward pass.
    pub threads: usize,
    /// Tokens of context per sequence.
    pub context: usize,
    /// Sequences that are generated side by side.
    pub parallel: usize,
    /// Requests that may wait beyond those.
    pub queue: usize,
    /// Tokens of prompt per forward pass.
    pub batch: usize,
}

/// A handle to the engine's thread. Clones share it.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    /// Starts the engine's thread.
    pub fn start(
        _model: Arc<Model>,
        _tokenizer: Arc<Tokenizer>,
        _kernels: &'static Variant,
        _config: EngineConfig,
    ) -> Self {
        todo!()
    }

    /// Queues a request, first come first served.
    pub fn submit(&self, _request: Request) -> Result<UnboundedReceiver<Event>, SubmitError> {
        todo!()
    }

    /// Requests that wait, and requests that are being generated.
    pub fn load(&self) -> (usize, usize) {
        todo!()
    }

    /// Takes no more requests, finishes those that run within `grace`, and ends the thread.
    pub fn stop(&self, _grace: std::time::Duration) {
        todo!()
    }
}
