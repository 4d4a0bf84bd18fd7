//! Encryption of a complete plaintext, in slices.

use std::ops::Deref;

use super::{
    Slices, Unfinished,
    sealer::{Sealer, max_message_length},
    workers::Workers,
};
use crate::{
    error::Error,
    format::{frame, header::ContentType},
    materials::EncryptionMaterials,
};

/// Appends one message to a buffer, or leaves the buffer unchanged.
pub(crate) struct Encryption<'a, M> {
    sealer: Sealer<M>,
    content_type: ContentType,
    rest: &'a [u8],
    workers: &'a Workers,
    message: Unfinished<'a>,
}

/// Returns whether `length` bytes of plaintext are encrypted in one slice.
pub(crate) fn is_one_slice(length: usize, content_type: ContentType, workers: &Workers) -> bool {
    match content_type {
        ContentType::NonFramed => true,
        ContentType::Framed { frame_length } => {
            let frame_length = frame::length(frame_length);
            // Most messages are a single frame: no division for them.
            length <= frame_length
                || (length - 1) / frame_length <= workers.frames(frame_length).max(1)
        }
    }
}

impl<'a, M: Deref<Target = EncryptionMaterials>> Encryption<'a, M> {
    /// Starts a message for `plaintext` by writing its header.
    ///
    /// # Errors
    ///
    /// [`Error::PlaintextTooLong`] or [`Error::Random`].
    pub(crate) fn start(
        materials: M,
        content_type: ContentType,
        plaintext: &'a [u8],
        workers: &'a Workers,
        message: &'a mut Vec<u8>,
    ) -> Result<Self, Error> {
        let mut message = Unfinished::new(
            message,
            max_message_length(&materials, plaintext.len(), content_type)?,
        );
        let sealer = Sealer::start(materials, content_type, &mut message)?;
        Ok(Self { sealer, content_type, rest: plaintext, workers, message })
    }
}

impl<M: Deref<Target = EncryptionMaterials>> Slices for Encryption<'_, M> {
    fn next_slice(&mut self) -> Result<bool, Error> {
        match self.content_type {
            ContentType::NonFramed => self.sealer.single_block(self.rest, &mut self.message),
            ContentType::Framed { frame_length } => {
                let length = frame::length(frame_length);
                let regular = self.rest.len().saturating_sub(1) / length;
                let now = regular.min(self.workers.frames(length).max(1));
                let (frames, rest) = self.rest.split_at(now * length);
                self.sealer.regular_frames(frames, length, self.workers, &mut self.message)?;
                self.rest = rest;
                if now < regular {
                    return Ok(false);
                }
                self.sealer.final_frame(self.rest, &mut self.message);
            }
        }
        self.sealer.finish(&mut self.message)?;
        self.message.keep();
        Ok(true)
    }

    fn wipe_slice(&mut self) -> bool {
        self.message.wipe_slice()
    }
}
