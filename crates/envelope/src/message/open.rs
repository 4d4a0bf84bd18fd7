//! Opening (specification: `client-apis/decrypt.md`).

use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    crypto::{
        aead, kdf,
        signature::{VerificationKey, Verifier},
    },
    error::Error,
    format::{
        body_aad::BodyAad,
        codec::Reader,
        footer,
        frame::{self, UnverifiedFrame},
        header::{ContentType, UnverifiedHeader},
        non_framed::{self, UnverifiedBody},
    },
    materials::DecryptionMaterials,
    message::MessageId,
};

/// Reads the header at the front of `message`; also gives where the body starts.
///
/// # Errors
///
/// What is wrong with the header's form.
pub(crate) fn read_header(
    message: &[u8],
    max_encrypted_data_keys: usize,
) -> Result<(UnverifiedHeader<'_>, usize), Error> {
    let mut reader = Reader::new(message, 0);
    let header = UnverifiedHeader::read(&mut reader, max_encrypted_data_keys)?;
    Ok((header, reader.position()))
}

/// Opens the rest of `message`, which starts at `body`.
///
/// # Errors
///
/// [`Error::Authentication`], or what is wrong with the body's form. No plaintext is returned, and what
/// was decrypted until then is wiped.
pub(crate) fn open_rest(opener: &mut Opener, message: &[u8], body: usize) -> Result<Vec<u8>, Error> {
    let body_length = message.len() - body;
    // Never outgrown: growing would leave a copy behind.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(match opener.content_type {
        ContentType::Framed { frame_length } => frame::plaintext_length(body_length, frame_length),
        ContentType::NonFramed => body_length.saturating_sub(non_framed::OVERHEAD),
    }));
    let mut reader = Reader::new(message, body);
    while !opener.next_piece(&mut reader, &mut plaintext)? {}
    opener.finish(&mut reader)?;
    if reader.position() != message.len() {
        return Err(Error::TrailingBytes { offset: reader.offset() });
    }
    Ok(std::mem::take(&mut *plaintext))
}

/// Opens the body of one message whose header it verified: having one is the proof.
pub(crate) struct Opener {
    materials: Arc<DecryptionMaterials>,
    cipher: aead::Key,
    message_id: MessageId,
    content_type: ContentType,
    /// The sequence number that the next frame must have.
    sequence_number: u32,
    verifier: Option<Verifier>,
}

impl Opener {
    /// Verifies the commitment, then the header's tag over the bytes as they were received.
    pub(crate) fn start(header: &UnverifiedHeader<'_>, materials: Arc<DecryptionMaterials>) -> Result<Self, Error> {
        let keys = kdf::derive(header.suite, materials.data_key().expose_secret(), header.message_id);
        let cipher = aead::Key::new(keys.encryption_key()).expect("every suite's key length is one of AES");
        let committed: bool = match (&keys.commit_key, header.commit_key) {
            (Some(derived), Some(received)) => derived.ct_eq(received).into(),
            (derived, received) => derived.is_none() && received.is_none(),
        };
        let required = materials.required_context().as_serialized();
        let authentic = match required {
            [] => cipher.open(header.iv, header.body, &mut [], header.tag),
            required => cipher.open(header.iv, &[header.body, required].concat(), &mut [], header.tag),
        };
        if !committed || authentic.is_err() {
            return Err(Error::Authentication);
        }
        let mut verifier = materials.verification_key().map(VerificationKey::verifier);
        if let Some(verifier) = &mut verifier {
            verifier.update(header.body);
            if !header.suite.commits_to_key() {
                verifier.update(&header.iv);
            }
            verifier.update(header.tag);
        }
        let message_id = MessageId::received(header.message_id);
        Ok(Self { materials, cipher, message_id, content_type: header.content_type, sequence_number: 1, verifier })
    }

    /// Appends the plaintext of the next frame, or of the body in one piece, if its tag is right; tells whether
    /// it was the last.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] leaves everything as it was, so that the piece can be read again once more of it is
    /// there. After any other error, the message must be given up.
    pub(crate) fn next_piece(&mut self, reader: &mut Reader<'_>, plaintext: &mut Vec<u8>) -> Result<bool, Error> {
        let (start, offset) = (reader.position(), reader.offset());
        let is_last = match self.content_type {
            ContentType::Framed { frame_length } => {
                let frame = UnverifiedFrame::read(reader, frame_length)?;
                self.open_frame(offset, &frame, plaintext)?;
                frame.is_final
            }
            ContentType::NonFramed => {
                let body = UnverifiedBody::read(reader)?;
                let aad = BodyAad::of_single_block(self.message_id.as_bytes(), body.encrypted_content.len());
                self.open_content(*body.iv, &aad, body.encrypted_content, body.tag, plaintext)?;
                true
            }
        };
        if let Some(verifier) = &mut self.verifier {
            verifier.update(reader.since(start));
        }
        Ok(is_last)
    }

    /// Reads and verifies the signature behind the body, if the suite has one.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] leaves everything as it was, so that the footer can be read again once more of it is
    /// there. [`Error::Authentication`] when the signature is not the message's.
    pub(crate) fn finish(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let Some(key) = self.materials.verification_key() else { return Ok(()) };
        let signature = footer::read(reader)?;
        let verified = self.verifier.take().is_some_and(|verifier| verifier.verify(key, signature));
        verified.then_some(()).ok_or(Error::Authentication)
    }

    /// What the message is opened with.
    pub(crate) fn materials(&self) -> &DecryptionMaterials {
        &self.materials
    }

    fn open_frame(&mut self, offset: u64, frame: &UnverifiedFrame<'_>, plaintext: &mut Vec<u8>) -> Result<(), Error> {
        let malformed = |field, problem| Error::Malformed { field, offset, problem };
        if frame.sequence_number != self.sequence_number {
            return Err(malformed("sequence number", "frames are not in sequence"));
        }
        if *frame.iv != frame::iv(self.sequence_number) {
            return Err(malformed("IV", "not the frame's sequence number"));
        }
        let content = frame.encrypted_content;
        let message_id = self.message_id.as_bytes();
        let aad = BodyAad::of_frame(message_id, frame.is_final, self.sequence_number, content.len());
        self.open_content(*frame.iv, &aad, content, frame.tag, plaintext)?;
        if !frame.is_final {
            // A frame numbered 2^32 - 1 reads as a final one, so only a hostile body comes to this.
            let next = self.sequence_number.checked_add(1);
            self.sequence_number = next.ok_or_else(|| malformed("sequence number", "more than 2^32 - 1 frames"))?;
        }
        Ok(())
    }

    fn open_content(
        &self,
        iv: [u8; 12],
        aad: &BodyAad,
        content: &[u8],
        tag: &[u8; 16],
        plaintext: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let start = plaintext.len();
        plaintext.extend_from_slice(content);
        let opened = self.cipher.open(iv, aad.as_bytes(), &mut plaintext[start..], tag);
        opened.map_err(|_| {
            plaintext.truncate(start);
            Error::Authentication
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        context::EncryptionContext,
        data_key::DataKey,
        format::header::{self, HeaderBody},
        materials::{EncryptedDataKey, EncryptionMaterials},
        message::{HEADER_IV, seal},
        suite::AlgorithmSuite,
    };

    const SUITE: AlgorithmSuite = AlgorithmSuite::Aes256GcmHkdfSha512CommitKey;

    fn data_key() -> DataKey {
        DataKey::from_vec(vec![7; 32])
    }

    fn open(message: &[u8]) -> Result<Vec<u8>, Error> {
        let (header, body) = read_header(message, 1)?;
        let materials = DecryptionMaterials::new(SUITE, EncryptionContext::empty(), data_key())?;
        open_rest(&mut Opener::start(&header, Arc::new(materials))?, message, body)
    }

    fn wrapped() -> [EncryptedDataKey; 1] {
        let (key_provider_id, key_provider_information) = ("ns".to_owned(), b"name".to_vec());
        [EncryptedDataKey { key_provider_id, key_provider_information, ciphertext: vec![] }]
    }

    /// The header's tag alone would pass: only the commitment is wrong.
    #[test]
    fn a_wrong_commitment_under_a_right_tag_is_refused() {
        let keys = kdf::derive(SUITE, data_key().expose_secret(), &[1; 32]);
        let cipher = aead::Key::new(keys.encryption_key()).unwrap();
        let message = |commit_key: [u8; 32]| {
            let mut message = vec![];
            let body = HeaderBody {
                suite: SUITE,
                message_id: &[1; 32],
                encryption_context: &EncryptionContext::empty(),
                encrypted_data_keys: &crate::format::encrypted_data_key::serialize(&wrapped()).unwrap(),
                content_type: ContentType::Framed { frame_length: 4 },
                commit_key: Some(&commit_key),
            };
            body.write(&mut message).unwrap();
            let tag = cipher.seal(HEADER_IV, &message, &mut []);
            header::write_authentication(SUITE, HEADER_IV, tag, &mut message);
            frame::write_final_prefix(&mut message, 1, frame::iv(1), 0);
            let tag = cipher.seal(frame::iv(1), BodyAad::of_frame(&[1; 32], true, 1, 0).as_bytes(), &mut []);
            message.extend_from_slice(&tag);
            message
        };
        let right = keys.commit_key.unwrap();
        assert_eq!(open(&message(right)).unwrap(), b"");
        for at in 0..32 {
            let mut wrong = right;
            wrong[at] ^= 1;
            assert!(matches!(open(&message(wrong)), Err(Error::Authentication)), "byte {at}");
        }
    }

    #[test]
    fn a_public_key_in_a_message_without_signature_is_refused_before_any_keyring_is_asked() {
        use futures_util::FutureExt;

        let context = EncryptionContext::new([("aws-crypto-public-key", "AAAA")]).unwrap();
        let materials = EncryptionMaterials::new(SUITE, context, data_key(), &wrapped()).unwrap();
        let message = seal::seal(&materials, b"x", ContentType::Framed { frame_length: 4 }).unwrap();
        let keyring = crate::keyring::RawAesKeyring::new("ns", "name", &data_key()).unwrap();
        let envelope = crate::client::Envelope::new(keyring).unwrap();
        let opened = envelope.decrypt(&message, &EncryptionContext::empty()).now_or_never().unwrap();
        assert!(matches!(opened, Err(Error::InvalidEncryptionContext { .. })), "{opened:?}");
    }

    #[test]
    fn the_header_and_the_frames_share_no_iv() {
        assert_eq!(HEADER_IV, [0; 12]);
        assert_ne!(HEADER_IV, frame::iv(1));
    }
}
