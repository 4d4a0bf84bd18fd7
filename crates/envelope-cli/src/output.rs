//! What is written: a file that appears when it is whole, or standard output.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::TempPath;

use crate::failure::{self, Failure};

/// The file that is being written, under its temporary name.
static UNFINISHED: Mutex<Option<TempPath>> = Mutex::new(None);

/// A file, or standard output.
pub(crate) struct Output {
    sink: Box<dyn Write>,
    name: PathBuf,
    /// A file to be renamed to `name` when all is well.
    file: Option<File>,
}

impl Output {
    /// Opens the output. What is not a regular file, as a pipe or a device, is written directly.
    ///
    /// `binary` output goes to a terminal only where that was asked for.
    pub(crate) fn open(path: Option<&Path>, binary: bool) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            if path.is_none() && binary && io::stdout().is_terminal() {
                let problem = "a message is no text for a terminal: give -o FILE, or -o - if it must be";
                return Err(Failure::usage(problem));
            }
            let (sink, name) = (Box::new(io::stdout().lock()), PathBuf::from("standard output"));
            return Ok(Self { sink, name, file: None });
        };
        let failed = |error: io::Error| Failure::file(path, &error);
        let existing = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(Failure::new(format!("{}: it is a directory: name a file in it", path.display())));
            }
            Ok(metadata) if !metadata.is_file() => {
                let sink = OpenOptions::new().write(true).open(path).map_err(failed)?;
                return Ok(Self { sink: Box::new(sink), name: path.to_owned(), file: None });
            }
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        // A symbolic link stays one: what it points to is replaced.
        let name = if existing.is_some() { fs::canonicalize(path).map_err(failed)? } else { path.to_owned() };
        let folder = name.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".envelope-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let in_folder = |error: io::Error| Failure::new(format!("{}: can't write there: {error}", folder.display()));
        let mut unfinished = unfinished();
        let (file, temporary) = builder.tempfile_in(folder).map_err(in_folder)?.into_parts();
        *unfinished = Some(temporary);
        if let Some(existing) = existing {
            file.set_permissions(existing.permissions()).map_err(failed)?;
        }
        let sink = file.try_clone().map_err(failed)?;
        Ok(Self { sink: Box::new(sink), name, file: Some(file) })
    }

    /// Whether nobody sees anything of it before it is finished.
    pub(crate) fn appears_at_the_end(&self) -> bool {
        self.file.is_some()
    }

    /// Makes everything that was written appear.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.sink.flush().map_err(|error| self.failed(&error))?;
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_all().map_err(|error| self.failed(&error))?;
        let mut unfinished = unfinished();
        let Some(temporary) = unfinished.take() else { return Ok(()) };
        temporary.persist(&self.name).map_err(|error| self.failed(&error.error))
    }

    /// Why it could not be written.
    pub(crate) fn failed(&self, error: &io::Error) -> Failure {
        match self.file {
            None if self.name == Path::new("standard output") => Failure::output(error),
            _ => Failure::file(&self.name, error),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Whatever was not finished is removed.
impl Drop for Output {
    fn drop(&mut self) {
        if self.file.is_some() {
            drop(unfinished().take());
        }
    }
}

/// From now on, Ctrl-C and the signals that ask to end remove what is unfinished.
pub(crate) fn remove_on_interrupt() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        // Held to the end, so that nothing is renamed any more.
        let mut unfinished = unfinished();
        let was_file = unfinished.take().is_some();
        failure::say(if was_file { "interrupted: nothing was written" } else { "interrupted" });
        process::exit(1);
    })
    .map_err(|error| Failure::new(format!("can't wait for interrupts: {error}")))
}

fn unfinished() -> MutexGuard<'static, Option<TempPath>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}
