//! Ours, in the forms of one call.

use std::{error, time::Duration};

use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope, Error, PreparedContext,
    keyring::RawAesKeyring,
    materials::{CachingMaterialsManager, DefaultMaterialsManager},
};
use tokio::runtime::{self, Runtime};

use super::{CONTEXT, Contender, FRAME_LENGTH, NAME, NAMESPACE, WRAPPING_KEY, version_of};

/// Longer than a run.
const MAX_AGE: Duration = Duration::from_hours(1);

/// With a warm cache.
pub(super) struct Plain {
    envelope: Envelope,
    context: EncryptionContext,
}

impl Plain {
    pub(super) fn new(suite: u16) -> Result<Self, Box<dyn error::Error>> {
        let suite = AlgorithmSuite::from_id(suite).ok_or("a suite")?;
        // As long as the other clients' caches are told to: nothing renews a data key here while it
        // is waited for.
        let manager = CachingMaterialsManager::builder(source()?).max_age(MAX_AGE).build()?;
        let envelope =
            Envelope::builder(manager).suite(suite).frame_length(FRAME_LENGTH).build()?;
        let context = EncryptionContext::new(CONTEXT)?;
        warm(&envelope, &context)?;
        Ok(Self { envelope, context })
    }
}

impl Contender for Plain {
    fn version(&self) -> String {
        version()
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        self.envelope.try_encrypt(plaintext, &self.context).expect("the cache is warm")
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        match self.envelope.try_decrypt(message, &self.context) {
            // Another client's message: its data key is not cached yet.
            Err(Error::NotCached) => {
                runtime().block_on(self.envelope.decrypt(message, &self.context))
            }
            decrypted => decrypted,
        }
        .expect("it was sealed under the same key")
        .into_plaintext()
    }
}

/// With a warm cache, through a prepared context.
pub(super) struct Prepared {
    plain: Plain,
    prepared: PreparedContext,
}

impl Prepared {
    pub(super) fn new() -> Result<Self, Box<dyn error::Error>> {
        let plain = Plain::new(0x0478)?;
        let prepared = plain.envelope.prepare(&plain.context)?;
        Ok(Self { plain, prepared })
    }
}

impl Contender for Prepared {
    fn version(&self) -> String {
        version()
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        self.prepared.try_encrypt(plaintext).expect("the cache is warm")
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        self.plain.decrypt(message)
    }
}

/// With a warm cache, through a prepared context, into a buffer that is used again.
pub(super) struct Buffer(Prepared);

impl Buffer {
    pub(super) fn new() -> Result<Self, Box<dyn error::Error>> {
        Ok(Self(Prepared::new()?))
    }
}

impl Contender for Buffer {
    fn version(&self) -> String {
        version()
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut message = vec![];
        self.encrypt_into(plaintext, &mut message);
        message
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        let mut plaintext = vec![];
        self.decrypt_into(message, &mut plaintext);
        plaintext
    }

    fn encrypt_into(&self, plaintext: &[u8], message: &mut Vec<u8>) {
        message.clear();
        self.0.prepared.try_encrypt_into(plaintext, message).expect("the cache is warm");
    }

    fn decrypt_into(&self, message: &[u8], plaintext: &mut Vec<u8>) {
        plaintext.clear();
        let Plain { envelope, context } = &self.0.plain;
        envelope.try_decrypt_into(message, context, plaintext).expect("the cache is warm");
    }
}

/// With a data key of its own for each message.
pub(super) struct Uncached {
    envelope: Envelope,
    context: EncryptionContext,
    runtime: Runtime,
}

impl Uncached {
    pub(super) fn new() -> Result<Self, Error> {
        let envelope = Envelope::builder(source()?).frame_length(FRAME_LENGTH).build()?;
        Ok(Self { envelope, context: EncryptionContext::new(CONTEXT)?, runtime: runtime() })
    }
}

impl Contender for Uncached {
    fn version(&self) -> String {
        version()
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        self.runtime
            .block_on(self.envelope.encrypt(plaintext, &self.context))
            .expect("the key is at hand")
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        let decrypted = self.runtime.block_on(self.envelope.decrypt(message, &self.context));
        decrypted.expect("it was sealed under the same key").into_plaintext()
    }
}

fn version() -> String {
    format!("envelope {}", version_of("envelope"))
}

fn source() -> Result<DefaultMaterialsManager, Error> {
    let key = DataKey::from_vec(WRAPPING_KEY.to_vec());
    Ok(DefaultMaterialsManager::new(RawAesKeyring::new(NAMESPACE, NAME, &key)?))
}

fn warm(envelope: &Envelope, context: &EncryptionContext) -> Result<(), Error> {
    runtime().block_on(async {
        let message = envelope.encrypt(b"", context).await?;
        envelope.decrypt(&message, context).await.map(drop)
    })
}

/// Several threads may wait on it at once.
fn runtime() -> Runtime {
    runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a machine with threads")
}
