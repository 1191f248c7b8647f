//! Warnings of the subcommands, a sentence each on standard error. The server has a log instead.

use std::fmt;
use std::io::{self, Write};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What was said while somebody holds it back; `None` where it is shown at once.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// From now on warnings and errors are shown.
pub fn show() {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_ansi(false)
        .event_format(Sentence)
        .with_writer(|| Lines)
        .init();
}

/// Holds warnings back while it lives: what comes from a thread of its own must not come into the middle of a line.
pub struct Hold(());

impl Hold {
    pub fn begin() -> Self {
        *held() = Some(Vec::new());
        Hold(())
    }

    /// Shows what was held back so far.
    pub fn show(&self) {
        if let Some(lines) = &mut *held() {
            // Nobody is left to tell when this fails.
            let _ = io::stderr().write_all(&mem::take(lines));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.show();
        *held() = None;
    }
}

/// Standard error, or what is held back from it.
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *held() {
            Some(lines) => lines.write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As `main` shows errors.
struct Sentence;

impl<S, N> FormatEvent<S, N> for Sentence
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(out, "sterna: ")?;
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

fn held() -> MutexGuard<'static, Option<Vec<u8>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_wait_for_whoever_holds_them_back() {
        let hold = Hold::begin();
        Lines.write_all(b"one\n").unwrap();
        Lines.write_all(b"two\n").unwrap();
        assert_eq!(held().as_deref(), Some(&b"one\ntwo\n"[..]));
        hold.show();
        assert_eq!(held().as_deref(), Some(&b""[..]));
        drop(hold);
        assert_eq!(*held(), None);
    }
}
