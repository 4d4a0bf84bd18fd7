//! Simulated network latency: a delay line on each connection.
//!
//! Every byte, in either direction, is delivered half a round trip after it arrived. Waiting bytes
//! are queued, so many of them can be in flight at once, and the throughput is that of the socket.
//! The kernel accepts a connection at once, so the round trip of connecting is added here: bytes
//! that a client sends within the first round trip count as sent at the end of it.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex, split,
    },
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::time;

/// The maximum round trip. Several of them must fit into the timeout of a handshake.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(2);
/// The maximum number of bytes that are read and delivered at once.
const CHUNK: usize = 16 * 1024;
/// The maximum number of chunks in flight in one direction.
const MAX_CHUNKS: usize = 256;

/// The length of a round trip. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundTrip {
    micros: Arc<AtomicU64>,
}

/// The end of a delay line at the socket. The server uses the other end.
pub(crate) struct DelayLine {
    near: DuplexStream,
    accepted: Instant,
    round_trip: Duration,
}

impl RoundTrip {
    pub(crate) fn new(time: Duration) -> Self {
        let round_trip = Self::default();
        round_trip.set(time);
        round_trip
    }

    pub(crate) fn set(&self, time: Duration) {
        let micros = u64::try_from(time.min(MAX_ROUND_TRIP).as_micros()).unwrap_or(u64::MAX);
        self.micros.store(micros, Ordering::Relaxed);
    }

    pub(crate) fn time(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

impl DelayLine {
    /// Returns a delay line for a new connection, and the stream for the server to use.
    pub(crate) fn new(round_trip: Duration) -> (DuplexStream, Self) {
        let (far, near) = duplex(CHUNK);
        (far, Self { near, accepted: time::timer(), round_trip })
    }

    /// Carries bytes between the line and the socket, until everything that the server wrote is
    /// delivered.
    ///
    /// # Errors
    ///
    /// The errors of the socket. The server's stream then fails, too.
    pub(crate) async fn carry(self, socket: &mut TcpStream) -> io::Result<()> {
        let Self { near, accepted, round_trip } = self;
        let half = round_trip / 2;
        let (from_client, to_client) = socket.split();
        let (from_server, to_server) = split(near);
        let mut inbound = pin!(pass(from_client, to_server, accepted + round_trip, half));
        let outbound = pass(from_server, to_client, accepted, half);
        let mut outbound = pin!(outbound);
        tokio::select! {
            done = &mut outbound => return done,
            // The client sends nothing more, but responses can still be in flight.
            _ = &mut inbound => {}
        }
        outbound.await
    }
}

/// Forwards the bytes that are read, `delay` later, including the end of the stream. Bytes that are
/// read before `earliest` count as read at that time.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    earliest: Instant,
    delay: Duration,
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, io::Result<Bytes>)>(MAX_CHUNKS);
    let take_in = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            let read = from.read_buf(&mut buffer).await.map(|_| buffer.split().freeze());
            let last = !matches!(&read, Ok(bytes) if !bytes.is_empty());
            let due = time::timer().max(earliest) + delay;
            // The receiver is dropped when the other side has closed.
            if queue.send((due, read)).await.is_err() || last {
                return;
            }
        }
    };
    let deliver = async {
        while let Some((due, bytes)) = queued.recv().await {
            sleep_until(due).await;
            let bytes = bytes?;
            if bytes.is_empty() {
                break;
            }
            to.write_all(&bytes).await?;
            to.flush().await?;
        }
        Ok(())
    };
    let delivered = {
        let mut deliver = pin!(deliver);
        tokio::select! {
            delivered = &mut deliver => delivered,
            () = take_in => deliver.await,
        }
    };
    // Pass on the end of the stream, even after an error.
    let ended = to.shutdown().await;
    delivered.and(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn many_bytes_are_in_flight_at_once() {
        let (mut client, from) = duplex(64);
        let (to, mut server) = duplex(64);
        let start = time::timer();
        let line = tokio::spawn(pass(from, to, start, HALF));
        let writing = tokio::spawn(async move {
            for n in 0..200u8 {
                client.write_all(&[n; 64]).await.unwrap();
            }
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap();
        line.await.unwrap().unwrap();
        let sent: Vec<u8> = (0..200).flat_map(|n| [n; 64]).collect();
        assert_eq!(received, sent);
        // Only timers advance the paused clock. A line that carried one chunk at a time would have
        // taken 200 times as long.
        assert_eq!(time::timer() - start, HALF);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_sent_while_connecting_wait_for_the_connection() {
        let (mut client, from) = duplex(64);
        let (to, mut server) = duplex(64);
        let start = time::timer();
        let _line = tokio::spawn(pass(from, to, start + 2 * HALF, HALF));
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        assert_eq!(time::timer() - start, 3 * HALF);
        client.write_all(b"y").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'y');
        assert_eq!(time::timer() - start, 4 * HALF);
    }

    #[test]
    fn a_round_trip_has_a_maximum() {
        let round_trip = RoundTrip::new(Duration::from_millis(70));
        assert_eq!(round_trip.time(), Duration::from_millis(70));
        round_trip.clone().set(Duration::MAX);
        assert_eq!(round_trip.time(), MAX_ROUND_TRIP);
    }
}
