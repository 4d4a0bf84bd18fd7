//! Writing: here, or behind on a thread of its own.

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

/// How much of a file is written before the disk is made to begin with it, in bytes.
const STEP: usize = 16 * 1024 * 1024;

/// Where the output goes.
pub(crate) enum Sink {
    Here(Arc<File>),
    Behind(Behind),
}

/// A thread that writes.
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

    /// Starts to write. A failure is sent to `told` at once, and reported by the next write. With
    /// `synced`, the disk is kept busy meanwhile; otherwise it would only start when the file is
    /// synced at the end.
    pub(super) fn behind(file: Arc<File>, synced: bool, told: Sender<News>) -> io::Result<Self> {
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
                let _ = told.send(News::NotWritten);
            }
            written
        })?;
        let (piece, full, thread) = (Piece::new(PIECE), Some(full), Some(thread));
        Ok(Self::Behind(Behind { piece, full, empty, thread, syncing }))
    }

    /// Waits until everything was written.
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

    /// Has everything written that is there; fails if what was there before could not be.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Here(_) => Ok(()),
            Self::Behind(behind) => behind.pass_on(),
        }
    }
}

impl Behind {
    /// Passes the piece on, and waits for an empty one.
    fn pass_on(&mut self) -> io::Result<()> {
        let Ok(empty) = self.empty.recv() else { return self.failed() };
        let piece = std::mem::replace(&mut self.piece, empty);
        match &self.full {
            Some(full) if full.send(piece).is_ok() => Ok(()),
            _ => self.failed(),
        }
    }

    /// Why the thread takes nothing any more.
    fn failed(&mut self) -> io::Result<()> {
        self.end().and_then(|()| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Lets the thread write what it has, and waits for that.
    fn end(&mut self) -> io::Result<()> {
        self.full = None;
        join(self.thread.take())
    }
}

/// A pipe gets what was passed on.
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
            // Where the last step is not done yet, the disk is busy, and that was the aim.
            let _ = steps.try_send(());
        }
    }
    Ok(())
}

/// A thread that syncs a file while it is being written. Its errors count: the kernel tells each
/// only once, so the sync in the end would not see them.
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
