//! A TCP relay that can silently drop its connections, like a NAT or a load balancer: data on them
//! disappears, and neither side is notified.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::{self, Runtime},
};

/// A running relay, on its own thread.
#[derive(Debug)]
pub(super) struct Relay {
    port: u16,
    forgotten: Forgotten,
    runtime: Option<Runtime>,
}

/// For each connection, whether it has been dropped.
type Forgotten = Arc<Mutex<Vec<Arc<AtomicBool>>>>;

impl Relay {
    /// Starts a relay to a port of this machine.
    pub(super) fn start(to: u16) -> io::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("relay")
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let port = listener.local_addr()?.port();
        let forgotten = Forgotten::default();
        runtime.spawn(serve(listener, (Ipv4Addr::LOCALHOST, to).into(), Arc::clone(&forgotten)));
        Ok(Self { port, forgotten, runtime: Some(runtime) })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Silently drops all existing connections; new ones work.
    pub(super) fn forget(&self) {
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        forgotten.drain(..).for_each(|connection| connection.store(true, SeqCst));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, all: Forgotten) {
    while let Ok((near, _)) = listener.accept().await {
        let forgotten = Arc::<AtomicBool>::default();
        all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&forgotten));
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            // Small messages must not be delayed by Nagle's algorithm.
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::join!(pump(from_near, to_far, &forgotten), pump(from_far, to_near, &forgotten));
        });
    }
}

/// Forwards data until the connection is dropped. After that it reads everything, including the end
/// of the stream, and forwards nothing.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, forgotten: &AtomicBool) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let is_forgotten = forgotten.load(SeqCst);
        if read == 0 {
            if is_forgotten {
                std::future::pending::<()>().await;
            }
            return;
        }
        if !is_forgotten && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
