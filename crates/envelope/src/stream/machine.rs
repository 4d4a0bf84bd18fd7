//! The common interface of encryptors and decryptors for readers and writers.

use super::buffer::Buffer;
use crate::{error::Error, message::workers::Workers};

/// The number of bytes that a reader reads at once with one thread, and about the number of output
/// bytes that a machine produces before they must be taken.
pub(super) const CHUNK: usize = 64 * 1024;

/// Transforms a stream of bytes.
///
/// Implemented by [`Encryptor`](super::Encryptor) and [`Decryptor`](super::Decryptor). You cannot
/// implement it yourself.
pub trait Machine: Steps {}

impl<M: Steps> Machine for M {}

/// The steps of a machine, without I/O. Not exported.
///
/// After an error, every call fails with the same error, and there is no output.
pub trait Steps {
    /// Takes bytes from the front of `input` and returns their number, which is at least one unless
    /// output must be taken first or the stream has ended.
    fn push(&mut self, input: &[u8]) -> Result<usize, Error>;

    /// Ends the input. Can be called again.
    fn end(&mut self) -> Result<(), Error>;

    /// Returns the max number of input bytes to fetch at once.
    fn chunk(&self) -> usize;

    /// Returns the number of input bytes that can be fetched without reading past the stream's end.
    fn wanted(&self) -> usize;

    /// Returns the output.
    fn output(&mut self) -> &mut Buffer;
}

/// Returns the number of bytes to give to these workers at once.
pub(super) fn chunk(workers: &Workers) -> usize {
    if workers.share(workers.slice()) { workers.slice() } else { CHUNK }
}
