//! From the input through a stream of the library to the output. What is large is read ahead and written behind, on threads
//! of their own, so that reading, sealing or opening, and writing go on at once.

mod piece;
mod sink;
mod source;

use std::{
    io::{self, Write as _},
    sync::mpsc,
};

use envelope::{
    Error,
    stream::{Machine, Writer},
};

pub(crate) use self::sink::Sink;
use self::source::{News, Source};
use crate::{failure::Failure, input::Input, output::Output, progress::Progress};

/// A file up to this length is done on one thread, in less time than it takes to start another.
const SMALL: u64 = 1024 * 1024;

/// Copies everything and makes the output appear. `through` says what it goes through.
pub(crate) fn copy<M: Machine>(
    input: Input,
    output: Output,
    quiet: bool,
    through: impl FnOnce(Sink) -> Writer<M, Sink>,
) -> Result<(), Failure> {
    let name = input.name();
    let mut progress = Progress::new(input.length(), quiet);
    let is_file = output.appears_at_the_end();
    let threads = |error: io::Error| Failure::new(format!("can't start: {error}"));
    let (mut source, sink) = if input.length().is_some_and(|length| length <= SMALL) {
        (Source::here(input), Sink::here(output.file()))
    } else {
        let (news, received) = mpsc::channel();
        let sink = Sink::behind(output.file(), is_file, news.clone()).map_err(threads)?;
        (Source::ahead(input, news, received).map_err(threads)?, sink)
    };
    let mut writer = through(sink);
    let not_written = |error: io::Error| match Error::in_io(&error) {
        Some(error) => Failure::envelope(error),
        None => output.failed(&error),
    };
    if !is_file {
        writer.flush().map_err(not_written)?;
    }
    loop {
        match source.next() {
            News::Read(piece) => {
                writer.write_all(piece.filled()).map_err(not_written)?;
                // Whoever reads a pipe gets now what can be had now.
                if !is_file {
                    writer.flush().map_err(not_written)?;
                }
                progress.advance(piece.filled().len());
                source.give_back(piece);
            }
            News::Ended => break,
            News::NotRead(error) => return Err(Failure::stream(name.display(), &error)),
            // It says why.
            News::NotWritten => writer.flush().map_err(not_written)?,
        }
    }
    let sink = writer.finish().map_err(not_written)?;
    sink.finish().map_err(not_written)?;
    output.finish()
}
