//! The output: a file that appears only when it is complete, or standard output.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, IsTerminal as _, Write},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    },
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use tempfile::TempPath;

use crate::failure::{self, Failure};

/// The state of the output file, for the thread that handles signals.
static PROGRESS: Mutex<Progress> = Mutex::new(Progress::Nothing);

enum Progress {
    Nothing,
    /// A file is being written under its temporary name.
    Unfinished(TempPath),
    /// The file has appeared.
    Finished,
    /// A key store may have been changed.
    Changing,
}

/// A file, or standard output.
pub(crate) struct Output {
    sink: Arc<File>,
    name: PathBuf,
    /// What to do on success.
    then: Then,
}

enum Then {
    /// Nothing, for standard output or another stream.
    Nothing,
    /// Rename the file, and replace the file that had its name.
    Rename { replaced: Option<Metadata> },
}

impl Output {
    /// Opens the output. A pipe, a device and an open descriptor, such as `/dev/stdout`, are
    /// written directly.
    ///
    /// Refuses to write `binary` output to a terminal, unless `-o -` requests it, and to replace a
    /// file in `kept`.
    pub(crate) fn open(path: Option<&Path>, binary: bool, kept: &[&Path]) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            if path.is_none() && binary && io::stdout().is_terminal() {
                return Err(Failure::usage(
                    "refusing to write binary data to a terminal: use -o FILE, or -o - to force it",
                ));
            }
            return Self::stdout();
        };
        let failed = |error: io::Error| Failure::file(path, &error);
        let replaced = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(Failure::new(format!("{}: is a directory", path.display())));
            }
            Ok(metadata) if !metadata.is_file() || is_descriptor(path) => {
                let sink = OpenOptions::new().append(true).open(path).map_err(failed)?;
                return Ok(Self { sink: sink.into(), name: path.to_owned(), then: Then::Nothing });
            }
            Ok(metadata) if kept.iter().any(|file| is_file(file, &metadata)) => {
                return Err(Failure::usage(format!(
                    "{}: refusing to overwrite a wrapping key file or key store",
                    path.display()
                )));
            }
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        // A symbolic link is kept. Its target is replaced.
        let name = match (&replaced, fs::read_link(path)) {
            (Some(_), _) => fs::canonicalize(path).map_err(failed)?,
            (None, Ok(target)) => folder_of(path).join(target),
            (None, Err(_)) => path.to_owned(),
        };
        let folder = folder_of(&name);
        // Until the new file has the permissions of the old one, only its owner can read it.
        let mode = if replaced.is_some() { 0o600 } else { 0o666 };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".envelope-").permissions(Permissions::from_mode(mode));
        let mut progress = progress();
        let (sink, temporary) = builder
            .tempfile_in(folder)
            .map_err(|error| {
                Failure::new(format!(
                    "{}: could not create a temporary file: {error}",
                    folder.display()
                ))
            })?
            .into_parts();
        *progress = Progress::Unfinished(temporary);
        Ok(Self { sink: sink.into(), name, then: Then::Rename { replaced } })
    }

    /// Returns the file to write to.
    pub(crate) fn file(&self) -> Arc<File> {
        self.sink.clone()
    }

    /// Returns whether the output is invisible until it is finished.
    pub(crate) fn appears_at_the_end(&self) -> bool {
        matches!(self.then, Then::Rename { .. })
    }

    /// Finishes the output. A file appears under its name.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Then::Rename { replaced } = &self.then else { return Ok(()) };
        let inherited = replaced.as_ref().map_or(Ok(()), |replaced| inherit(&self.sink, replaced));
        inherited.and_then(|()| self.sink.sync_all()).map_err(|error| self.failed(&error))?;
        let mut progress = progress();
        let Progress::Unfinished(temporary) = std::mem::replace(&mut *progress, Progress::Nothing)
        else {
            return Ok(());
        };
        temporary.persist(&self.name).map_err(|error| self.failed(&error.error))?;
        *progress = Progress::Finished;
        // Make the name durable, too. Not every file system supports this.
        let _ = File::open(folder_of(&self.name)).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// Returns the failure for an error of a write.
    pub(crate) fn failed(&self, error: &io::Error) -> Failure {
        if self.name == Path::new(STDOUT) {
            Failure::output(error)
        } else {
            Failure::file(&self.name, error)
        }
    }

    /// Opens standard output without the buffer of the standard library, which ignores that the
    /// descriptor is closed.
    fn stdout() -> Result<Self, Failure> {
        let sink =
            io::stdout().as_fd().try_clone_to_owned().map_err(|error| Failure::output(&error))?;
        Ok(Self { sink: File::from(sink).into(), name: STDOUT.into(), then: Then::Nothing })
    }
}

const STDOUT: &str = "standard output";

/// Writes text to standard output.
pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = Output::stdout()?;
    out.write_all(text).map_err(|error| Failure::output(&error))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Removes an unfinished file.
impl Drop for Output {
    fn drop(&mut self) {
        let mut progress = progress();
        if matches!(*progress, Progress::Unfinished(_)) {
            *progress = Progress::Nothing;
        }
    }
}

/// Installs a handler for Ctrl-C, SIGTERM and SIGHUP that removes an unfinished file and exits.
/// Signals that the parent process ignores, as `nohup` does, stay ignored.
pub(crate) fn remove_on_interrupt() -> Result<(), Failure> {
    let ignored = ignored_signals();
    let signals =
        [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let failed =
        |error: io::Error| Failure::new(format!("could not install signal handlers: {error}"));
    let mut signals = Signals::new(signals).map_err(failed)?;
    let wait = move || {
        if signals.forever().next().is_none() {
            return;
        }
        // Held until the process exits, so that no file is renamed any more.
        let mut progress = progress();
        let text = match std::mem::replace(&mut *progress, Progress::Nothing) {
            // The output is complete already.
            Progress::Finished => return,
            Progress::Unfinished(temporary) => {
                drop(temporary);
                "interrupted: nothing was written"
            }
            Progress::Changing => "interrupted: the change may have been made",
            Progress::Nothing => "interrupted",
        };
        failure::print_line(text);
        process::exit(1);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop).map_err(failed)
}

/// Returns the ignored signals, one bit each. Only Linux shows them; elsewhere there are none.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Returns whether a path leads to an open descriptor of this process, such as `/dev/stdout`.
fn is_descriptor(path: &Path) -> bool {
    let mut path = path.to_owned();
    // Linux follows at most 40 symbolic links, too.
    for _ in 0..40 {
        let Ok(folder) = fs::canonicalize(folder_of(&path)) else { return false };
        if folder.starts_with("/proc") && folder.ends_with("fd") {
            return true;
        }
        let Ok(target) = fs::read_link(&path) else { return false };
        path = folder.join(target);
    }
    false
}

/// Copies owner, group and permissions from the file that is replaced. Drops the permissions of the
/// group if the group differs, and the set-user-ID and set-group-ID bits.
fn inherit(file: &File, replaced: &Metadata) -> io::Result<()> {
    let ours = file.metadata()?;
    let mut mode = replaced.mode() & 0o777;
    if ours.gid() != replaced.gid() && fchown(file, None, Some(replaced.gid())).is_err() {
        mode &= 0o707;
    }
    if ours.uid() != replaced.uid() {
        // Only the superuser can do this. For others, the file belongs to them.
        let _ = fchown(file, Some(replaced.uid()), None);
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// Returns whether a path leads to this file.
fn is_file(path: &Path, file: &Metadata) -> bool {
    fs::metadata(path).is_ok_and(|other| (other.dev(), other.ino()) == (file.dev(), file.ino()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Notes that a key store is being changed.
pub(crate) fn change_begins() {
    *progress() = Progress::Changing;
}

fn progress() -> MutexGuard<'static, Progress> {
    PROGRESS.lock().unwrap_or_else(PoisonError::into_inner)
}
