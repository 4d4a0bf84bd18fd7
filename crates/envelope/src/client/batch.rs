//! Many messages in one call.

use std::ops::Range;

use futures_util::stream::{self, StreamExt as _};
use zeroize::Zeroize as _;

use super::{Decrypted, Envelope, yielding::pause};
use crate::{context::EncryptionContext, error::Error};

/// The fixed cost of a message, in bytes: deriving its keys takes as long as encrypting this many
/// bytes.
const MESSAGE: usize = 12 * 1024;
/// The maximum number of messages that wait for a data key at once. The cache has its own limit.
const AT_ONCE: usize = 64;

impl Envelope {
    /// Encrypts each of `plaintexts`, bound to `context`, and returns the messages in order, or the
    /// first error.
    ///
    /// Yields to other tasks in between, and uses the client's threads if it has several
    /// (`EnvelopeBuilder::threads`).
    ///
    /// ```
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// # let envelope = Envelope::new(keyring)?;
    /// let context = EncryptionContext::new([("table", "cards")])?;
    /// let cards = ["4111 1111 1111 1111", "4242 4242 4242 4242"];
    /// let messages = envelope.encrypt_batch(&cards, &context).await?;
    /// let outcomes = envelope.decrypt_batch(&messages, &context).await;
    /// for (card, decrypted) in cards.iter().zip(outcomes) {
    ///     assert_eq!(decrypted?.plaintext(), card.as_bytes());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`encrypt`](Self::encrypt).
    pub async fn encrypt_batch<P: AsRef<[u8]> + Sync>(
        &self,
        plaintexts: &[P],
        context: &EncryptionContext,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let mut messages = Vec::with_capacity(plaintexts.len());
        for group in groups(plaintexts, self.workers.slice()) {
            let group = &plaintexts[group];
            if let [plaintext] = group {
                messages.push(self.encrypt(plaintext.as_ref(), context).await?);
                pause().await;
                continue;
            }
            let sealed =
                self.workers.map(group, |plaintext| self.try_encrypt(plaintext.as_ref(), context));
            for (plaintext, message) in group.iter().zip(sealed) {
                messages.push(match message {
                    Err(Error::NotCached) => self.encrypt(plaintext.as_ref(), context).await?,
                    message => message?,
                });
            }
            pause().await;
        }
        Ok(messages)
    }

    /// Decrypts each of `messages`, like [`decrypt`](Self::decrypt), and returns one result per
    /// message, in order.
    ///
    /// Missing data keys are fetched at the same time: at most 64, and at most the cache's
    /// [`max_loads`]. Data keys of messages over 256 KiB are fetched one after the other. Yields to
    /// other tasks in between, and uses the client's threads if it has several.
    ///
    /// [`max_loads`]: crate::materials::MaterialsCacheBuilder::max_loads
    pub async fn decrypt_batch<M: AsRef<[u8]> + Sync>(
        &self,
        messages: &[M],
        context: &EncryptionContext,
    ) -> Vec<Result<Decrypted, Error>> {
        let mut batch = DecryptedBatch(Vec::with_capacity(messages.len()));
        for group in groups(messages, self.workers.slice()) {
            match &messages[group] {
                // A single message may be long, and `decrypt` yields while it decrypts it. In a
                // group, many long messages would run without a yield.
                [message] => batch.0.push(self.decrypt(message.as_ref(), context).await),
                group => {
                    batch.0.extend(
                        self.workers
                            .map(group, |message| self.try_decrypt(message.as_ref(), context)),
                    );
                }
            }
            pause().await;
        }
        let missing: Vec<usize> = (0..messages.len())
            .filter(|at| matches!(batch.0[*at], Err(Error::NotCached)))
            .collect();
        let decrypt =
            |at: usize| async move { (at, self.decrypt(messages[at].as_ref(), context).await) };
        let mut fetched = stream::iter(missing.into_iter().map(decrypt)).buffer_unordered(AT_ONCE);
        while let Some((at, decrypted)) = fetched.next().await {
            batch.0[at] = decrypted;
            pause().await;
        }
        std::mem::take(&mut batch.0)
    }
}

/// Decrypted messages. Their plaintexts are wiped on drop, for example if the call is cancelled.
pub(super) struct DecryptedBatch(pub(super) Vec<Result<Decrypted, Error>>);

impl Drop for DecryptedBatch {
    fn drop(&mut self) {
        self.0.iter_mut().flatten().for_each(|decrypted| decrypted.plaintext.zeroize());
    }
}

/// Splits the work into groups that run without yielding: several messages of `slice` bytes in all,
/// or one message.
fn groups<T: AsRef<[u8]>>(messages: &[T], slice: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let costs =
            messages[start..].iter().map(|message| message.as_ref().len().saturating_add(MESSAGE));
        let sums = costs.scan(0usize, |sum, cost| {
            *sum = sum.saturating_add(cost);
            Some(*sum)
        });
        let fitting = sums.take_while(|sum| *sum <= slice).count();
        let group = start..(start + fitting.max(1)).min(messages.len());
        start = group.end;
        (!group.is_empty()).then_some(group)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn groups_cover_everything_once_and_stay_within_the_slice(
            lengths in prop::collection::vec(0usize..60_000, 0..50),
        ) {
            let messages: Vec<_> = lengths.iter().map(|length| vec![0; *length]).collect();
            let groups: Vec<_> = groups(&messages, 65_536).collect();
            prop_assert!(groups.iter().cloned().flatten().eq(0..messages.len()));
            for group in groups {
                let lengths = &lengths[group.clone()];
                let cost: usize = lengths.iter().map(|length| length + MESSAGE).sum();
                prop_assert!(group.len() == 1 || cost <= 65_536);
            }
        }
    }
}
