//! Reading: here, or ahead on a thread of its own.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use super::piece::Piece;
use crate::input::Input;

/// How much is read at once here, in bytes.
const SMALL_PIECE: usize = 64 * 1024;
/// How much is read or written at once on a thread of its own, for each that seals or opens. More
/// falls out of a core's cache on its way to the next one, which costs twice what it saves in
/// calls.
pub(super) const PIECE: usize = 256 * 1024;
/// How many pieces there are on either side.
pub(super) const PIECES: usize = 4;

/// What happened.
pub(super) enum News {
    /// So much more of the input is there.
    Read(Piece),
    /// That was all of it.
    Ended,
    NotRead(io::Error),
    /// The output takes nothing any more; its sink knows why.
    NotWritten,
}

/// Where pieces come from.
pub(super) enum Source {
    Here { input: Input, spare: Option<Piece> },
    Ahead { news: Receiver<News>, spent: Sender<Piece> },
}

impl Source {
    pub(super) fn here(input: Input) -> Self {
        Self::Here { input, spare: None }
    }

    /// Starts to read pieces of so many bytes. The thread ends with the input, when it fails, or
    /// once what it reads is not wanted any more; but nobody waits for it, since a pipe may keep it
    /// forever.
    pub(super) fn ahead(
        input: Input,
        piece: usize,
        told: Sender<News>,
        news: Receiver<News>,
    ) -> io::Result<Self> {
        let (spent, empty) = mpsc::channel();
        for _ in 0..PIECES {
            let _ = spent.send(Piece::new(piece));
        }
        thread::Builder::new()
            .name("reading".to_owned())
            .spawn(move || read(input, &empty, &told))?;
        Ok(Self::Ahead { news, spent })
    }

    /// Waits for what happens next.
    pub(super) fn next(&mut self) -> News {
        match self {
            Self::Here { input, spare } => {
                next(input, spare.take().unwrap_or_else(|| Piece::new(SMALL_PIECE)))
            }
            // A thread that is gone without a word has read who knows what.
            Self::Ahead { news, .. } => {
                news.recv().unwrap_or_else(|error| News::NotRead(io::Error::other(error)))
            }
        }
    }

    /// Takes a piece back, to be filled again.
    pub(super) fn give_back(&mut self, mut piece: Piece) {
        piece.clear();
        match self {
            Self::Here { spare, .. } => *spare = Some(piece),
            // Nobody wants it when everything was read.
            Self::Ahead { spent, .. } => drop(spent.send(piece)),
        }
    }
}

fn read(mut input: Input, empty: &Receiver<Piece>, told: &Sender<News>) {
    while let Ok(piece) = empty.recv() {
        let news = next(&mut input, piece);
        let goes_on = matches!(news, News::Read(_));
        if told.send(news).is_err() || !goes_on {
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
