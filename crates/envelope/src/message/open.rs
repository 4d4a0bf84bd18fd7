//! Opening (specification: `client-apis/decrypt.md`).

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::{
    crypto::aead,
    error::Error,
    format::{
        body_aad::BodyAad,
        codec::Reader,
        frame::{self, UnverifiedFrame},
        header_v2::UnverifiedHeader,
    },
    materials::DecryptionMaterials,
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
    Ok((header, reader.offset()))
}

/// Opens the body of `message`, which starts at `body`, once its header is verified.
///
/// # Errors
///
/// [`Error::Authentication`], or what is wrong with the body's form. No plaintext is returned, and what
/// was decrypted until then is wiped.
pub(crate) fn open(
    message: &[u8],
    body: usize,
    header: &UnverifiedHeader<'_>,
    materials: &DecryptionMaterials,
) -> Result<Vec<u8>, Error> {
    let mut opener = Opener::start(header, materials)?;
    let mut plaintext = Vec::with_capacity(frame::plaintext_length(message.len() - body, header.frame_length));
    let mut reader = Reader::new(message, body);
    let outcome = opener.frames(&mut reader, &mut plaintext).and_then(|()| match reader.offset() {
        end if end == message.len() => Ok(()),
        offset => Err(Error::TrailingBytes { offset }),
    });
    match outcome {
        Ok(()) => Ok(plaintext),
        Err(error) => {
            plaintext.zeroize();
            Err(error)
        }
    }
}

/// Opens the frames of one message whose header it verified: having one is the proof.
struct Opener {
    cipher: aead::Key,
    message_id: [u8; 32],
    frame_length: u32,
    /// The sequence number that the next frame must have.
    sequence_number: u32,
}

impl Opener {
    /// Verifies the commitment, then the header's tag over the bytes as they were received.
    fn start(header: &UnverifiedHeader<'_>, materials: &DecryptionMaterials) -> Result<Self, Error> {
        let (commit_key, cipher) = super::derive(header.suite, materials.data_key(), header.message_id);
        let committed: bool = commit_key.ct_eq(header.commit_key).into();
        let authentic = cipher.open(super::HEADER_IV, header.body, &mut [], header.tag).is_ok();
        if !(committed && authentic) {
            return Err(Error::Authentication);
        }
        Ok(Self { cipher, message_id: *header.message_id, frame_length: header.frame_length, sequence_number: 1 })
    }

    /// Appends the plaintext of all frames up to the final one.
    fn frames(&mut self, reader: &mut Reader<'_>, plaintext: &mut Vec<u8>) -> Result<(), Error> {
        while !self.next_frame(reader, plaintext)? {}
        Ok(())
    }

    /// Appends the plaintext of the next frame, if its tag is right; tells whether it was the final one.
    fn next_frame(&mut self, reader: &mut Reader<'_>, plaintext: &mut Vec<u8>) -> Result<bool, Error> {
        let offset = reader.offset();
        let frame = UnverifiedFrame::read(reader, self.frame_length)?;
        let malformed = |field, problem| Error::Malformed { field, offset, problem };
        if frame.sequence_number != self.sequence_number {
            return Err(malformed("sequence number", "frames are not in sequence"));
        }
        let iv = frame::iv(self.sequence_number);
        if *frame.iv != iv {
            return Err(malformed("IV", "not the frame's sequence number"));
        }
        let content = frame.encrypted_content;
        let aad = BodyAad::of_frame(&self.message_id, frame.is_final, self.sequence_number, content.len());
        let start = plaintext.len();
        plaintext.extend_from_slice(content);
        let opened = self.cipher.open(iv, aad.as_bytes(), &mut plaintext[start..], frame.tag);
        if opened.is_err() {
            plaintext.truncate(start);
            return Err(Error::Authentication);
        }
        if !frame.is_final {
            // A regular frame numbered 2^32 - 1 reads as a final frame, so this never overflows for a
            // well-formed body; a hostile one ends here.
            self.sequence_number = self
                .sequence_number
                .checked_add(1)
                .ok_or_else(|| malformed("sequence number", "more than 2^32 - 1 frames"))?;
        }
        Ok(frame.is_final)
    }
}
