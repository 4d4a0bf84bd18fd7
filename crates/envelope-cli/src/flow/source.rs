//! Reads the input, either on this thread or ahead on a separate one.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use super::piece::Piece;
use crate::input::Input;

/// The number of bytes to read at once on this thread.
const SMALL_PIECE: usize = 64 * 1024;
/// The number of bytes to read or write at once on a separate thread, per encryption thread. Larger
/// pieces do not fit into the caches of the cores, which costs twice the time that fewer calls
/// save.
pub(super) const PIECE: usize = 256 * 1024;
/// The number of pieces for reading, and for writing.
pub(super) const PIECES: usize = 4;

/// An event that the copying thread waits for.
pub(super) enum News {
    /// The next piece of the input.
    Read(Piece),
    /// The end of the input.
    Ended,
    /// Reading failed.
    NotRead(io::Error),
    /// Writing failed. The sink has the error.
    NotWritten,
}

/// The source of pieces.
pub(super) enum Source {
    Here { input: Input, spare: Option<Piece> },
    Ahead { news: Receiver<News>, spent: Sender<Piece> },
}

impl Source {
    pub(super) fn here(input: Input) -> Self {
        Self::Here { input, spare: None }
    }

    /// Starts a thread that reads pieces of `piece` bytes. The thread ends with the input, on a
    /// failure, or when the receiver is dropped. Nothing joins it, because a pipe can block it
    /// forever.
    pub(super) fn ahead(
        input: Input,
        piece: usize,
        sender: Sender<News>,
        news: Receiver<News>,
    ) -> io::Result<Self> {
        let (spent, empty) = mpsc::channel();
        for _ in 0..PIECES {
            let _ = spent.send(Piece::new(piece));
        }
        thread::Builder::new()
            .name("reading".to_owned())
            .spawn(move || read(input, &empty, &sender))?;
        Ok(Self::Ahead { news, spent })
    }

    /// Waits for the next event.
    pub(super) fn next(&mut self) -> News {
        match self {
            Self::Here { input, spare } => {
                next(input, spare.take().unwrap_or_else(|| Piece::new(SMALL_PIECE)))
            }
            // A thread that ended without an event may have missed some input.
            Self::Ahead { news, .. } => {
                news.recv().unwrap_or_else(|error| News::NotRead(io::Error::other(error)))
            }
        }
    }

    /// Returns a piece, to be filled again.
    pub(super) fn give_back(&mut self, mut piece: Piece) {
        piece.clear();
        match self {
            Self::Here { spare, .. } => *spare = Some(piece),
            // There is no receiver any more after the end of the input.
            Self::Ahead { spent, .. } => drop(spent.send(piece)),
        }
    }
}

fn read(mut input: Input, empty: &Receiver<Piece>, sender: &Sender<News>) {
    while let Ok(piece) = empty.recv() {
        let news = next(&mut input, piece);
        let is_piece = matches!(news, News::Read(_));
        if sender.send(news).is_err() || !is_piece {
            return;
        }
    }
}

fn next(input: &mut Input, mut piece: Piece) -> News {
    match piece.read(input) {
        Ok(0) => News::Ended,
        Ok(_) => News::Read(piece),
        Err(error) => News::NotRead(error),
    }
}
