//! What readers and writers have in common.

use super::buffer::Buffer;
use crate::{error::Error, message::workers::Workers};

/// What a reader reads from its source at once where one thread works, and about how much output a
/// machine makes before it waits for it to be taken, in bytes.
pub(super) const CHUNK: usize = 64 * 1024;

/// Turns a stream of bytes into another one: [`Encryptor`](super::Encryptor) and
/// [`Decryptor`](super::Decryptor). Can't be implemented elsewhere.
pub trait Machine: Steps {}

impl<M: Steps> Machine for M {}

/// A machine without input or output of its own. Not exported.
///
/// After an error, every call fails with the same, and there is no output.
pub trait Steps {
    /// Takes bytes off the front of `input` and tells how many: at least one, unless there is
    /// output to be taken first or the stream has ended.
    fn push(&mut self, input: &[u8]) -> Result<usize, Error>;

    /// The input ends here. May be called again.
    fn end(&mut self) -> Result<(), Error>;

    /// How many bytes of input are best fetched at once, at the most.
    fn chunk(&self) -> usize;

    /// How many bytes of input may be fetched without reaching beyond what belongs to the stream.
    fn wanted(&self) -> usize;

    /// What may be released.
    fn output(&mut self) -> &mut Buffer;
}

/// How much these workers are best given at once, in bytes.
pub(super) fn chunk(workers: &Workers) -> usize {
    if workers.share(workers.slice()) { workers.slice() } else { CHUNK }
}
