//! HTTP: one file per API family.
//!
//! [`run`] binds the port, answers `/health` at once, and loads the model on a thread beside ([`load`]). A family
//! (`openai`, `llama_cpp`, `native`, `info`) is a file with a `routes()`; everything between a parsed request and its
//! text is [`generate`], and a new family needs one more line in [`routes`].

mod body;
mod error;
mod generate;
mod info;
mod layers;
mod listen;
mod llama_cpp;
mod load;
mod logprobs;
mod native;
mod openai;
mod options;
mod prompt;
mod state;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::engine::background;
use crate::kernels;
use crate::machine::STACK_BYTES;
use crate::machine::cpu::Machine;
use crate::machine::limits::Threads;
use crate::model::Model;
use crate::settings::Settings;

use error::ApiError;
use generate::TOKENIZING_MAX;
use listen::Server;
use state::{App, Phase};

/// The program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Changes when the same request may give another text.
const FINGERPRINT: &str = concat!("sterna-", env!("CARGO_PKG_VERSION"));
/// Time for responses that are complete to reach their sockets.
const FLUSH: Duration = Duration::from_millis(250);

/// Why the server could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}{}", bind_advice(error))]
    Bind {
        /// As asked.
        address: SocketAddr,
        /// The system's answer.
        error: io::Error,
    },
    /// No model appeared in time.
    #[error("no model after {} seconds (MODEL_WAIT_TIMEOUT): {why}", waited.as_secs_f64())]
    NoModel {
        /// How long we waited.
        waited: Duration,
        /// What was wrong last.
        why: String,
    },
    /// The model file cannot be used.
    #[error("{0}")]
    InvalidModel(String),
    /// The settings do not fit this machine or this model.
    #[error("{0}")]
    Config(String),
    /// A fault of ours: what it was is above, on stderr.
    #[error(
        "the thread that loads the model ended early, which is a fault of this program: please report the lines above"
    )]
    Loader,
    /// The operating system failed us.
    #[error("cannot start the server: {0}")]
    System(#[from] io::Error),
}

fn bind_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another program uses this port, choose one with --port",
        io::ErrorKind::PermissionDenied => ": choose a port above 1023 with --port",
        io::ErrorKind::AddrNotAvailable => ": this machine does not have that address, use --host 0.0.0.0",
        _ => "",
    }
}

/// Serves until SIGTERM or SIGINT.
pub fn run(settings: Settings, machine: &Machine) -> Result<(), ServeError> {
    let config = |error: &dyn ToString| ServeError::Config(error.to_string());
    settings.affinity.apply().map_err(|error| config(&error))?;
    let wanted = settings.kernel.as_deref().unwrap_or("auto");
    let kernels = kernels::choose(&machine.features, wanted).map_err(|error| config(&error))?;
    let threads = settings.threads.resolve();
    // The words that deployments of bitnet.cpp look for.
    let auto = |is: bool, auto: &'static str, set: &'static str| if is { auto } else { set };
    tracing::info!(
        "{} kernel: {}",
        auto(settings.kernel.is_none(), "Auto-selected", "Selected"),
        kernels.name
    );
    tracing::info!(
        "{} threads: {threads}",
        auto(settings.threads == Threads::Auto, "Auto-configured", "Configured")
    );

    // Two threads carry thousands of connections; the cores belong to the forward pass.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(TOKENIZING_MAX)
        .thread_keep_alive(Duration::MAX)
        .thread_name("http")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve(App::new(settings, kernels, threads)));
    // What still runs has no client any more.
    runtime.shutdown_background();
    ended
}

async fn serve(app: App) -> Result<(), ServeError> {
    let address = SocketAddr::new(app.settings.host, app.settings.port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| ServeError::Bind { address, error })?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    // PID 1 has no default actions: without handlers a signal would do nothing.
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];

    // One thread for what may block, for good: a process limit may leave none when the first request comes.
    tokio::task::spawn_blocking(|| ()).await.expect("nothing that panics");
    let app = Arc::new(app);
    let loader = spawn_loader(app.clone())?;
    let failed = async move {
        match loader.await {
            Ok(Ok(())) => std::future::pending().await,
            Ok(Err(error)) => error,
            Err(_) => ServeError::Loader,
        }
    };
    let server = Server::new(listener, routes(&app));
    let outcome = tokio::select! {
        never = server.accept() => match never {},
        () = any(&mut signals) => Ok(()),
        error = failed => Err(error),
    };
    if outcome.is_ok() {
        tracing::info!("stopping: running requests get {:?}", app.settings.shutdown_grace);
    }
    let phase = app.phase.send_replace(Phase::Stopping);
    tokio::select! {
        () = server.close() => {}
        () = last_words(&app, &mut signals) => {}
    }
    // Dropping the engine would wait for the end of its pass, which may take seconds; the process ends anyway.
    std::mem::forget(phase);
    outcome
}

/// Ends when there is nothing left to say: running requests finish, are cut off when the grace period or the user's
/// patience (a second signal) ends, and reach their sockets.
async fn last_words(app: &App, signals: &mut [Signal; 2]) {
    let mut running = app.running.subscribe();
    tokio::select! {
        _ = running.wait_for(|&n| n == 0) => {}
        () = tokio::time::sleep(app.settings.shutdown_grace) => {}
        () = any(signals) => {}
    }
    app.cut.send_replace(true);
    let cut = running.wait_for(|&n| n == 0);
    tokio::time::timeout(FLUSH, cut).await.ok();
    tokio::time::sleep(FLUSH).await;
}

/// Resolves with the next signal of either kind.
async fn any([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn routes(app: &Arc<App>) -> Router {
    let families = Router::new()
        .merge(info::routes())
        .merge(openai::routes())
        .merge(llama_cpp::routes())
        .merge(native::routes())
        .fallback(async |request: Request| ApiError::unknown_route(request.uri().path()))
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::wrong_method(request.method().as_str(), request.uri().path())
        });
    layers::around(families.with_state(app.clone()), app)
}

/// 64 bits that nobody can foresee, from std's hash keys: enough for seeds and ids.
fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Loads the model beside the server; what comes back is the reason why that failed. Where it did not, the thread goes on looking after the
/// weights.
fn spawn_loader(app: Arc<App>) -> io::Result<oneshot::Receiver<Result<(), ServeError>>> {
    let (ended, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("loader".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || match load_and_finish(&app) {
            Ok(model) => {
                let kernels = app.kernels;
                drop(app);
                ended.send(Ok(())).ok();
                background::follow(model, kernels, &AtomicBool::new(false));
            }
            Err(error) => {
                app.set_phase(Phase::Failed);
                ended.send(Err(error)).ok();
            }
        })?;
    Ok(receiver)
}

fn load_and_finish(app: &App) -> Result<Arc<Model>, ServeError> {
    let loaded = Arc::new(load::load(app)?);
    app.set_phase(Phase::Ready(loaded.clone()));
    tracing::info!("ready after {} ms", app.started.elapsed().as_millis());
    load::finish(app, &loaded)?;
    Ok(loaded.model.clone())
}

#[cfg(test)]
mod tests;
