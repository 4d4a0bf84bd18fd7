//! Settings of clients and their credentials.

use std::time::Duration;

use super::KmsPoolBuilder;

/// Settings of clients and their credentials.
impl KmsPoolBuilder {
    /// Sets the maximum number of clients in the pool. Default: 1000. Range: 1 to 1,000,000.
    ///
    /// Beyond that the pool evicts the least recently used ones. An evicted client that you hold
    /// still works. The actual limit may be higher by less than eight times the number of CPUs.
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_clients(100);
    /// ```
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients;
        self
    }

    /// Sets how long the pool keeps an unused client. Default: 10 min. Range: 10 ms to 24 h.
    ///
    /// A client may be dropped later, by up to a quarter of this time. When the last client of a
    /// region is dropped, the region's connections close. Idle connections close earlier: see
    /// [`connection_idle_timeout`](Self::connection_idle_timeout).
    ///
    /// # Examples
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

    /// Sets how long before their expiry credentials are refreshed. Default: 5 min. Range: 0 to
    /// 1 h.
    ///
    /// Credentials whose lifetime is shorter than twice this time are refreshed halfway through it.
    ///
    /// # Examples
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

    /// Sets the maximum random time by which a refresh starts before
    /// [`refresh_lead`](Self::refresh_lead). Default: 1 min. Range: 0 to 1 h.
    ///
    /// The time is drawn for each credential generation, so that the processes of a fleet do not
    /// refresh at the same time.
    ///
    /// # Examples
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

    /// Sets the timeout for a call of a credentials provider. Default: 5 s. Range: 1 ms to 5 min.
    ///
    /// Requests wait for a provider only if there are no valid credentials.
    ///
    /// # Examples
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

    /// Sets how often a principal's files are checked for changes. Default: 5 s. Range: 10 ms to
    /// 1 h.
    ///
    /// See [`Principal::with_files`](crate::Principal::with_files).
    ///
    /// # Examples
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
