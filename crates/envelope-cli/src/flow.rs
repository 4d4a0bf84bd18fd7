//! Copies the input through a stream of the library to the output. For a large input, separate
//! threads read and write, so that reading, the cipher and writing run concurrently.

mod piece;
mod sink;
mod source;

use std::{
    io::{self, Write as _},
    num::NonZero,
    sync::mpsc,
    thread,
};

use envelope::{
    Error,
    stream::{Machine, Writer},
};

pub(crate) use self::sink::Sink;
use self::source::{News, PIECE, Source};
use crate::{failure::Failure, input::Input, output::Output, progress::Progress};

/// The length up to which a file is processed on one thread, which takes about a millisecond.
const SMALL: u64 = 1024 * 1024;
/// The default maximum of threads. More would wait for reading and writing.
const MAX_THREADS: usize = 4;

/// Returns the number of threads that encrypt or decrypt. Default: half the cores, because reading
/// and writing take as long as the cipher.
pub(crate) fn threads(input: &Input, wanted: Option<u16>) -> usize {
    if is_small(input) {
        return 1;
    }
    let cores = || thread::available_parallelism().map_or(1, NonZero::get);
    wanted.map_or_else(|| (cores() / 2).clamp(1, MAX_THREADS), usize::from)
}

fn is_small(input: &Input) -> bool {
    input.length().is_some_and(|length| length <= SMALL)
}

/// Copies the input to the output and finishes the output. `through` returns the stream between
/// them, which uses `threads` threads.
pub(crate) fn copy<M: Machine>(
    input: Input,
    output: Output,
    threads: usize,
    quiet: bool,
    through: impl FnOnce(Sink) -> Writer<M, Sink>,
) -> Result<(), Failure> {
    let name = input.name();
    let mut progress = Progress::new(input.length(), quiet);
    let is_file = output.appears_at_the_end();
    let no_thread = |error: io::Error| Failure::new(format!("could not start a thread: {error}"));
    let (mut source, sink) = if is_small(&input) {
        (Source::here(input), Sink::here(output.file()))
    } else {
        let (news, received) = mpsc::channel();
        let sink = Sink::behind(output.file(), is_file, news.clone()).map_err(no_thread)?;
        (Source::ahead(input, threads * PIECE, news, received).map_err(no_thread)?, sink)
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
                // The reader of a pipe receives all complete frames now.
                if !is_file {
                    writer.flush().map_err(not_written)?;
                }
                progress.advance(piece.filled().len());
                source.give_back(piece);
            }
            News::Ended => break,
            News::NotRead(error) => return Err(Failure::stream(name.display(), &error)),
            // The flush returns the error.
            News::NotWritten => writer.flush().map_err(not_written)?,
        }
    }
    let sink = writer.finish().map_err(not_written)?;
    sink.finish().map_err(not_written)?;
    output.finish()
}
