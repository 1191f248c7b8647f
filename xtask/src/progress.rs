//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Reports what happens.
pub struct Progress {
    /// Absent when nobody watches.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar if standard error is a terminal.
    pub fn new() -> Progress {
        use std::io::IsTerminal as _;
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            bar.set_style(
                ProgressStyle::with_template("{bar:32} {pos}/{len} {elapsed} {wide_msg}").expect("a valid template"),
            );
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Progress { bar }
    }

    /// Whether somebody watches a bar.
    pub fn is_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// A new stage of about `steps` steps; a line of its own where there is no bar.
    pub fn stage(&self, steps: u64, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.reset();
                bar.set_length(steps);
                bar.set_message(text.to_owned());
            }
            None => eprintln!("{text}"),
        }
    }

    /// One step of the stage is done; only the bar shows it.
    pub fn step(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
            bar.set_length(bar.length().unwrap_or(0).max(bar.position()));
            bar.set_message(text.to_owned());
        }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the bar away, for the result to stand alone.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
