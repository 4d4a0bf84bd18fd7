//! The STS beside a running server.

use super::KmsLocal;
use crate::{
    counters::Counters,
    faults::Faults,
    sts::{RoleSession, Sts},
};

impl KmsLocal {
    /// Returns the URL of the STS, if [`KmsLocalBuilder::sts`](crate::KmsLocalBuilder::sts) started
    /// one.
    pub fn sts_endpoint(&self) -> Option<&str> {
        self.sts.as_ref().map(|started| &*started.endpoint)
    }

    /// Returns the current counters of the STS, for `AssumeRole`, `AssumeRoleWithWebIdentity` and
    /// `GetCallerIdentity`. Outcomes have the names that STS uses, such as `AccessDenied`.
    ///
    /// # Panics
    ///
    /// Panics if there is no STS.
    pub fn sts_counters(&self) -> Counters {
        self.started_sts().service.tally.snapshot()
    }

    /// Returns a handle that controls the faults of the STS. Errors have the names that STS uses.
    ///
    /// # Panics
    ///
    /// Panics if there is no STS.
    pub fn sts_faults(&self) -> Faults {
        self.started_sts().service.faults.clone()
    }

    /// Makes `AssumeRoleWithWebIdentity` accept this token, any number of times. Every other token
    /// fails with `InvalidIdentityToken`.
    ///
    /// # Panics
    ///
    /// Panics if there is no STS.
    pub fn accept_web_identity_token(&self, token: impl Into<String>) {
        self.started_sts().roles.accept_token(token.into());
    }

    /// Returns the latest thousand sessions of roles that the STS created, the oldest first.
    ///
    /// # Panics
    ///
    /// Panics if there is no STS.
    pub fn role_sessions(&self) -> Vec<RoleSession> {
        self.started_sts().roles.sessions()
    }

    fn started_sts(&self) -> &Sts {
        &self.sts.as_ref().expect("an STS was started with `KmsLocalBuilder::sts`").sts
    }
}
