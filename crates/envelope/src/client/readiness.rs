//! Warming, and whether that has worked.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt, stream};

use super::Envelope;
use crate::{context::EncryptionContext, error::Error, materials::EncryptionMaterialsRequest};

/// How many contexts are asked for at once; how many requests that makes is up to the cache.
const AT_ONCE: usize = 256;

/// The contexts that are to be ready, as last told.
#[derive(Clone, Default)]
pub(super) struct Warmed(Arc<Mutex<Vec<EncryptionContext>>>);

/// How many there are.
impl fmt::Debug for Warmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Warmed").field(&self.all().len()).finish()
    }
}

impl Warmed {
    fn set(&self, contexts: Vec<EncryptionContext>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = contexts;
    }

    fn all(&self) -> Vec<EncryptionContext> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Envelope {
    /// Fetches a data key for each of these contexts that has none, so that no caller waits for it
    /// later.
    ///
    /// Returns one result per context, in order. At most
    /// [`max_loads`](crate::materials::MaterialsCacheBuilder::max_loads) requests run at once, and
    /// one failure does not stop the others: 10,000 contexts, 16 at once, 20 ms each, take 12
    /// seconds. At most as many contexts as the cache's capacity stay cached.
    /// [`ready`](Self::ready) checks these contexts from now on.
    ///
    /// This warms encryption. The first decryption of messages of other processes, or of older
    /// messages, still waits. With
    /// [`prime_decrypt`](crate::materials::CachingBuilder::prime_decrypt), messages that are
    /// encrypted from now on decrypt at once.
    ///
    /// ```
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
    /// let tenants = ["42", "43"].map(|tenant| EncryptionContext::new([("tenant", tenant)]).expect("it is short"));
    /// for (tenant, warmed) in tenants.iter().zip(envelope.warm(&tenants).await) {
    ///     if let Err(error) = warmed {
    ///         eprintln!("{tenant:?}: {error}");
    ///     }
    /// }
    /// assert!(envelope.ready().await.is_ok());
    /// envelope.try_encrypt(b"at once", &tenants[0])?;
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

    /// Checks that each context of the last [`warm`](Self::warm) has a usable data key, for a
    /// health check.
    ///
    /// Fetches missing data keys. A remembered failure is not requested again, so this may be
    /// called often. `Ok` if nothing was warmed.
    ///
    /// An unused data key expires, and this then fetches it again: called every few seconds, it
    /// costs one request per idle context and `max_age`. It counts neither hits nor misses.
    ///
    /// For readiness, not for liveness: when KMS is out of reach, all processes say so together. A
    /// data key that is served past its age, in an outage that is bridged, counts as usable, and
    /// one whose wrapping key was disabled until KMS is asked again. It waits as long as KMS does,
    /// up to the pool's `operation_timeout`: set that below the probe's.
    ///
    /// # Errors
    ///
    /// [`Error::NotReady`], with how many have none, and the first one's reason.
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
        // By number: what takes a context by reference would keep this future from being known to
        // be `Send`.
        let warming = (0..contexts.len()).map(|number| async move {
            let context = &contexts[number];
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
