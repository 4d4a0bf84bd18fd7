//! The client for programs without async.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use super::{Decrypted, Envelope};
use crate::{
    background::waiting,
    context::EncryptionContext,
    error::Error,
    stream::{Decryptor, Encryptor, UnverifiedHeader},
};

/// An [`Envelope`] whose methods block the calling thread. Created by [`Envelope::blocking`].
///
/// Cloning is cheap. Each method does the same as the method of [`Envelope`] with the same name,
/// and returns the same errors. The `try_` methods and [`read_header`](Envelope::read_header) never
/// wait for a data key: use them on the [async client](Self::envelope).
///
/// Data keys are loaded on threads of the cache, so no runtime is needed. (Without the feature
/// `tokio`, and without a cache, the keyring runs on the calling thread: it must not need a
/// runtime.)
///
/// # In async code
///
/// These methods also work inside async code, but they block the executor's thread: use the async
/// methods there. On a thread of its own cache, for example in a keyring, a method that needs to
/// load a data key fails with [`Error::WaitsForItself`].
#[derive(Debug, Clone)]
pub struct BlockingEnvelope {
    envelope: Envelope,
}

impl Envelope {
    /// Returns this client for programs without async.
    ///
    /// ```
    /// use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    ///
    /// let wrapping_key = DataKey::generate(32)?;
    /// let keyring = RawAesKeyring::new("example", "key", &wrapping_key)?;
    /// let envelope = Envelope::new(keyring)?.blocking();
    ///
    /// let context = EncryptionContext::new([("tenant", "42")])?;
    /// let message = envelope.encrypt(b"4111 1111 1111 1111", &context)?;
    /// let decrypted = envelope.decrypt(&message, &context)?;
    /// assert_eq!(decrypted.plaintext(), b"4111 1111 1111 1111");
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn blocking(&self) -> BlockingEnvelope {
        BlockingEnvelope { envelope: self.clone() }
    }
}

impl BlockingEnvelope {
    /// Encrypts `plaintext`, like [`Envelope::encrypt`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::encrypt`].
    pub fn encrypt(&self, plaintext: &[u8], context: &EncryptionContext) -> Result<Vec<u8>, Error> {
        match self.envelope.try_encrypt(plaintext, context) {
            Err(Error::NotCached) => block_on(self.envelope.encrypt(plaintext, context)),
            done => done,
        }
    }

    /// Encrypts `plaintext` into a buffer, like [`Envelope::encrypt_into`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::encrypt`].
    pub fn encrypt_into(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
        message: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match self.envelope.try_encrypt_into(plaintext, context, message) {
            Err(Error::NotCached) => {
                block_on(self.envelope.encrypt_into(plaintext, context, message))
            }
            done => done,
        }
    }

    /// Encrypts many plaintexts, like [`Envelope::encrypt_batch`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::encrypt`].
    pub fn encrypt_batch<P: AsRef<[u8]> + Sync>(
        &self,
        plaintexts: &[P],
        context: &EncryptionContext,
    ) -> Result<Vec<Vec<u8>>, Error> {
        block_on(self.envelope.encrypt_batch(plaintexts, context))
    }

    /// Decrypts one whole message, like [`Envelope::decrypt`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::decrypt`].
    pub fn decrypt(&self, message: &[u8], context: &EncryptionContext) -> Result<Decrypted, Error> {
        match self.envelope.try_decrypt(message, context) {
            Err(Error::NotCached) => block_on(self.envelope.decrypt(message, context)),
            done => done,
        }
    }

    /// Decrypts one whole message into a buffer, like [`Envelope::decrypt_into`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::decrypt`].
    pub fn decrypt_into<'p>(
        &self,
        message: &[u8],
        context: &EncryptionContext,
        plaintext: &'p mut Vec<u8>,
    ) -> Result<Decrypted<&'p mut [u8]>, Error> {
        block_on(self.envelope.decrypt_into(message, context, plaintext))
    }

    /// Decrypts one whole message in place, like [`Envelope::decrypt_in_place`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::decrypt`].
    pub fn decrypt_in_place<'m>(
        &self,
        message: &'m mut [u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted<&'m mut [u8]>, Error> {
        block_on(self.envelope.decrypt_in_place(message, context))
    }

    /// Decrypts many messages, like [`Envelope::decrypt_batch`].
    pub fn decrypt_batch<M: AsRef<[u8]> + Sync>(
        &self,
        messages: &[M],
        context: &EncryptionContext,
    ) -> Vec<Result<Decrypted, Error>> {
        block_on(self.envelope.decrypt_batch(messages, context))
    }

    /// Decrypts a message and encrypts it again, like [`Envelope::reencrypt`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::reencrypt`].
    pub fn reencrypt(&self, message: &[u8], context: &EncryptionContext) -> Result<Vec<u8>, Error> {
        block_on(self.envelope.reencrypt(message, context))
    }

    /// Re-encrypts messages that are not current, like [`Envelope::reencrypt_batch`].
    pub fn reencrypt_batch<M: AsRef<[u8]> + Sync>(
        &self,
        messages: &[M],
        context: &EncryptionContext,
    ) -> Vec<Result<Option<Vec<u8>>, Error>> {
        block_on(self.envelope.reencrypt_batch(messages, context))
    }

    /// Returns whether a message is encrypted as it would be now, like [`Envelope::is_current`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::is_current`].
    pub fn is_current(&self, message: &[u8], context: &EncryptionContext) -> Result<bool, Error> {
        block_on(self.envelope.is_current(message, context))
    }

    /// Starts a message that is encrypted as a stream, like [`Envelope::encryptor`].
    ///
    /// Use it with the standard library's [`Read`](std::io::Read) and [`Write`](std::io::Write);
    /// see [`stream`](crate::stream).
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::encryptor`].
    pub fn encryptor(
        &self,
        context: &EncryptionContext,
        plaintext_bound: Option<u64>,
    ) -> Result<Encryptor, Error> {
        block_on(self.envelope.encryptor(context, plaintext_bound))
    }

    /// Verifies the header of a message that is decrypted as a stream, like
    /// [`Envelope::decryptor`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::decryptor`].
    pub fn decryptor(
        &self,
        header: &UnverifiedHeader,
        context: &EncryptionContext,
    ) -> Result<Decryptor, Error> {
        block_on(self.envelope.decryptor(header, context))
    }

    /// Also decrypts signed messages as a stream, like [`Envelope::decryptor_before_signature`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::decryptor_before_signature`].
    pub fn decryptor_before_signature(
        &self,
        header: &UnverifiedHeader,
        context: &EncryptionContext,
    ) -> Result<Decryptor, Error> {
        block_on(self.envelope.decryptor_before_signature(header, context))
    }

    /// Fetches a data key for each of these contexts, like [`Envelope::warm`].
    pub fn warm<'a>(
        &self,
        contexts: impl IntoIterator<Item = &'a EncryptionContext>,
    ) -> Vec<Result<(), Error>> {
        block_on(self.envelope.warm(contexts))
    }

    /// Checks that each context of the last [`warm`](Self::warm) has a usable data key, like
    /// [`Envelope::ready`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::ready`].
    pub fn ready(&self) -> Result<(), Error> {
        block_on(self.envelope.ready())
    }

    /// The async client, whose `try_` methods never wait.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}

/// Wakes a parked thread.
struct Parked {
    thread: Thread,
    /// Whether it was woken. The thread's own token is not enough: the polled future may have
    /// consumed it, as scoped threads and channels do when they park.
    is_woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Release);
        self.thread.unpark();
    }
}

/// Drives a future on this thread, which is parked in between.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let parked = Arc::new(Parked { thread: thread::current(), is_woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&parked));
    let mut context = Context::from_waker(&waker);
    waiting(|| {
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            while !parked.is_woken.swap(false, Acquire) {
                thread::park();
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::mpsc, time::Duration};

    use super::*;

    /// The polled future may park the thread itself, as scoped threads and channels do, and consume
    /// the token of a wake-up.
    #[test]
    fn a_wake_up_is_not_lost_if_the_future_parks_the_thread() {
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let mut polled = false;
            block_on(poll_fn(|context| {
                if std::mem::replace(&mut polled, true) {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                thread::park();
                Poll::Pending
            }));
            let _ = done.send(());
        });
        assert!(is_done.recv_timeout(Duration::from_secs(10)).is_ok(), "the wake-up was lost");
    }
}
