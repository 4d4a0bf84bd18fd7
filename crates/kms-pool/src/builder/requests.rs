//! Settings of requests: timeouts, attempts, budgets and circuits.

use std::time::Duration;

use super::KmsPoolBuilder;

/// Settings of requests.
impl KmsPoolBuilder {
    /// Sets the timeout for one attempt, including connecting. Default: 3 s. Range: 1 ms to 5 min.
    ///
    /// It begins when the budget admits the request. If a reused connection was dead, the second
    /// try over a new connection may take as long again: see
    /// [`connection_idle_timeout`](Self::connection_idle_timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.attempt_timeout(Duration::from_secs(1));
    /// ```
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets the timeout for an operation, including all attempts and the pauses between them.
    /// Default: 10 s. Range: 1 ms to 5 min.
    ///
    /// The timeout that expires first applies.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.operation_timeout(Duration::from_secs(5));
    /// ```
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// Sets the maximum number of attempts per operation, including the first one. Default: 3.
    /// Range: 1 to 10.
    ///
    /// The SDK makes the attempts, in its standard retry mode. Each principal has a retry quota per
    /// region, which stops its retries when KMS is down.
    ///
    /// If KMS rejects the credentials, the request is signed again after a refresh, as one of these
    /// attempts. The same happens after a correction of the clock. If the maximum is 1, up to two
    /// more attempts are allowed for these two reasons. A retry because of a connection that died
    /// while it was [idle](Self::connection_idle_timeout) does not count.
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_attempts(1);
    /// ```
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the maximum number of requests in flight per account and region. Default: 256. Range: 1
    /// to 100,000.
    ///
    /// Each attempt counts as a request. Further requests wait in a queue. A request that waits too
    /// long to finish within its operation timeout fails with
    /// [`OverBudget`](crate::KmsErrorKind::OverBudget). Each region has a separate limit, so a slow
    /// region does not delay another.
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_in_flight(64);
    /// ```
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.budget.max_in_flight = requests;
        self
    }

    /// Sets the maximum number of requests per second of one account to one region. Default:
    /// learned. Range: 1 to 1,000,000.
    ///
    /// Without this setting, the rate is unlimited until KMS throttles. It then drops to 90 % of
    /// the requests that KMS accepted in the last second, and grows until KMS throttles again: by
    /// 1 % in the first second, and by twice as much as before in each further second.
    ///
    /// A request that cannot start in time fails at once with
    /// [`OverBudget`](crate::KmsErrorKind::OverBudget), and
    /// [`retry_after`](crate::KmsError::retry_after) says when to try again. A request must start
    /// early enough for a full attempt to fit into the operation timeout, or within half of the
    /// operation timeout if that is later. With the default timeouts, it must start within 7 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_requests_per_second(5_000.0);
    /// ```
    pub fn max_requests_per_second(mut self, requests: f64) -> Self {
        self.budget.max_per_second = Some(requests);
        self
    }

    /// Sets the maximum share of the budget for `Decrypt` and `ReEncrypt`. Default: 1. Range: 0.01
    /// to 1.
    ///
    /// With 0.7, a share of 0.3 is reserved for encryption, however many messages are decrypted.
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.decrypt_share(0.7);
    /// ```
    pub fn decrypt_share(mut self, share: f64) -> Self {
        self.budget.decrypt_share = share;
        self
    }

    /// Sets the maximum share of the budget for all other operations. Default: 1. Range: 0.01 to 1.
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.encrypt_share(0.7);
    /// ```
    pub fn encrypt_share(mut self, share: f64) -> Self {
        self.budget.encrypt_share = share;
        self
    }

    /// Sets how many consecutive failures open the circuit of a client. Default: 10. Range: 0
    /// (never) to 1,000,000.
    ///
    /// Failures are timeouts, broken connections and internal errors of KMS. While the circuit is
    /// open, requests fail at once with [`Unavailable`](crate::KmsErrorKind::Unavailable). After
    /// 500 ms one request is sent as a probe. Each probe that fails doubles the time until the next
    /// one, up to 10 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.circuit_opens_after(5);
    /// ```
    pub fn circuit_opens_after(mut self, failures: u32) -> Self {
        self.circuit.failures = failures;
        self
    }
}
