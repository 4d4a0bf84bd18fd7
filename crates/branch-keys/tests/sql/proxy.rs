//! A proxy between the storage and a server.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the proxy does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Forward,
    /// Accepts connections and forwards nothing.
    Silent,
    /// Closes a connection that commits, without telling the server to commit.
    CutBeforeCommit,
    /// Closes a connection after the server committed, without telling the client.
    CutAfterCommit,
    /// Lets the server commit, and never responds to the client.
    SilentAfterCommit,
}

pub(crate) struct Proxy {
    url: String,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    mode: watch::Sender<Mode>,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// Dropping or changing one silences its connection.
    silenced: Vec<watch::Sender<bool>>,
}

impl Proxy {
    /// Starts a proxy for the server in a URL.
    pub(crate) async fn start(url: &str) -> Self {
        let (head, rest) = url.split_once('@').unwrap();
        let (server, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // It has to see the statements.
        let plain = if url.starts_with("mysql") { "ssl-mode=disabled" } else { "sslmode=disable" };
        let url = format!("{head}@{}/{database}?{plain}", listener.local_addr().unwrap());
        let mode = watch::Sender::new(Mode::Forward);
        let shared = Arc::new(Shared { mode, connections: Mutex::default() });
        let accepting = {
            let (shared, server) = (Arc::clone(&shared), server.to_owned());
            tokio::spawn(async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    shared.serve(client, server.clone());
                }
            })
        };
        Self { url, shared, accepting }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Closes all connections.
    pub(crate) async fn cut(&self) {
        let connections = std::mem::take(&mut *self.shared.connections());
        let mut tasks = connections.tasks;
        tasks.shutdown().await;
    }

    /// Forwards nothing on the connections that are open now, and keeps them open.
    pub(crate) fn silence_open_connections(&self) {
        for silenced in &self.shared.connections().silenced {
            silenced.send_replace(true);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, client: TcpStream, server: String) {
        let mut connections = self.connections();
        let silenced = watch::Sender::new(false);
        let connection = Connection {
            mode: self.mode.subscribe(),
            silenced: silenced.subscribe(),
            committing: watch::Sender::new(false),
        };
        connections.silenced.push(silenced);
        connections.tasks.spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = connection.requests(from_client, to_server) => {}
                () = connection.responses(from_server, to_client) => {}
            }
        });
    }
}

struct Connection {
    mode: watch::Receiver<Mode>,
    silenced: watch::Receiver<bool>,
    committing: watch::Sender<bool>,
}

impl Connection {
    async fn requests(&self, mut client: OwnedReadHalf, mut server: OwnedWriteHalf) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = client.read(&mut buffer).await {
            let request = &buffer[..length];
            self.pass().await;
            // PostgreSQL's messages end with a null byte here, MariaDB's with the statement.
            if request.windows(7).any(|it| it == b"COMMIT\0") || request.ends_with(b"COMMIT") {
                if *self.mode.borrow() == Mode::CutBeforeCommit {
                    return;
                }
                self.committing.send_replace(true);
            }
            if server.write_all(request).await.is_err() {
                return;
            }
        }
    }

    async fn responses(&self, mut server: OwnedReadHalf, mut client: OwnedWriteHalf) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = server.read(&mut buffer).await {
            self.pass().await;
            let mode = *self.mode.borrow();
            if self.committing.send_replace(false) {
                match mode {
                    Mode::CutAfterCommit => return,
                    Mode::SilentAfterCommit => std::future::pending().await,
                    _ => {}
                }
            }
            if client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    }

    /// Waits for ever while the connection is silent.
    async fn pass(&self) {
        let is_loud = |mode: &Mode| *mode != Mode::Silent;
        let _ = self.mode.clone().wait_for(is_loud).await;
        let _ = self.silenced.clone().wait_for(|silenced| !silenced).await;
    }
}
