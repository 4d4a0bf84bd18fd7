//! Many messages at once.

use std::ops::Range;

use futures_util::stream::{self, StreamExt as _};
use zeroize::Zeroize as _;

use super::{Decrypted, Envelope, turns::pause};
use crate::{context::EncryptionContext, error::Error};

/// What a message costs beside its bytes, as bytes: deriving its keys takes as long as encrypting
/// some 12 KiB.
const MESSAGE: usize = 12 * 1024;
/// How many data keys that are not cached are asked for at once; the cache has a bound of its own.
const AT_ONCE: usize = 64;

impl Envelope {
    /// Seals each of `plaintexts`, all bound to one `context`, like [`encrypt`](Self::encrypt):
    /// all, in their order, or the first error. Lets other tasks run in between, and shares the
    /// work among [several threads](super::EnvelopeBuilder) where the client has them.
    ///
    /// ```
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
    /// let context = EncryptionContext::new([("table", "cards")])?;
    /// let messages = envelope.encrypt_batch(&["4111 1111 1111 1111", "4242 4242 4242 4242"], &context).await?;
    /// for opened in envelope.decrypt_batch(&messages, &context).await {
    ///     assert!(opened?.plaintext().starts_with(b"4"));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`encrypt`](Self::encrypt).
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

    /// Opens each of `messages`, like [`decrypt`](Self::decrypt), and tells of each by itself, in
    /// their order. Data keys that are not cached are asked for together, as many as the cache's
    /// [`max_loads`] and 64 allow; those of messages over 256 KiB, one after the other. Lets other
    /// tasks run in between, and shares the work among several threads where the client has them.
    ///
    /// [`max_loads`]: crate::materials::MaterialsCacheBuilder::max_loads
    pub async fn decrypt_batch<M: AsRef<[u8]> + Sync>(
        &self,
        messages: &[M],
        context: &EncryptionContext,
    ) -> Vec<Result<Decrypted, Error>> {
        let mut opened = Opened(Vec::with_capacity(messages.len()));
        for group in groups(messages, self.workers.slice()) {
            match &messages[group] {
                // It may be long, and takes its turns by itself: together, many would take theirs
                // at once.
                [message] => opened.0.push(self.decrypt(message.as_ref(), context).await),
                group => {
                    opened.0.extend(
                        self.workers
                            .map(group, |message| self.try_decrypt(message.as_ref(), context)),
                    );
                }
            }
            pause().await;
        }
        let missing =
            opened.0.iter().zip(0..).filter(|(opened, _)| matches!(opened, Err(Error::NotCached)));
        let missing: Vec<usize> = missing.map(|(_, at)| at).collect();
        let decrypt =
            |at: usize| async move { (at, self.decrypt(messages[at].as_ref(), context).await) };
        let mut fetched = stream::iter(missing.into_iter().map(decrypt)).buffer_unordered(AT_ONCE);
        while let Some((at, decrypted)) = fetched.next().await {
            opened.0[at] = decrypted;
            pause().await;
        }
        std::mem::take(&mut opened.0)
    }
}

/// What was opened so far. Wiped on drop: who gives up gets none of it.
struct Opened(Vec<Result<Decrypted, Error>>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.iter_mut().flatten().for_each(|opened| opened.plaintext.zeroize());
    }
}

/// Splits the work into parts that run without a pause: several messages of `slice` bytes in all,
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
        fn groups_cover_everything_once_and_stay_within_the_slice(lengths in prop::collection::vec(0usize..60_000, 0..50)) {
            let messages: Vec<_> = lengths.iter().map(|length| vec![0; *length]).collect();
            let groups: Vec<_> = groups(&messages, 65_536).collect();
            prop_assert!(groups.iter().cloned().flatten().eq(0..messages.len()));
            for group in groups {
                let cost: usize = lengths[group.clone()].iter().map(|length| length + MESSAGE).sum();
                prop_assert!(group.len() == 1 || cost <= 65_536);
            }
        }
    }
}
