//! Sealing (specification: `client-apis/encrypt.md`).

use std::{convert::Infallible, ops::Deref};

use crate::{
    crypto::{
        aead, kdf, random,
        signature::{Signer, SigningKey},
    },
    error::Error,
    format::{
        body_aad::BodyAad,
        footer, frame,
        header::{self, ContentType, HeaderBody},
        non_framed,
    },
    materials::EncryptionMaterials,
    message::{MessageId, workers::Workers},
};

/// The length in bytes of a message with this much plaintext; of a signed one, the most that it can
/// be.
///
/// # Errors
///
/// [`Error::PlaintextTooLong`].
pub(super) fn sealed_length(
    materials: &EncryptionMaterials,
    plaintext_length: usize,
    content_type: ContentType,
) -> Result<usize, Error> {
    check_length(plaintext_length as u64, content_type)?;
    let body = match content_type {
        ContentType::Framed { frame_length } => frame::body_length(
            plaintext_length,
            frame::count(plaintext_length as u64, frame_length)?,
        ),
        ContentType::NonFramed => plaintext_length + non_framed::OVERHEAD,
    };
    let footer = if materials.signing_key().is_some() { footer::MAX_LENGTH } else { 0 };
    Ok(header_length(materials) + body + footer)
}

/// The length in bytes of the header under these materials.
pub(crate) fn header_length(materials: &EncryptionMaterials) -> usize {
    let keys = materials.serialized_data_keys().as_serialized();
    header::length(materials.suite(), materials.stored_context(), keys)
}

/// Checks that a message holds so many plaintext bytes.
///
/// # Errors
///
/// [`Error::PlaintextTooLong`].
pub(crate) fn check_length(plaintext_length: u64, content_type: ContentType) -> Result<(), Error> {
    match content_type {
        ContentType::Framed { frame_length } => {
            frame::count(plaintext_length, frame_length).map(drop)
        }
        ContentType::NonFramed if plaintext_length <= non_framed::MAX_CONTENT_LENGTH => Ok(()),
        ContentType::NonFramed => {
            Err(Error::PlaintextTooLong { limit: non_framed::MAX_CONTENT_LENGTH })
        }
    }
}

/// Seals one message, piece by piece, behind a header it wrote at the start.
///
/// No IV repeats under one key: the key is this message's alone, since it is derived from a fresh
/// random message id (or, for legacy suites, is a data key that is never cached); under it the
/// header's IV is zero, and that of a frame is its sequence number, from one.
pub(crate) struct Sealer<M> {
    materials: M,
    cipher: aead::Key,
    message_id: MessageId,
    sequence_number: u32,
    signer: Option<Signer>,
}

impl<M: Deref<Target = EncryptionMaterials>> Sealer<M> {
    /// Appends the header of a new message.
    ///
    /// # Errors
    ///
    /// [`Error::Random`].
    pub(crate) fn start(
        materials: M,
        content_type: ContentType,
        out: &mut Vec<u8>,
    ) -> Result<Self, Error> {
        let suite = materials.suite();
        let message_id = MessageId::new(suite, random::bytes()?);
        let keys = kdf::derive(suite, materials.data_key().expose_secret(), message_id.as_bytes());
        let cipher = keys.cipher;
        let start = out.len();
        let body = HeaderBody {
            suite,
            message_id: message_id.as_bytes(),
            encryption_context: materials.stored_context(),
            encrypted_data_keys: materials.serialized_data_keys().as_serialized(),
            content_type,
            commit_key: keys.commit_key.as_ref(),
        };
        body.write(out)?;
        // Authenticated data that is not stored follows the body only while the tag is computed.
        let end = out.len();
        out.extend_from_slice(materials.required_context().as_serialized());
        let tag = cipher.seal(super::HEADER_IV, &out[start..], &mut []);
        out.truncate(end);
        header::write_authentication(suite, super::HEADER_IV, tag, out);
        let mut signer = materials.signing_key().map(SigningKey::signer);
        if let Some(signer) = &mut signer {
            signer.update(&out[start..]);
        }
        Ok(Self { materials, cipher, message_id, sequence_number: 1, signer })
    }

    /// Appends a frame of exactly the frame length.
    ///
    /// # Errors
    ///
    /// [`Error::PlaintextTooLong`] when the final frame would be the 2^32nd.
    pub(crate) fn regular_frame(
        &mut self,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let frame_length = || u32::try_from(plaintext.len()).unwrap_or(u32::MAX);
        let next =
            self.sequence_number.checked_add(1).ok_or_else(|| frame::too_long(frame_length()))?;
        let (start, iv) = (out.len(), frame::iv(self.sequence_number));
        out.extend_from_slice(&frame::regular_prefix(self.sequence_number, iv));
        let aad = BodyAad::of_frame(
            self.message_id.as_bytes(),
            false,
            self.sequence_number,
            plaintext.len(),
        );
        self.content(start, iv, &aad, plaintext, out);
        self.sequence_number = next;
        Ok(())
    }

    /// Appends as many frames as `plaintext` fills, each of `frame_length`.
    ///
    /// # Errors
    ///
    /// [`Error::PlaintextTooLong`] when the final frame would be the 2^32nd.
    pub(crate) fn regular_frames(
        &mut self,
        plaintext: &[u8],
        frame_length: usize,
        workers: &Workers,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let frames = plaintext.chunks_exact(frame_length);
        let after = u32::try_from(frames.len())
            .ok()
            .and_then(|count| self.sequence_number.checked_add(count));
        let (true, Some(after)) = (workers.share(plaintext.len()), after) else {
            return { frames }.try_for_each(|frame| self.regular_frame(frame, out));
        };
        let (start, first, stride) =
            (out.len(), self.sequence_number, frame_length + frame::REGULAR_OVERHEAD);
        out.resize(start + frames.len() * stride, 0);
        let (cipher, message_id) = (&self.cipher, self.message_id.as_bytes());
        let shared = workers.each(
            (plaintext, frame_length),
            &mut out[start..],
            stride,
            |at, plaintext, frame| {
                let number = first + at;
                let (iv, aad) =
                    (frame::iv(number), BodyAad::of_frame(message_id, false, number, frame_length));
                let (prefix, content, tag) = frame::split_regular_mut(frame);
                *prefix = frame::regular_prefix(number, iv);
                content.copy_from_slice(plaintext);
                *tag = cipher.seal(iv, aad.as_bytes(), content);
                Ok::<_, Infallible>(())
            },
        );
        let Ok(()) = shared;
        if let Some(signer) = &mut self.signer {
            signer.update(&out[start..]);
        }
        self.sequence_number = after;
        Ok(())
    }

    /// Appends the last frame, of at most the frame length.
    pub(crate) fn final_frame(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let (start, iv) = (out.len(), frame::iv(self.sequence_number));
        let length =
            u32::try_from(plaintext.len()).expect("the final frame has at most the frame length");
        frame::write_final_prefix(out, self.sequence_number, iv, length);
        let aad = BodyAad::of_frame(
            self.message_id.as_bytes(),
            true,
            self.sequence_number,
            plaintext.len(),
        );
        self.content(start, iv, &aad, plaintext, out);
    }

    /// Appends the body in one piece.
    pub(crate) fn single_block(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let (start, iv) = (out.len(), frame::iv(1));
        non_framed::write_prefix(out, iv, plaintext.len());
        let aad = BodyAad::of_single_block(self.message_id.as_bytes(), plaintext.len());
        self.content(start, iv, &aad, plaintext, out);
    }

    /// Appends the footer, if the suite has one.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        match (self.signer.take(), self.materials.signing_key()) {
            (Some(signer), Some(key)) => footer::write(&signer.sign(key)?, out),
            _ => Ok(()),
        }
    }

    /// Appends content and tag of the piece that started at `start`.
    fn content(
        &mut self,
        start: usize,
        iv: [u8; 12],
        aad: &BodyAad,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) {
        let content = out.len();
        out.extend_from_slice(plaintext);
        let tag = self.cipher.seal(iv, aad.as_bytes(), &mut out[content..]);
        out.extend_from_slice(&tag);
        if let Some(signer) = &mut self.signer {
            signer.update(&out[start..]);
        }
    }
}
