//! Shows progress on a terminal.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The time after which progress is shown.
const SILENT: Duration = Duration::from_secs(1);

/// Shows the processed share of the input on standard error, if that is a terminal. Cleared on
/// drop.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    shown: bool,
}

impl Progress {
    /// Returns the progress of `length` bytes, if the length is known.
    pub(crate) fn new(length: Option<u64>, quiet: bool) -> Self {
        let wanted = !quiet && io::stderr().is_terminal();
        let bar = wanted.then(|| {
            let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden());
            let template = match length {
                Some(_) => {
                    "{bar:30} {percent:>3}% {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"
                }
                None => "{spinner} {bytes}, {bytes_per_sec}, {elapsed}",
            };
            bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
        });
        Self { bar, shown: false }
    }

    /// Adds `count` processed bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        let Some(bar) = &self.bar else { return };
        bar.inc(count as u64);
        if !self.shown && bar.elapsed() > SILENT {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
