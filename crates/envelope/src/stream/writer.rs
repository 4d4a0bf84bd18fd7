//! Writing through a machine.

use std::{fmt, io};
#[cfg(feature = "tokio")]
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::Machine;

/// Processes the bytes that you write, and writes the result to a sink: the message, or its
/// plaintext.
///
/// It must be finished: by [`finish`](Self::finish), or over `tokio::io` by
/// [`finish_async`](Self::finish_async) or `shutdown`. If it is dropped, the message is cut short,
/// and nobody can decrypt it; on decryption, the plaintext was never checked to be complete. If the
/// input could not be read to its end, drop the writer, and do not finish or shut it down. Flushing
/// writes the frames that are complete.
pub struct Writer<M, W> {
    machine: M,
    sink: W,
}

impl<M: Machine, W> Writer<M, W> {
    pub(super) fn new(machine: M, sink: W) -> Self {
        Self { machine, sink }
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The sink.
    pub fn sink(&self) -> &W {
        &self.sink
    }

    fn push(&mut self, input: &[u8]) -> io::Result<usize> {
        Ok(self.machine.push(input)?)
    }

    /// A machine that failed goes on failing.
    fn check(&mut self) -> io::Result<()> {
        self.push(&[]).map(drop)
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(self.machine.end()?)
    }

    fn released(&mut self) -> &[u8] {
        self.machine.output().released()
    }

    /// Notes that the sink took so many bytes.
    fn written(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.machine.output().take(count);
        Ok(())
    }
}

impl<M: Machine, W: io::Write> Writer<M, W> {
    /// Ends the message, or checks that it has ended, and writes the rest. Returns the sink,
    /// flushed.
    ///
    /// # Errors
    ///
    /// The errors of the sink, and with [`Error`](crate::Error) inside, errors of the message.
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
    /// Ends the message, or checks that it has ended, and writes the rest. Returns the sink,
    /// flushed but not shut down.
    ///
    /// # Errors
    ///
    /// The errors of the sink, and with [`Error`](crate::Error) inside, errors of the message.
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

    /// Ends the message, or checks that it has ended, writes the rest, and shuts the sink down.
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
