//! A credential generation: one set of credentials, and when to replace it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use tokio::time::Instant;

use super::fingerprint::Fingerprint;
use crate::time::Now;

/// A credential generation, which is never changed, only replaced.
pub(crate) struct Generation {
    /// Counts the generations of a session, from 1.
    pub(crate) number: u64,
    /// The rotation of the principal that it belongs to.
    pub(crate) rotation: u64,
    pub(crate) credentials: Credentials,
    pub(crate) since: Instant,
    fingerprint: Fingerprint,
    refresh_at: Option<SystemTime>,
    /// Whether KMS has rejected these credentials.
    rejected: AtomicBool,
}

impl Generation {
    /// A generation that is to be replaced `lead` before its credentials expire.
    pub(crate) fn new(
        number: u64,
        rotation: u64,
        credentials: Credentials,
        lead: Duration,
        now: Now,
    ) -> Self {
        let refresh_at = credentials.expiry().map(|expiry| refresh_time(expiry, lead, now.date));
        let fingerprint = Fingerprint::of(&credentials);
        Self {
            number,
            rotation,
            credentials,
            since: now.instant,
            fingerprint,
            refresh_at,
            rejected: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_of(&self, fingerprint: Fingerprint) -> bool {
        self.fingerprint == fingerprint
    }

    /// Whether these are the same credentials with the same expiry.
    pub(crate) fn is_of_credentials(&self, credentials: &Credentials) -> bool {
        self.credentials.expiry() == credentials.expiry()
            && self.is_of(Fingerprint::of(credentials))
    }

    /// When the next generation is due; `None` for credentials that do not expire.
    pub(crate) fn refresh_at(&self) -> Option<SystemTime> {
        self.refresh_at
    }

    /// Whether requests can be signed with it without a refresh.
    pub(crate) fn is_fresh(&self, now: SystemTime) -> bool {
        !self.is_due(now) && !self.is_rejected()
    }

    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        self.refresh_at.is_some_and(|at| at <= now)
    }

    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.credentials.expiry().is_some_and(|at| at <= now)
    }

    pub(crate) fn reject(&self) {
        self.rejected.store(true, Relaxed);
    }

    pub(crate) fn accept(&self) {
        // Usually false already: skip the write, which would slow down other threads.
        if self.is_rejected() {
            self.rejected.store(false, Relaxed);
        }
    }

    pub(crate) fn is_rejected(&self) -> bool {
        self.rejected.load(Relaxed)
    }
}

/// `lead` before the expiry, but at the earliest after half of the remaining lifetime.
fn refresh_time(expiry: SystemTime, lead: Duration, now: SystemTime) -> SystemTime {
    let half = expiry.duration_since(now).unwrap_or_default() / 2;
    expiry.checked_sub(lead.min(half)).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_due_a_lead_before_their_expiry_or_halfway() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let lead = Duration::from_mins(1);
        assert_eq!(refresh_time(at(3600), lead, at(0)), at(3540));
        assert_eq!(refresh_time(at(100), lead, at(0)), at(50));
        assert_eq!(refresh_time(at(100), lead, at(100)), at(100));
        assert_eq!(refresh_time(at(100), lead, at(200)), at(100));
    }
}
