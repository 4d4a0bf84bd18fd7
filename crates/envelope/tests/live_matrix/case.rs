//! The cases of the matrix, the clients that write and read them, and their messages.

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read, Write},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use envelope::{AlgorithmSuite, CommitmentPolicy, EncryptionContext, Envelope, Error};
use serde_json::{Value, json};

use crate::{Client, PIECE, UNFRAMED, keys::Keys, peers::Answer};

/// A client, and how it reads or writes.
#[derive(Clone, Copy)]
pub(crate) struct Hand {
    pub(crate) client: Client,
    pub(crate) streaming: bool,
}

impl fmt::Display for Hand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}{}", self.client, if self.streaming { ", streaming" } else { "" })
    }
}

/// The plaintext and the options of an encryption.
#[derive(Clone)]
pub(crate) struct Case<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) suite: AlgorithmSuite,
    pub(crate) frame_length: u32,
    pub(crate) length: usize,
    pub(crate) context: &'a EncryptionContext,
}

impl Case<'_> {
    pub(crate) fn plaintext(&self) -> Vec<u8> {
        (0..self.length).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    pub(crate) fn envelope(&self) -> Envelope {
        let policy = if self.suite.commits_to_key() {
            CommitmentPolicy::RequireEncryptRequireDecrypt
        } else {
            CommitmentPolicy::ForbidEncryptAllowDecrypt
        };
        let builder = Envelope::builder(self.keys.ours.clone());
        let builder = builder.commitment_policy(policy).suite(self.suite).legacy_suites(true);
        let builder = match self.frame_length {
            UNFRAMED => builder.framed(false),
            length => builder.frame_length(length),
        };
        builder.build().unwrap()
    }

    pub(crate) fn request(&self, operation: &str, data: &[u8], streaming: bool) -> Value {
        let context: BTreeMap<_, _> = self.context.iter().collect();
        json!({
            "operation": operation, "keyring": self.keys.theirs, "suite": self.suite.id(),
            "context": context, "frame_length": self.frame_length,
            "data": BASE64_STANDARD.encode(data), "streaming": streaming,
        })
    }

    pub(crate) async fn seal(&self, streaming: bool) -> Result<Vec<u8>, Error> {
        let (envelope, plaintext) = (self.envelope(), self.plaintext());
        if !streaming {
            return envelope.encrypt(&plaintext, self.context).await;
        }
        let mut writer =
            envelope.encryptor(self.context, Some(plaintext.len() as u64)).await?.writer(vec![]);
        plaintext.chunks(PIECE).for_each(|piece| writer.write_all(piece).unwrap());
        Ok(writer.finish().unwrap())
    }

    pub(crate) async fn open(&self, message: &[u8], streaming: bool) -> Answer {
        let envelope = self.envelope();
        let pairs = |context: &EncryptionContext| {
            context.iter().map(|(key, value)| (key.into(), value.into())).collect()
        };
        if !streaming {
            let opened =
                envelope.decrypt(message, self.context).await.map_err(|error| error.to_string())?;
            let context = pairs(opened.encryption_context());
            return Ok((opened.into_plaintext(), context));
        }
        let mut source = message;
        let header = envelope.read_header(&mut source).map_err(|error| error.to_string())?;
        let decryptor = envelope
            .decryptor_before_signature(&header, self.context)
            .await
            .map_err(|error| error.to_string())?;
        let context = pairs(decryptor.encryption_context());
        let mut plaintext = vec![];
        decryptor.reader(source).read_to_end(&mut plaintext).map_err(|error| error.to_string())?;
        Ok((plaintext, context))
    }
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, suite, frame_length, length, context } = self;
        write!(
            formatter,
            "{}, {suite}, frames of {frame_length}, {length} bytes, {context:?}",
            keys.name
        )
    }
}

/// What a writer made of a case.
pub(crate) struct Message<'a> {
    pub(crate) case: &'a Case<'a>,
    pub(crate) writer: Hand,
    pub(crate) bytes: Vec<u8>,
    /// A byte was changed, so nobody may open it.
    pub(crate) is_changed: bool,
}

impl Message<'_> {
    /// The same with another byte: the last one, or one in the middle.
    pub(crate) fn changed(&self) -> Self {
        let mut bytes = self.bytes.clone();
        let at = if self.writer.streaming { bytes.len() / 2 } else { bytes.len() - 1 };
        bytes[at] ^= 1;
        Self { bytes, is_changed: true, ..*self }
    }
}
