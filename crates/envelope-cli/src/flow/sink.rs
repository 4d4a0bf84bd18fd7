//! Writes the output, either on this thread or on a separate one.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread::{self, JoinHandle},
};

use super::{
    piece::Piece,
    source::{News, PIECE, PIECES},
};

/// The number of bytes after which the file is synced, so that the disk starts writing.
const STEP: usize = 16 * 1024 * 1024;

/// The destination of the output.
pub(crate) enum Sink {
    Here(Arc<File>),
    Behind(Behind),
}

/// A separate thread that writes.
pub(crate) struct Behind {
    piece: Piece,
    full: Option<Sender<Piece>>,
    empty: Receiver<Piece>,
    thread: Option<JoinHandle<io::Result<()>>>,
    syncing: Option<Syncing>,
}

impl Sink {
    pub(super) fn here(file: Arc<File>) -> Self {
        Self::Here(file)
    }

    /// Starts a thread that writes. It sends a failure to `news` at once, and the next write
    /// returns it. With `synced`, the disk starts writing in the meantime, instead of when the file
    /// is synced at the end.
    pub(super) fn behind(file: Arc<File>, synced: bool, news: Sender<News>) -> io::Result<Self> {
        let (full, filled) = mpsc::channel();
        let (spent, empty) = mpsc::channel();
        for _ in 1..PIECES {
            let _ = spent.send(Piece::new(PIECE));
        }
        let syncing = if synced { Some(Syncing::start(file.clone())?) } else { None };
        let steps = syncing.as_ref().map(|syncing| syncing.steps.clone());
        let thread = thread::Builder::new().name("writing".to_owned()).spawn(move || {
            let written = write(&file, filled, &spent, steps.as_ref());
            if written.is_err() {
                let _ = news.send(News::NotWritten);
            }
            written
        })?;
        Ok(Self::Behind(Behind {
            piece: Piece::new(PIECE),
            full: Some(full),
            empty,
            thread: Some(thread),
            syncing,
        }))
    }

    /// Waits until everything is written.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Here(_) => Ok(()),
            Self::Behind(mut behind) => {
                behind.end()?;
                behind.syncing.take().map_or(Ok(()), Syncing::end)
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Here(file) => file.write(bytes),
            Self::Behind(behind) => {
                let count = behind.piece.append(bytes);
                if behind.piece.is_full() {
                    behind.pass_on()?;
                }
                Ok(count)
            }
        }
    }

    /// Passes all bytes to the thread. Returns the error of earlier writes, if there is one.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Here(_) => Ok(()),
            Self::Behind(behind) => behind.pass_on(),
        }
    }
}

impl Behind {
    /// Passes the piece to the thread, and waits for an empty one.
    fn pass_on(&mut self) -> io::Result<()> {
        let Ok(empty) = self.empty.recv() else { return self.failed() };
        let piece = std::mem::replace(&mut self.piece, empty);
        match &self.full {
            Some(full) if full.send(piece).is_ok() => Ok(()),
            _ => self.failed(),
        }
    }

    /// Returns the error with which the thread ended.
    fn failed(&mut self) -> io::Result<()> {
        self.end().and_then(|()| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Waits until the thread has written everything that was passed to it.
    fn end(&mut self) -> io::Result<()> {
        self.full = None;
        join(self.thread.take())
    }
}

/// A pipe still receives everything that was passed on.
impl Drop for Behind {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn write(
    mut file: &File,
    filled: Receiver<Piece>,
    spent: &Sender<Piece>,
    steps: Option<&SyncSender<()>>,
) -> io::Result<()> {
    let mut written = 0;
    for mut piece in filled {
        file.write_all(piece.filled())?;
        written += piece.filled().len();
        piece.clear();
        let _ = spent.send(piece);
        if let Some(steps) = steps.filter(|_| written >= STEP) {
            written = 0;
            // If the last sync is not done yet, the disk is busy, which is the aim.
            let _ = steps.try_send(());
        }
    }
    Ok(())
}

/// A thread that syncs a file while it is being written. Its errors matter: the kernel reports each
/// only once, so the sync at the end would not return them.
struct Syncing {
    steps: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Syncing {
    fn start(file: Arc<File>) -> io::Result<Self> {
        let (steps, requested) = mpsc::sync_channel(1);
        let sync = move || requested.into_iter().try_for_each(|()| file.sync_data());
        let thread = thread::Builder::new().name("syncing".to_owned()).spawn(sync)?;
        Ok(Self { steps, thread })
    }

    fn end(self) -> io::Result<()> {
        drop(self.steps);
        join(Some(self.thread))
    }
}

fn join(thread: Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    thread.map_or(Ok(()), |thread| {
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread failed")))
    })
}
