//! The state machine that reads a message (specification: `client-apis/decrypt.md`).

use std::{ops::Range, sync::Arc};

use subtle::ConstantTimeEq;
use zeroize::Zeroize as _;

use crate::{
    context::EncryptionContext,
    crypto::{
        aead::{self, Unauthenticated},
        kdf,
        signature::{VerificationKey, Verifier},
    },
    error::Error,
    format::{
        body_aad::BodyAad,
        codec::Reader,
        footer,
        frame::{self, UnverifiedFrame},
        header::{ContentType, UnverifiedHeader},
        non_framed::UnverifiedBody,
    },
    materials::DecryptionMaterials,
    message::{
        MessageId,
        workers::{Workers, cost},
    },
    suite::AlgorithmSuite,
};

/// Reads the header at the front of `message`. Returns it with the start of the body.
///
/// # Errors
///
/// Errors of the header's format.
pub(crate) fn read_header(
    message: &[u8],
    max_encrypted_data_keys: usize,
) -> Result<(UnverifiedHeader<'_>, usize), Error> {
    let mut reader = Reader::new(message, 0);
    let header = UnverifiedHeader::read(&mut reader, max_encrypted_data_keys)?;
    Ok((header, reader.position()))
}

/// Returns whether a header is authentic under these materials.
pub(crate) fn is_authentic(header: &UnverifiedHeader<'_>, materials: &DecryptionMaterials) -> bool {
    materials.suite() == header.suite && verified(header, materials).is_ok()
}

/// Verifies the commitment, and the header's tag over the bytes as received. Returns the key of the
/// message.
fn verified(
    header: &UnverifiedHeader<'_>,
    materials: &DecryptionMaterials,
) -> Result<aead::Key, Error> {
    let keys = kdf::derive(header.suite, materials.data_key().expose_secret(), header.message_id);
    let cipher = keys.cipher;
    let committed: bool = match (&keys.commit_key, header.commit_key) {
        (Some(derived), Some(received)) => words(derived).ct_eq(&words(received)).into(),
        (derived, received) => derived.is_none() && received.is_none(),
    };
    let required = materials.required_context().as_serialized();
    let authentic = match required {
        [] => cipher.open(header.iv, header.body, &mut [], header.tag),
        required => cipher.open(header.iv, &[header.body, required].concat(), &mut [], header.tag),
    };
    if committed && authentic.is_ok() { Ok(cipher) } else { Err(Error::Authentication) }
}

/// Decrypts the body of one message piece by piece. Only exists for a verified header.
pub(crate) struct Opener {
    encryption_context: EncryptionContext,
    suite: AlgorithmSuite,
    cipher: aead::Key,
    message_id: MessageId,
    content_type: ContentType,
    /// The expected sequence number of the next frame.
    sequence_number: u32,
    /// The verification of the signature, if the suite is signed.
    signature: Option<(Verifier, Arc<VerificationKey>)>,
    /// Whether all frames that were decrypted in a run were valid so far.
    runs: bool,
}

/// A frame or a non-framed body: well-formed and in sequence, but not authenticated.
pub(super) struct UnverifiedPiece {
    /// The position of the content in the bytes that were read.
    pub(super) content: Range<usize>,
    iv: [u8; 12],
    aad: BodyAad,
    tag: [u8; 16],
    pub(super) is_last: bool,
}

impl Opener {
    /// Verifies the commitment, and the header's tag over the bytes as received.
    pub(crate) fn start(
        header: &UnverifiedHeader<'_>,
        materials: &DecryptionMaterials,
    ) -> Result<Self, Error> {
        let cipher = verified(header, materials)?;
        let mut signature =
            materials.verification_key().map(|key| (key.verifier(), Arc::clone(key)));
        if let Some((verifier, _)) = &mut signature {
            verifier.update(header.body);
            if !header.suite.commits_to_key() {
                verifier.update(&header.iv);
            }
            verifier.update(header.tag);
        }
        let message_id = MessageId::received(header.message_id);
        Ok(Self {
            encryption_context: materials.encryption_context().clone(),
            suite: materials.suite(),
            cipher,
            message_id,
            content_type: header.content_type,
            sequence_number: 1,
            signature,
            runs: true,
        })
    }

    /// Appends the plaintext of the next piece if its tag is valid. Returns whether it was the last
    /// piece.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] changes nothing, so the piece can be read again when more bytes are
    /// there. After any other error, the opener must not be used any more.
    pub(crate) fn next_piece(
        &mut self,
        reader: &mut Reader<'_>,
        plaintext: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let start = plaintext.len();
        let piece = self.read_piece(reader)?;
        plaintext.extend_from_slice(&reader.all()[piece.content.clone()]);
        self.open_piece(&piece, &mut plaintext[start..])
            .inspect_err(|_| plaintext.truncate(start))?;
        Ok(piece.is_last)
    }

    /// Appends the plaintext of the next regular frames, of at most one slice, with several threads
    /// if that is faster. Returns their cost in bytes; 0 when there are none.
    ///
    /// If one of the frames is invalid, none is decrypted. [`next_piece`](Self::next_piece) then
    /// finds the invalid one.
    pub(crate) fn regular_frames(
        &mut self,
        reader: &mut Reader<'_>,
        workers: &Workers,
        plaintext: &mut Vec<u8>,
    ) -> usize {
        let (true, ContentType::Framed { frame_length }) = (self.runs, self.content_type) else {
            return 0;
        };
        let length = frame::length(frame_length);
        let stride = length.saturating_add(frame::REGULAR_OVERHEAD);
        let start = plaintext.len();
        let first = self.sequence_number;
        let frames =
            reader.rest().chunks_exact(stride).take(workers.frames(length)).zip(first..u32::MAX);
        let count =
            frames.take_while(|(frame, number)| frame.starts_with(&number.to_be_bytes())).count();
        if count == 0 {
            return 0;
        }
        let frames = &reader.rest()[..count * stride];
        let cipher = &self.cipher;
        let aad = BodyAad::of_frame(self.message_id.as_bytes(), false, first, length);
        let open = |number, frame: &[u8], content: &mut [u8]| {
            let iv = frame::iv(number);
            let (prefix, _, tag) = frame::split_regular(frame);
            if *prefix != frame::regular_prefix(number, iv) {
                return Err(Unauthenticated);
            }
            cipher.open(iv, aad.with_sequence_number(number).as_bytes(), content, tag)
        };
        let opened = if workers.share(count * length) {
            plaintext.resize(start + count * length, 0);
            workers.each(
                (frames, stride),
                &mut plaintext[start..],
                length,
                |at, frame, plaintext| {
                    plaintext.copy_from_slice(frame::split_regular(frame).1);
                    open(first + at, frame, plaintext)
                },
            )
        } else {
            frames.chunks_exact(stride).zip(first..).try_for_each(|(frame, number)| {
                let at = plaintext.len();
                plaintext.extend_from_slice(frame::split_regular(frame).1);
                open(number, frame, &mut plaintext[at..])
            })
        };
        if opened.is_err() {
            plaintext[start..].zeroize();
            plaintext.truncate(start);
            self.runs = false;
            return 0;
        }
        if let Some((verifier, _)) = &mut self.signature {
            verifier.update(frames);
        }
        self.sequence_number +=
            u32::try_from(count).expect("there are fewer than 2^32 sequence numbers");
        reader.skip(count * stride);
        count * cost(length)
    }

    /// Reads the next piece and advances behind it. If [`open_piece`](Self::open_piece) then fails,
    /// the opener must not be used any more.
    ///
    /// # Errors
    ///
    /// The errors of [`next_piece`](Self::next_piece), except [`Error::Authentication`].
    pub(super) fn read_piece(&mut self, reader: &mut Reader<'_>) -> Result<UnverifiedPiece, Error> {
        let start = reader.position();
        let offset = reader.offset();
        let message_id = self.message_id.as_bytes();
        let (iv, aad, tag, length, is_last) = match self.content_type {
            ContentType::Framed { frame_length } => {
                let frame = UnverifiedFrame::read(reader, frame_length)?;
                self.check_sequence(offset, &frame)?;
                let length = frame.encrypted_content.len();
                let aad =
                    BodyAad::of_frame(message_id, frame.is_final, frame.sequence_number, length);
                if !frame.is_final {
                    // The sequence number 2^32 - 1 is the marker of the final frame, so this only
                    // fails for a hostile body.
                    let next = self.sequence_number.checked_add(1);
                    self.sequence_number = next.ok_or(Error::Malformed {
                        field: "sequence number",
                        offset,
                        problem: "more than 2^32 - 1 frames",
                    })?;
                }
                (*frame.iv, aad, *frame.tag, length, frame.is_final)
            }
            ContentType::NonFramed => {
                let body = UnverifiedBody::read(reader)?;
                let length = body.encrypted_content.len();
                (*body.iv, BodyAad::of_single_block(message_id, length), *body.tag, length, true)
            }
        };
        if let Some((verifier, _)) = &mut self.signature {
            verifier.update(reader.since(start));
        }
        // The tag follows the content in both layouts.
        let end = reader.position() - tag.len();
        Ok(UnverifiedPiece { content: end - length..end, iv, aad, tag, is_last })
    }

    /// Decrypts the content of the piece in place if its tag is valid, and wipes it otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Authentication`].
    pub(super) fn open_piece(
        &self,
        piece: &UnverifiedPiece,
        content: &mut [u8],
    ) -> Result<(), Error> {
        let opened = self.cipher.open(piece.iv, piece.aad.as_bytes(), content, &piece.tag);
        opened.map_err(|_| Error::Authentication)
    }

    /// Reads and verifies the signature after the body, if the suite is signed.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] changes nothing, so the footer can be read again when more bytes are
    /// there. [`Error::Authentication`] when the signature is invalid.
    pub(crate) fn finish(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        if !self.suite.is_signed() {
            return Ok(());
        }
        let signature = footer::read(reader)?;
        let verified =
            self.signature.take().is_some_and(|(verifier, key)| verifier.verify(&key, signature));
        verified.then_some(()).ok_or(Error::Authentication)
    }

    /// Returns the layout of the body.
    pub(super) fn content_type(&self) -> ContentType {
        self.content_type
    }

    /// Returns the message's encryption context, with the required pairs that it does not store.
    pub(crate) fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// Returns the message's encryption context, by value.
    pub(crate) fn into_context(self) -> EncryptionContext {
        self.encryption_context
    }

    /// Returns the message's algorithm suite.
    pub(crate) fn suite(&self) -> AlgorithmSuite {
        self.suite
    }

    fn check_sequence(&self, offset: u64, frame: &UnverifiedFrame<'_>) -> Result<(), Error> {
        let malformed = |field, problem| Err(Error::Malformed { field, offset, problem });
        if frame.sequence_number != self.sequence_number {
            return malformed("sequence number", "frames are not in sequence");
        }
        if *frame.iv != frame::iv(self.sequence_number) {
            return malformed("IV", "not the frame's sequence number");
        }
        Ok(())
    }
}

/// Splits a commit key into words, which are compared faster than single bytes.
fn words(commit_key: &[u8; 32]) -> [u64; 4] {
    let (words, []) = commit_key.as_chunks() else { unreachable!("32 is a multiple of 8") };
    std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data_key::DataKey,
        format::header::{self, HeaderBody},
        materials::{EncryptedDataKey, EncryptionMaterials},
        message::{HEADER_IV, Slices as _, decrypt::Decryption, encrypt::Encryption},
    };

    const SUITE: AlgorithmSuite = AlgorithmSuite::Aes256GcmHkdfSha512CommitKey;

    fn data_key() -> DataKey {
        DataKey::from_vec(vec![7; 32])
    }

    fn open(message: &[u8]) -> Result<Vec<u8>, Error> {
        let (header, body) = read_header(message, 1)?;
        let materials = DecryptionMaterials::new(SUITE, EncryptionContext::empty(), data_key())?;
        let mut opener = Opener::start(&header, &materials)?;
        let mut plaintext = vec![];
        Decryption::start(&mut opener, message, body, &Workers::default(), &mut plaintext)
            .finish()?;
        Ok(plaintext)
    }

    fn wrapped() -> [EncryptedDataKey; 1] {
        [EncryptedDataKey {
            key_provider_id: "ns".to_owned(),
            key_provider_information: b"name".to_vec(),
            ciphertext: vec![],
        }]
    }

    /// The header's tag is valid; only the commitment is wrong.
    #[test]
    fn a_wrong_commitment_under_a_valid_tag_is_refused() {
        let keys = kdf::derive(SUITE, data_key().expose_secret(), &[1; 32]);
        let cipher = keys.cipher;
        let message = |commit_key: [u8; 32]| {
            let mut message = vec![];
            let body = HeaderBody {
                suite: SUITE,
                message_id: &[1; 32],
                encryption_context: &EncryptionContext::empty(),
                encrypted_data_keys: &crate::format::encrypted_data_key::serialize(&wrapped())
                    .unwrap(),
                content_type: ContentType::Framed { frame_length: 4 },
                commit_key: Some(&commit_key),
            };
            body.write(&mut message).unwrap();
            let tag = cipher.seal(HEADER_IV, &message, &mut []);
            header::write_authentication(SUITE, HEADER_IV, tag, &mut message);
            frame::write_final_prefix(&mut message, 1, frame::iv(1), 0);
            let tag = cipher.seal(
                frame::iv(1),
                BodyAad::of_frame(&[1; 32], true, 1, 0).as_bytes(),
                &mut [],
            );
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
    fn a_public_key_in_an_unsigned_message_is_refused_before_the_keyring_is_called() {
        let context = EncryptionContext::new([("aws-crypto-public-key", "AAAA")]).unwrap();
        let materials = EncryptionMaterials::new(SUITE, context, data_key(), &wrapped()).unwrap();
        let workers = Workers::default();
        let mut message = vec![];
        let content_type = ContentType::Framed { frame_length: 4 };
        Encryption::start(&materials, content_type, b"x", &workers, &mut message)
            .unwrap()
            .finish()
            .unwrap();
        let keyring = crate::keyring::RawAesKeyring::new("ns", "name", &data_key()).unwrap();
        let envelope = crate::client::Envelope::new(keyring).unwrap();
        let opened =
            futures_executor::block_on(envelope.decrypt(&message, &EncryptionContext::empty()));
        assert!(matches!(opened, Err(Error::InvalidEncryptionContext { .. })), "{opened:?}");
    }

    #[test]
    fn the_header_and_the_frames_share_no_iv() {
        assert_eq!(HEADER_IV, [0; 12]);
        assert_ne!(HEADER_IV, frame::iv(1));
    }
}
