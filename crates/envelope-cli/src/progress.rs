//! Progress, shown where a person waits.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner needs no progress.
const SILENT: Duration = Duration::from_secs(1);

/// How much of the input was sealed or opened, on standard error while that is a terminal. Cleared
/// when dropped.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    shown: bool,
}

impl Progress {
    /// Of so many bytes, if that is known.
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
            bar.with_style(ProgressStyle::with_template(template).expect("the template is right"))
        });
        Self { bar, shown: false }
    }

    /// So many bytes more.
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
