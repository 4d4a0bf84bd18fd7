//! The state machine that writes a message (specification: `client-apis/encrypt.md`).

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

/// Returns the length in bytes of a message with this much plaintext, with the max length of its
/// signature.
///
/// # Errors
///
/// [`Error::PlaintextTooLong`].
pub(super) fn max_message_length(
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

/// Returns the length in bytes of the header for these materials.
pub(crate) fn header_length(materials: &EncryptionMaterials) -> usize {
    let keys = materials.serialized_data_keys().as_serialized();
    header::length(materials.suite(), materials.stored_context(), keys)
}

/// Checks that a message can hold this many plaintext bytes.
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

/// Writes one message piece by piece, after its header.
///
/// No IV repeats under one key. Each message has its own key: it is derived from a new random
/// message id, or, in legacy suites without key derivation, it is a data key that is never cached.
/// Under this key, the IV of the header is zero, and the IV of a frame is its sequence number,
/// which starts at one.
pub(crate) struct Sealer<M> {
    materials: M,
    cipher: aead::Key,
    message_id: MessageId,
    sequence_number: u32,
    signer: Option<Signer>,
}

impl<M: Deref<Target = EncryptionMaterials>> Sealer<M> {
    /// Starts a new message by appending its header.
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
        // Pairs that are authenticated but not stored follow the body while the tag is computed.
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

    /// Appends a regular frame. `plaintext` has exactly the frame length.
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
        let start = out.len();
        let iv = frame::iv(self.sequence_number);
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

    /// Appends regular frames. The length of `plaintext` is a multiple of `frame_length`.
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
        let start = out.len();
        let first = self.sequence_number;
        let stride = frame_length + frame::REGULAR_OVERHEAD;
        out.resize(start + frames.len() * stride, 0);
        let cipher = &self.cipher;
        let message_id = self.message_id.as_bytes();
        let shared = workers.each(
            (plaintext, frame_length),
            &mut out[start..],
            stride,
            |at, plaintext, frame| {
                let number = first + at;
                let iv = frame::iv(number);
                let aad = BodyAad::of_frame(message_id, false, number, frame_length);
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

    /// Appends the final frame. `plaintext` has at most the frame length.
    pub(crate) fn final_frame(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let iv = frame::iv(self.sequence_number);
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

    /// Appends a non-framed body.
    pub(crate) fn single_block(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let iv = frame::iv(1);
        non_framed::write_prefix(out, iv, plaintext.len());
        let aad = BodyAad::of_single_block(self.message_id.as_bytes(), plaintext.len());
        self.content(start, iv, &aad, plaintext, out);
    }

    /// Appends the footer, if the suite is signed.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        match (self.signer.take(), self.materials.signing_key()) {
            (Some(signer), Some(key)) => footer::write(&signer.sign(key)?, out),
            _ => Ok(()),
        }
    }

    /// Appends content and tag of the piece whose prefix starts at `start`.
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
