//! Writers that encrypt or decrypt.

use std::{fmt, io};
#[cfg(feature = "tokio")]
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::Machine;

/// Writes the output of an [`Encryptor`](super::Encryptor) (the message) or a
/// [`Decryptor`](super::Decryptor) (the plaintext) to a sink.
///
/// Finish it with [`finish`](Self::finish), or over `tokio::io` with
/// [`finish_async`](Self::finish_async) or `shutdown`. If you drop an unfinished writer, the
/// message is truncated and cannot be decrypted, or the plaintext may be incomplete. If reading
/// your input fails, drop the writer: do not finish it or shut it down. `flush` writes only
/// complete frames.
pub struct Writer<M, W> {
    machine: M,
    sink: W,
}

impl<M: Machine, W> Writer<M, W> {
    pub(super) fn new(machine: M, sink: W) -> Self {
        Self { machine, sink }
    }

    /// Returns the encryptor or decryptor.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Returns the sink.
    pub fn sink(&self) -> &W {
        &self.sink
    }

    fn push(&mut self, input: &[u8]) -> io::Result<usize> {
        Ok(self.machine.push(input)?)
    }

    /// Returns the error of a machine that failed.
    fn check(&mut self) -> io::Result<()> {
        self.push(&[]).map(drop)
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(self.machine.end()?)
    }

    fn released(&mut self) -> &[u8] {
        self.machine.output().released()
    }

    /// Records that the sink took `count` bytes.
    fn written(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.machine.output().take(count);
        Ok(())
    }
}

impl<M: Machine, W: io::Write> Writer<M, W> {
    /// Finishes the message, or checks that it is complete, and writes the rest. Returns the
    /// flushed sink.
    ///
    /// # Errors
    ///
    /// Errors of the sink, and errors of the message: an [`Error`](crate::Error) inside an
    /// [`io::Error`].
    pub fn finish(mut self) -> io::Result<W> {
        self.end()?;
        io::Write::flush(&mut self)?;
        Ok(self.sink)
    }

    fn drain(&mut self) -> io::Result<()> {
        while !self.released().is_empty() {
            match self.sink.write(self.machine.output().released()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => self.written(result?)?,
            }
        }
        Ok(())
    }
}

impl<M: Machine, W: io::Write> io::Write for Writer<M, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.drain()?;
        self.push(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.check()?;
        self.drain()?;
        self.sink.flush()
    }
}

#[cfg(feature = "tokio")]
impl<M: Machine + Unpin, W: tokio::io::AsyncWrite + Unpin> Writer<M, W> {
    /// Finishes the message, or checks that it is complete, and writes the rest. Returns the sink,
    /// flushed but not shut down.
    ///
    /// # Errors
    ///
    /// The errors of [`finish`](Self::finish).
    pub async fn finish_async(mut self) -> io::Result<W> {
        self.end()?;
        tokio::io::AsyncWriteExt::flush(&mut self).await?;
        Ok(self.sink)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.released().is_empty() {
            let released = self.machine.output().released();
            let count = ready!(Pin::new(&mut self.sink).poll_write(cx, released))?;
            self.written(count)?;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(feature = "tokio")]
impl<M: Machine + Unpin, W: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for Writer<M, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        Poll::Ready(self.push(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.sink).poll_flush(cx)
    }

    /// Finishes the message, or checks that it is complete, writes the rest, and shuts down the
    /// sink.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end()?;
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.sink).poll_shutdown(cx)
    }
}

impl<M: fmt::Debug, W> fmt::Debug for Writer<M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("machine", &self.machine).finish_non_exhaustive()
    }
}
