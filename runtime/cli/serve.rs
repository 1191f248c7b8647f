//! `sterna serve`: settings, log, then the server until a signal ends it.

use tracing_subscriber::EnvFilter;

use crate::kernels::TARGET;
use crate::machine::cpu::Machine;
use crate::machine::guard;
use crate::serve;
use crate::settings::{self, LogFormat, ServeArgs, Settings};

/// Serves until SIGTERM or SIGINT.
pub fn run(args: ServeArgs, machine: &Machine) -> Result<(), super::Error> {
    let settings = Settings::new(args, &settings::process_env())?;
    start_log(&settings);
    let caches = guard::cache_warnings(TARGET.l1d_bytes, TARGET.l2_bytes, machine);
    for warning in settings.warnings.iter().chain(&caches) {
        tracing::warn!("{warning}");
    }
    Ok(serve::run(settings, machine)?)
}

/// Sends log lines to standard error: standard output stays free, and both reach `docker logs`.
fn start_log(settings: &Settings) {
    let filter = EnvFilter::builder().parse_lossy(&settings.log_level);
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .with_target(false);
    match settings.log_format {
        LogFormat::Text => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
