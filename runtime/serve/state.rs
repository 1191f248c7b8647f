//! What all handlers share: the settings, and where the server is in its life.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::engine::Engine;
use crate::kernels::Variant;
use crate::model::Model;
use crate::settings::Settings;
use crate::text::{ChatTemplate, TemplateError, Tokenizer};

use super::error::ApiError;

/// A model that answers.
pub struct Loaded {
    /// The model's name in the API.
    pub id: String,
    /// Other names that requests may use for it.
    pub names: Vec<String>,
    /// The file.
    pub path: PathBuf,
    /// The file's size.
    pub bytes: u64,
    /// Configuration and weights.
    pub model: Arc<Model>,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Messages to a prompt, or why the model cannot chat.
    pub template: Result<ChatTemplate, TemplateError>,
    /// Tokens of context per request.
    pub context: usize,
    /// Where requests go.
    pub engine: Engine,
}

impl Loaded {
    /// False when only a restart helps. One `fstat`.
    pub fn works(&self) -> bool {
        self.engine.healthy() && !self.model.mapping.lost()
    }

    /// Accepts a request's `model`: the id, another name of it, or none.
    pub fn check_name(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            None | Some("" | "default") => Ok(()),
            Some(name) if name == self.id || self.names.iter().any(|known| known == name) => Ok(()),
            Some(name) => Err(ApiError::unknown_model(name, &self.id)),
        }
    }
}

/// Where the server is in its life.
#[derive(Clone)]
pub enum Phase {
    /// No usable model file yet; the sentence says what is missing.
    Waiting(String),
    /// The file is there and is being opened.
    Loading,
    /// Requests are answered.
    Ready(Arc<Loaded>),
    /// The model is of no use; the server is about to end.
    Failed,
    /// A signal came: running requests finish, new ones are refused.
    Stopping,
}

/// Shared by all handlers.
pub struct App {
    /// As started.
    pub settings: Settings,
    /// Chosen kernels.
    pub kernels: &'static Variant,
    /// Threads of the forward pass.
    pub threads: usize,
    /// When the process started to serve.
    pub started: Instant,
    /// Where the server is in its life.
    pub phase: watch::Sender<Phase>,
    /// Generations whose response is not complete.
    pub running: watch::Sender<usize>,
    /// True once running generations have to end now.
    pub cut: watch::Sender<bool>,
}

impl App {
    /// A server that has no model yet.
    pub fn new(settings: Settings, kernels: &'static Variant, threads: usize) -> Self {
        App {
            settings,
            kernels,
            threads,
            started: Instant::now(),
            phase: watch::Sender::new(Phase::Waiting("not looked for yet".to_owned())),
            running: watch::Sender::new(0),
            cut: watch::Sender::new(false),
        }
    }

    /// Goes on to the loader's next phase, unless a signal came meanwhile: [`Phase::Stopping`] is the last one.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let goes_on = !matches!(current, Phase::Stopping);
            if goes_on {
                *current = phase;
            }
            goes_on
        });
    }

    /// The model, or why there is none to ask.
    pub fn loaded(&self) -> Result<Arc<Loaded>, ApiError> {
        match &*self.phase.borrow() {
            Phase::Ready(loaded) if loaded.works() => Ok(loaded.clone()),
            Phase::Ready(loaded) if loaded.model.mapping.lost() => Err(ApiError::broken(
                "the model file changed while it was in use: restart the server",
            )),
            Phase::Ready(_) => Err(ApiError::broken(
                "the engine stopped after an internal error: restart the server; its log says more",
            )),
            Phase::Waiting(why) => Err(ApiError::unavailable(
                "waiting_for_model",
                format!("no model yet: {why}"),
                5,
            )),
            Phase::Loading => Err(ApiError::unavailable("loading", "the model is being loaded", 1)),
            Phase::Failed => Err(ApiError::broken("the model cannot be used; the server's log says why")),
            Phase::Stopping => Err(ApiError::unavailable("stopping", "the server is shutting down", 5)),
        }
    }
}
