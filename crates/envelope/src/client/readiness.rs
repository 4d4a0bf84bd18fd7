//! Warming up, and a check that it has worked.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::Envelope;
use crate::{context::EncryptionContext, error::Error, materials::EncryptionMaterialsRequest};

/// The maximum number of contexts that are warmed at once. The cache limits the requests.
const AT_ONCE: usize = 256;

impl Envelope {
    /// Fetches a data key for each of these contexts that has none, so that no caller waits for it
    /// later. Returns one result per context, in order.
    ///
    /// At most [`max_loads`](crate::materials::MaterialsCacheBuilder::max_loads) requests run at
    /// once, and one failure does not stop the others. For example, 10,000 contexts at 20 ms each,
    /// 16 at once, take 12 seconds. Pass at most as many contexts as the cache's capacity.
    /// [`ready`](Self::ready) checks these contexts from now on.
    ///
    /// This warms encryption only. The first decryption under a data key of another process, or of
    /// an earlier one, still waits. To decrypt the messages of this process without waiting, use
    /// [`prime_decrypt`](crate::materials::CachingBuilder::prime_decrypt).
    ///
    /// ```
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// # let envelope = Envelope::new(keyring)?;
    /// let context = |id| EncryptionContext::new([("tenant", id)]).expect("short");
    /// let tenants = ["42", "43"].map(context);
    /// for (tenant, warmed) in tenants.iter().zip(envelope.warm(&tenants).await) {
    ///     if let Err(error) = warmed {
    ///         eprintln!("{tenant:?}: {error}");
    ///     }
    /// }
    /// assert!(envelope.ready().await.is_ok());
    /// envelope.try_encrypt(b"without waiting", &tenants[0])?;
    /// # Ok(()) }
    /// ```
    pub async fn warm<'a>(
        &self,
        contexts: impl IntoIterator<Item = &'a EncryptionContext>,
    ) -> Vec<Result<(), Error>> {
        let contexts: Vec<_> = contexts.into_iter().cloned().collect();
        self.warmed.set(contexts.clone());
        self.warm_all(&contexts).await
    }

    /// Checks that each context of the last [`warm`](Self::warm) has a usable data key. Use this as
    /// a readiness probe.
    ///
    /// Fetches missing data keys, but does not repeat a request whose failure is remembered, so you
    /// can call it often. Returns `Ok` if nothing was warmed. It counts neither hits nor misses.
    ///
    /// - Unused data keys expire, and this fetches them again. Called every few seconds, it costs
    ///   one request per `max_age` for each idle context.
    /// - Do not use it as a liveness probe: when KMS is unavailable, all processes fail it at the
    ///   same time.
    /// - A data key that is used past `max_age` by
    ///   [`serve_stale_for`](crate::materials::CachingBuilder::serve_stale_for) counts as usable.
    ///   So does one whose wrapping key was disabled, until KMS is asked again.
    /// - It waits as long as KMS takes, up to the pool's `operation_timeout`: set that below the
    ///   timeout of the probe.
    ///
    /// # Errors
    ///
    /// [`Error::NotReady`] with the number of contexts without a data key, and the first failure.
    pub async fn ready(&self) -> Result<(), Error> {
        let contexts = self.warmed.all();
        let failures: Vec<_> =
            self.warm_all(&contexts).await.into_iter().filter_map(Result::err).collect();
        let missing = failures.len();
        match failures.into_iter().next() {
            None => Ok(()),
            Some(first) => {
                Err(Error::NotReady { missing, warmed: contexts.len(), cause: Arc::new(first) })
            }
        }
    }

    async fn warm_all(&self, contexts: &[EncryptionContext]) -> Vec<Result<(), Error>> {
        // By index: with references to contexts, the compiler cannot show that this future is
        // `Send`.
        let warming = (0..contexts.len()).map(|index| async move {
            let context = &contexts[index];
            let required = self.required_part(context)?;
            let request = self.encryption_request(context, &required, Some(0))?;
            if self.cache().is_none() || self.suite.is_legacy() {
                return Ok(()); // Nothing would be kept.
            }
            let request = EncryptionMaterialsRequest { warm_up: true, ..request };
            self.manager.encryption_materials(request).await.map(drop)
        });
        stream::iter(warming).buffered(AT_ONCE).collect().await
    }
}
