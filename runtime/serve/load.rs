//! Getting the model: waiting for its file, opening it, starting the engine. Runs on a thread of its own, so that
//! `/health` answers from the first moment.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::background;
use crate::engine::kv::KvCache;
use crate::engine::{Engine, EngineConfig, StartError};
use crate::machine::join;
use crate::machine::limits::{self, Limits};
use crate::model::gguf::Gguf;
use crate::model::{CacheDir, GgufFile, MapOptions, ModelError, Opened};
use crate::settings::Parallel;
use crate::text::{ChatTemplate, TemplateError, Tokenizer, TokenizerError};

use super::ServeError;
use super::state::{App, Loaded, Phase};

/// Time between looks at the file.
const POLL: Duration = Duration::from_millis(250);
/// An invalid file that was written to within this time may still be being copied.
const SETTLED: Duration = Duration::from_secs(5);

/// Waits for the model and makes it answer. Tells the phase to `app` as it goes, except for the last one.
pub fn load(app: &App) -> Result<Loaded, ServeError> {
    let settings = &app.settings;
    let options = MapOptions {
        mmap: settings.mmap,
        mlock: settings.mlock,
    };
    let (began, opened, tokenizer) = wait_for_model(app, &settings.model, options)?;
    let Opened { path, gguf, model } = opened;
    let invalid = |error: TokenizerError| ServeError::InvalidModel(format!("{}: {error}", path.display()));
    let tokenizer = tokenizer.map_err(invalid)?;
    let template = chat_template(settings.chat_template.as_deref(), &gguf, &tokenizer)?;
    let tokenizer = Arc::new(tokenizer);
    let (Parallel::Exactly(parallel) | Parallel::AtMost(parallel)) = settings.parallel;
    let mut config = EngineConfig {
        threads: app.threads,
        context: settings.context.of(model.config.context),
        parallel,
        queue: settings.queue,
        batch: settings.batch,
        speculation: settings.speculation,
        cache: settings.cache,
    }
    .sanitized(&model.config);
    let bytes = model.mapping.as_ref().as_ref().len() as u64;
    let sequence_bytes = KvCache::bytes(&model.config, config.cache, config.context);
    if let Parallel::AtMost(_) = settings.parallel {
        let other_bytes = bytes.saturating_add(config.buffer_bytes(&model.config));
        let fit = sequences_that_fit(Limits::read().memory_bytes, other_bytes, sequence_bytes);
        config.parallel = config.parallel.min(fit);
    }
    let model = Arc::new(model);
    let engine = Engine::start(model.clone(), tokenizer.clone(), app.kernels, config).map_err(|error| match error {
        StartError::Memory(_) => ServeError::Config(error.to_string()),
        StartError::Cache(error) | StartError::Thread(error) => ServeError::System(error),
    })?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let id = settings.alias.clone().unwrap_or_else(|| stem.clone());
    let &EngineConfig { context, parallel, .. } = engine.config();
    let cache_bytes = sequence_bytes.saturating_mul(parallel as u64);
    tracing::info!(model = id, path = %path.display(), context, parallel, cache_bytes, ms = began.elapsed().as_millis() as u64, "model loaded");
    Ok(Loaded {
        id,
        names: vec![stem, file, model.config.name.clone()],
        bytes,
        path,
        model,
        tokenizer,
        template,
        context,
        engine,
    })
}

/// Sequences whose caches fit into memory beside the model's pages and the buffers of a pass, at least one. The pages could be dropped and read
/// again, but then each token would read them again. A limit that nobody knows limits nothing.
fn sequences_that_fit(limit_bytes: Option<u64>, other_bytes: u64, sequence_bytes: u64) -> usize {
    let Some(limit_bytes) = limit_bytes else {
        return usize::MAX;
    };
    let fits = limit_bytes.saturating_sub(other_bytes) / sequence_bytes.max(1);
    usize::try_from(fits).unwrap_or(usize::MAX).max(1)
}

/// Does what could wait until the first answers can be given, at the lowest priority, since the cores belong to them.
pub fn finish(app: &App, loaded: &Loaded) -> Result<(), ServeError> {
    limits::run_when_idle();
    let other_bytes = loaded.engine.config().memory_bytes(&loaded.model.config);
    let (repack, never) = (app.settings.repack, AtomicBool::new(false));
    let cache = app.settings.cache_dir.clone().map(|dir| CacheDir {
        dir,
        model: loaded.path.clone(),
    });
    let prepared = background::prepare(&loaded.model, app.kernels, repack, cache.as_ref(), other_bytes, &never);
    prepared.map_err(|reason| ServeError::InvalidModel(format!("{}: {reason}", loaded.path.display())))
}

/// The template that was asked for, or the model's; a model without a usable one still completes plain prompts.
fn chat_template(
    asked: Option<&str>,
    gguf: &Gguf,
    tokenizer: &Tokenizer,
) -> Result<Result<ChatTemplate, TemplateError>, ServeError> {
    let source = match asked {
        // Jinja has braces, a path has none that anybody wants.
        Some(path) if !path.contains('{') => Some(
            std::fs::read_to_string(path)
                .map_err(|error| ServeError::Config(format!("cannot read the chat template {path}: {error}")))?,
        ),
        inline => inline.map(str::to_owned),
    };
    match ChatTemplate::from_gguf(gguf, tokenizer, source.as_deref()) {
        Err(error) if asked.is_some() => Err(ServeError::Config(error.to_string())),
        Err(error) => {
            tracing::warn!("no chat: {error}");
            Ok(Err(error))
        }
        template => Ok(template),
    }
}

/// A usable model file, when opening it began, and its tokenizer, which may be of no use.
type Found = (Instant, Opened, Result<Tokenizer, TokenizerError>);

/// Opens the file, or the directory that holds it. Of a start's time the tokenizer takes most: the weights are opened beside it.
fn open(app: &App, path: &Path, options: MapOptions) -> Result<Found, ModelError> {
    let began = Instant::now();
    let file = GgufFile::open(path, options)?;
    app.set_phase(Phase::Loading);
    let pre = app.settings.tokenizer_pre.as_deref();
    let (tokenizer, model) = join(|| Tokenizer::from_gguf(&file.gguf, pre), || file.model());
    Ok((began, file.with_model(model)?, tokenizer))
}

/// Opens the model as soon as that is possible. A missing file, and an invalid one that is still being written, are
/// waited for; the time-out ends both.
fn wait_for_model(app: &App, path: &Path, options: MapOptions) -> Result<Found, ServeError> {
    let deadline = Instant::now() + app.settings.model_wait_timeout;
    let mut said = String::new();
    loop {
        let why = match open(app, path, options) {
            Ok(found) => return Ok(found),
            Err(error @ ModelError::SeveralModels { .. }) => return Err(ServeError::Config(error.to_string())),
            Err(ModelError::Invalid { path, reason }) if settled(&path) => {
                return Err(ServeError::InvalidModel(format!("{}: {reason}", path.display())));
            }
            Err(error @ ModelError::Invalid { .. }) => format!("perhaps still being copied: {error}"),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(ServeError::NoModel {
                waited: app.settings.model_wait_timeout,
                why,
            });
        }
        if why != said {
            tracing::warn!("waiting for a model: {why}");
            said.clone_from(&why);
        }
        app.set_phase(Phase::Waiting(why));
        thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// True when nobody wrote to the file for a while: it will not become valid by waiting.
fn settled(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|meta| meta.modified());
    // A time in the future is a skewed clock of a network file system: the time-out decides then.
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > SETTLED))
}

#[cfg(test)]
mod tests {
    use super::sequences_that_fit;

    #[test]
    fn memory_beside_the_model_decides_how_many_run_side_by_side() {
        assert_eq!(sequences_that_fit(None, 1200, 300), usize::MAX);
        assert_eq!(sequences_that_fit(Some(1500), 1200, 300), 1);
        assert_eq!(sequences_that_fit(Some(2399), 1200, 300), 3);
        assert_eq!(
            sequences_that_fit(Some(1000), 1200, 300),
            1,
            "the engine says whether even one is too many"
        );
    }
}
