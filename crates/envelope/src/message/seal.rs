//! Sealing (specification: `client-apis/encrypt.md`).

use crate::{
    crypto::{aead, random},
    error::Error,
    format::{
        body_aad::BodyAad,
        frame,
        header_v2::{self, HeaderBody},
    },
    materials::EncryptionMaterials,
};

/// Seals a whole plaintext as one message.
///
/// # Errors
///
/// [`Error::PlaintextTooLong`] or [`Error::Random`].
pub(crate) fn seal(materials: &EncryptionMaterials, plaintext: &[u8], frame_length: u32) -> Result<Vec<u8>, Error> {
    let mut message = Vec::with_capacity(sealed_length(materials, plaintext.len(), frame_length)?);
    let mut sealer = Sealer::start(materials, frame_length, &mut message)?;
    let chunk = usize::try_from(frame_length).unwrap_or(usize::MAX);
    let mut rest = plaintext;
    while rest.len() > chunk {
        let (frame, after) = rest.split_at(chunk);
        sealer.regular_frame(frame, &mut message);
        rest = after;
    }
    sealer.final_frame(rest, &mut message);
    Ok(message)
}

/// The length in bytes of a message with this much plaintext.
///
/// # Errors
///
/// [`Error::PlaintextTooLong`].
pub(crate) fn sealed_length(
    materials: &EncryptionMaterials,
    plaintext_length: usize,
    frame_length: u32,
) -> Result<usize, Error> {
    let frames = frame::count(plaintext_length, frame_length)?;
    let header = header_v2::length(materials.encryption_context(), materials.encrypted_data_keys().as_serialized());
    Ok(header + frame::body_length(plaintext_length, frames))
}

/// Seals one message, frame after frame, behind a header it wrote at the start. The key is this message's
/// alone: it is derived from a fresh random message id, and each frame's IV is its sequence number.
struct Sealer {
    cipher: aead::Key,
    message_id: [u8; 32],
    sequence_number: u32,
}

impl Sealer {
    /// Appends the header of a new message.
    fn start(materials: &EncryptionMaterials, frame_length: u32, out: &mut Vec<u8>) -> Result<Self, Error> {
        let message_id = random::bytes()?;
        let (commit_key, cipher) = super::derive(materials.suite(), materials.data_key(), &message_id);
        let start = out.len();
        let body = HeaderBody {
            suite: materials.suite(),
            message_id: &message_id,
            encryption_context: materials.encryption_context(),
            encrypted_data_keys: materials.encrypted_data_keys().as_serialized(),
            frame_length,
            commit_key: &commit_key,
        };
        body.write(out)?;
        let tag = cipher.seal(super::HEADER_IV, &out[start..], &mut []);
        out.extend_from_slice(&tag);
        Ok(Self { cipher, message_id, sequence_number: 1 })
    }

    /// Appends a frame of exactly the frame length. There may be 2^32 - 2 of them.
    fn regular_frame(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        frame::write_regular_prefix(out, self.sequence_number, frame::iv(self.sequence_number));
        self.content(plaintext, false, out);
        self.sequence_number = self.sequence_number.checked_add(1).expect("sealed_length() counted the frames");
    }

    /// Appends the last frame, of at most the frame length.
    fn final_frame(self, plaintext: &[u8], out: &mut Vec<u8>) {
        let length = u32::try_from(plaintext.len()).expect("the final frame has at most the frame length");
        frame::write_final_prefix(out, self.sequence_number, frame::iv(self.sequence_number), length);
        self.content(plaintext, true, out);
    }

    fn content(&self, plaintext: &[u8], is_final: bool, out: &mut Vec<u8>) {
        let aad = BodyAad::of_frame(&self.message_id, is_final, self.sequence_number, plaintext.len());
        let start = out.len();
        out.extend_from_slice(plaintext);
        let tag = self.cipher.seal(frame::iv(self.sequence_number), aad.as_bytes(), &mut out[start..]);
        out.extend_from_slice(&tag);
    }
}
