//! Settings of clients and their credentials.

use std::time::Duration;

use super::KmsPoolBuilder;

/// Settings of clients and their credentials.
impl KmsPoolBuilder {
    /// How many clients the pool keeps. Beyond that it evicts the least recently used ones; callers
    /// that hold an evicted client can still use it. Default 1000; 1 to 1,000,000. The actual limit
    /// may be higher by less than 8 × the number of CPUs.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_clients(100);
    /// ```
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients;
        self
    }

    /// How long the pool keeps an unused client. Default 10 min; 10 ms to 24 h. Eviction can be
    /// late by up to a quarter of this time. The last client of a region takes the region's
    /// connections with it.
    ///
    /// Individual idle connections close earlier: see
    /// [`connection_idle_timeout`](Self::connection_idle_timeout).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.idle_timeout(Duration::from_mins(2));
    /// ```
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How long before their expiry credentials are refreshed. Default 5 min; 0 to 1 h. Credentials
    /// that live less than twice as long are refreshed halfway through their lifetime.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.refresh_lead(Duration::from_mins(10));
    /// ```
    pub fn refresh_lead(mut self, lead: Duration) -> Self {
        self.refresh.lead = lead;
        self
    }

    /// The maximum random time by which a refresh starts before
    /// [`refresh_lead`](Self::refresh_lead), so that a fleet that started together does not refresh
    /// together. Drawn for each credential generation. Default 1 min; 0 to 1 h.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.refresh_jitter(Duration::ZERO);
    /// ```
    pub fn refresh_jitter(mut self, jitter: Duration) -> Self {
        self.refresh.jitter = jitter;
        self
    }

    /// How long a call of a principal's credentials provider may take. Default 5 s; 1 ms to 5 min.
    /// Requests wait for the provider only if there are no valid credentials.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.provider_timeout(Duration::from_secs(2));
    /// ```
    pub fn provider_timeout(mut self, timeout: Duration) -> Self {
        self.refresh.provider_timeout = timeout;
        self
    }

    /// How often the files of a principal are checked for changes: see
    /// [`Principal::with_files`](crate::Principal::with_files). Default 5 s; 10 ms to 1 h.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.watch_files_every(Duration::from_secs(1));
    /// ```
    pub fn watch_files_every(mut self, pause: Duration) -> Self {
        self.refresh.files_every = pause;
        self
    }
}
