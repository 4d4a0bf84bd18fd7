//! The load, and its checks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, StatusCode};
use examples::Report;
use tokio::time::{Instant, interval};

use super::instance::Connection;
use super::{EARLY, LATE, ROTATED, SHREDDED};

/// The longest time for the request that finds a tenant deleted, on a busy machine.
const REQUEST: Duration = Duration::from_secs(2);
/// One in this many payments of a tenant is an old one, of before the last rotations.
const OLD_ONE_IN: u64 = 8;
/// How many old payments a worker keeps for each tenant.
const MAX_OLD: usize = 16;
/// How often the deletion is requested until it succeeds.
const MAX_ATTEMPTS: usize = 5;
/// How many failures are shown.
const SHOWN: usize = 10;

/// What the workers share. Instances have the numbers 0 and 1.
pub(crate) struct Load {
    addresses: [SocketAddr; 2],
    pub(crate) stop: AtomicBool,
    pub(crate) payments: AtomicU64,
    pub(crate) old: AtomicU64,
    pub(crate) rotations: AtomicU64,
    /// Rotations whose outcome the instance did not learn in time.
    pub(crate) unconfirmed: AtomicU64,
    failures: Mutex<Vec<String>>,
    /// When the deletion was requested.
    shredding: OnceLock<Instant>,
    /// When it was confirmed.
    shredded: OnceLock<Instant>,
    /// How long after that each instance still accepted requests for the tenant.
    accepted_for: [Mutex<Duration>; 2],
    /// How many requests for the tenant each instance refused.
    refused: [AtomicU64; 2],
}

impl Load {
    pub(crate) fn new(addresses: [SocketAddr; 2]) -> Self {
        Self {
            addresses,
            stop: AtomicBool::new(false),
            payments: AtomicU64::new(0),
            old: AtomicU64::new(0),
            rotations: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            failures: Mutex::default(),
            shredding: OnceLock::new(),
            shredded: OnceLock::new(),
            accepted_for: Default::default(),
            refused: Default::default(),
        }
    }

    /// Opens a connection to each instance.
    pub(crate) async fn connect(&self) -> Result<[Connection; 2], Report> {
        let [first, second] = self.addresses;
        Ok([Connection::open(first).await?, Connection::open(second).await?])
    }

    /// Encrypts payments at one instance and decrypts them at the other, or the same one.
    pub(crate) async fn pay(&self, mut random: fastrand::Rng) -> Result<(), Report> {
        let mut connections = self.connect().await?;
        let mut kept: HashMap<&str, Vec<(String, Bytes)>> = HashMap::new();
        for number in 0.. {
            if self.stop.load(Relaxed) {
                break;
            }
            let tenant = EARLY[random.usize(..EARLY.len())];
            let tenant = if number % 16 == 0 { LATE } else { tenant };
            let old = kept.entry(tenant).or_default();
            let (payment, message) = if !old.is_empty() && random.u64(..OLD_ONE_IN) == 0 {
                self.old.fetch_add(1, Relaxed);
                old[random.usize(..old.len())].clone()
            } else {
                let payment = format!("{{\"cents\": {number}, \"worker\": {}}}", random.u64(..));
                let path = format!("/tenants/{tenant}/payments");
                let at = random.usize(..2);
                let body = payment.clone();
                let Some(message) = self.send(&mut connections, at, tenant, &path, body).await?
                else {
                    continue;
                };
                // The oldest stay: any number of versions is in use until the end.
                if old.len() < MAX_OLD && random.u64(..64) == 0 {
                    old.push((payment.clone(), message.clone()));
                }
                (payment, message)
            };
            let path = format!("/tenants/{tenant}/payments/decrypt");
            let at = random.usize(..2);
            match self.send(&mut connections, at, tenant, &path, message).await? {
                Some(decrypted) if decrypted == payment => {
                    self.payments.fetch_add(1, Relaxed);
                }
                Some(_) => self.check(false, || "decrypted to another payment"),
                None => {}
            }
        }
        Ok(())
    }

    /// Sends a request of a tenant, and returns the body if it succeeded. Only the deleted tenant
    /// may be refused.
    async fn send(
        &self,
        connections: &mut [Connection; 2],
        at: usize,
        tenant: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Option<Bytes>, Report> {
        let began = Instant::now();
        let (status, body) = connections[at].send(Method::POST, path, body).await?;
        let is_gone = tenant == SHREDDED && self.shredding.get().is_some();
        match status {
            StatusCode::OK => {
                if let Some(shredded) = self.shredded.get().filter(|_| tenant == SHREDDED) {
                    let after = began.saturating_duration_since(*shredded);
                    let mut accepted =
                        self.accepted_for[at].lock().unwrap_or_else(PoisonError::into_inner);
                    *accepted = accepted.max(after);
                }
                return Ok(Some(body));
            }
            StatusCode::GONE if is_gone => {
                self.refused[at].fetch_add(1, Relaxed);
            }
            _ => self
                .check(false, || format!("{path}: {status}: {}", String::from_utf8_lossy(&body))),
        }
        Ok(None)
    }

    /// Rotates one tenant every second, at one instance and then at the other. Deletes another
    /// tenant after half of the time.
    pub(crate) async fn rotate_and_shred(
        &self,
        connections: &mut [Connection; 2],
        seconds: u32,
    ) -> Result<(), Report> {
        let mut every_second = interval(Duration::from_secs(1));
        every_second.tick().await;
        for second in 1..=seconds {
            every_second.tick().await;
            let [first, other] = &mut *connections;
            let connection = if second % 2 == 0 { &mut *first } else { other };
            let path = format!("/tenants/{ROTATED}/rotate");
            match connection.send(Method::POST, &path, "").await? {
                (StatusCode::OK, _) => self.rotations.fetch_add(1, Relaxed),
                // On a busy disk, a commit may take longer than the time limit of the storage.
                (StatusCode::SERVICE_UNAVAILABLE, _) => self.unconfirmed.fetch_add(1, Relaxed),
                (status, body) => {
                    let body = String::from_utf8_lossy(&body);
                    return Err(format!("{path}: {status}: {body}").into());
                }
            };
            if second == seconds / 2 {
                let _ = self.shredding.set(Instant::now());
                let path = format!("/tenants/{SHREDDED}");
                // If its outcome is unknown, it is repeated, as `KeyStore::shred` documents.
                for _ in 0..MAX_ATTEMPTS {
                    if first.send(Method::DELETE, &path, "").await?.0.is_success() {
                        break;
                    }
                }
                let _ = self.shredded.set(Instant::now());
            }
        }
        Ok(())
    }

    /// Records a failure unless `is_right`.
    pub(crate) fn check<M: Into<String>>(&self, is_right: bool, problem: impl FnOnce() -> M) {
        if !is_right {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.push(problem().into());
        }
    }

    /// Prints the outcome. `bounds` are the times after which each instance refuses the tenant, if
    /// the request that finds it deleted takes no time.
    pub(crate) fn verdict(&self, bounds: [Duration; 2]) -> Result<(), Report> {
        if let Some((began, ended)) = self.shredding.get().zip(self.shredded.get()) {
            println!("  deletion took {:.2} s", (*ended - *began).as_secs_f64());
        }
        for (at, bound) in bounds.into_iter().enumerate() {
            let accepted = *self.accepted_for[at].lock().unwrap_or_else(PoisonError::into_inner);
            let refused = self.refused[at].load(Relaxed);
            println!(
                "  deleted tenant at instance {}: accepted for {:.2} s (bound: {} s and one \
                 request), then refused {refused} times",
                at + 1,
                accepted.as_secs_f64(),
                bound.as_secs()
            );
            // The instance that deletes it drops its branch key before it responds.
            let allowed = if bound.is_zero() { bound } else { bound + REQUEST };
            self.check(accepted <= allowed, || "accepted a deleted tenant for too long");
            self.check(refused > 0, || "sent no request for the deleted tenant");
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        println!("  failures: {}", failures.len());
        for failure in failures.iter().take(SHOWN) {
            println!("    {failure}");
        }
        if failures.is_empty() { Ok(()) } else { Err("some payments failed".into()) }
    }
}
