//! What is read: a file or standard input, with progress shown where a person waits for it.

use std::{
    fs::File,
    io::{self, BufReader, IsTerminal as _, Read},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// Work that is done sooner needs no progress.
const SILENT: Duration = Duration::from_secs(1);
const BUFFER: usize = 256 * 1024;

/// A file or standard input. Without a buffer: what is read may be a plaintext, which must not lie around.
pub(crate) struct Input {
    source: File,
    name: PathBuf,
    progress: Option<ProgressBar>,
    shown: bool,
}

impl Input {
    /// Opens the file, or takes standard input for `-`.
    pub(crate) fn open(path: &Path, quiet: bool) -> Result<Self, Failure> {
        let source = if path == Path::new("-") {
            io::stdin().as_fd().try_clone_to_owned().map(File::from)
        } else {
            File::open(path)
        };
        let source = source.map_err(|error| Failure::file(path, &error))?;
        let length = source.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
        let name = if path == Path::new("-") { PathBuf::from("standard input") } else { path.to_owned() };
        let wanted = !quiet && io::stderr().is_terminal();
        let progress = wanted.then(|| {
            let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden());
            let template = match length {
                Some(_) => "{bar:30} {percent:>3}% {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
                None => "{spinner} {bytes}, {bytes_per_sec}, {elapsed}",
            };
            bar.with_style(ProgressStyle::with_template(template).expect("the template is right"))
        });
        Ok(Self { source, name, progress, shown: false })
    }

    /// The same behind a buffer, for a message, whose header is read in small pieces.
    pub(crate) fn buffered(self) -> BufReader<Self> {
        BufReader::with_capacity(BUFFER, self)
    }

    /// What to call it in an error.
    pub(crate) fn name(&self) -> PathBuf {
        self.name.clone()
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(bar) = &self.progress {
            bar.inc(count as u64);
            if !self.shown && bar.elapsed() > SILENT {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                self.shown = true;
            }
        }
        Ok(count)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Some(bar) = &self.progress {
            bar.finish_and_clear();
        }
    }
}
