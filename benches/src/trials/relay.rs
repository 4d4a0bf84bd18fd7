//! A relay for TCP that can forget its connections, as a NAT or a load balancer does: what is sent
//! on those disappears, and nobody is told.

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

/// A running relay, on a thread of its own.
#[derive(Debug)]
pub(super) struct Relay {
    port: u16,
    forgotten: Forgotten,
    runtime: Option<Runtime>,
}

/// Of each connection whether it is forgotten.
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

    /// Forgets every connection that there is; new ones work.
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
            // Small messages must not wait for one another.
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::join!(pump(from_near, to_far, &forgotten), pump(from_far, to_near, &forgotten));
        });
    }
}

/// Hands on what comes, until the connection is forgotten: then it takes everything, and the end as
/// well, and says nothing.
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
