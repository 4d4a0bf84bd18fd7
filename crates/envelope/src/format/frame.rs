//! Frames of a message body (specification: `data-format/message-body.md#framed-data`).

use super::codec::Reader;
use crate::error::Error;

/// The marker before the final frame's sequence number.
const SEQUENCE_NUMBER_END: u32 = 0xFFFF_FFFF;
/// The length of a regular frame without its content: sequence number, IV and tag.
pub(crate) const REGULAR_OVERHEAD: usize = 4 + 12 + 16;
/// The length of the final frame without its content: end marker, sequence number, IV, content
/// length and tag.
pub(crate) const FINAL_OVERHEAD: usize = 4 + 4 + 12 + 4 + 16;

/// The fields before a frame's content, as received: not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnverifiedPrefix<'a> {
    pub(crate) is_final: bool,
    pub(crate) sequence_number: u32,
    pub(crate) iv: &'a [u8; 12],
    /// At most the frame length.
    pub(crate) content_length: u32,
}

impl<'a> UnverifiedPrefix<'a> {
    /// Reads the fields before the content of one frame. `frame_length` is the header's.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], or [`Error::Malformed`] for a final frame longer than the frame
    /// length.
    pub(crate) fn read(reader: &mut Reader<'a>, frame_length: u32) -> Result<Self, Error> {
        let first = reader.u32("sequence number")?;
        let is_final = first == SEQUENCE_NUMBER_END;
        let sequence_number = if is_final { reader.u32("sequence number")? } else { first };
        let iv = reader.array("IV")?;
        let length_offset = reader.offset();
        let content_length =
            if is_final { reader.u32("encrypted content length")? } else { frame_length };
        if content_length > frame_length {
            return Err(Error::Malformed {
                field: "encrypted content length",
                offset: length_offset,
                problem: "longer than the frame length",
            });
        }
        Ok(Self { is_final, sequence_number, iv, content_length })
    }
}

/// One frame as received: not authenticated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnverifiedFrame<'a> {
    pub(crate) is_final: bool,
    pub(crate) sequence_number: u32,
    pub(crate) iv: &'a [u8; 12],
    pub(crate) encrypted_content: &'a [u8],
    pub(crate) tag: &'a [u8; 16],
}

impl<'a> UnverifiedFrame<'a> {
    /// Reads one frame. `frame_length` is the header's.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], or [`Error::Malformed`] for a final frame longer than the frame
    /// length.
    pub(crate) fn read(reader: &mut Reader<'a>, frame_length: u32) -> Result<Self, Error> {
        let prefix = UnverifiedPrefix::read(reader, frame_length)?;
        let UnverifiedPrefix { is_final, sequence_number, iv, content_length } = prefix;
        let encrypted_content = reader.bytes("encrypted content", length(content_length))?;
        let tag = reader.array("authentication tag")?;
        Ok(Self { is_final, sequence_number, iv, encrypted_content, tag })
    }
}

/// Returns the fields before a regular frame's content.
pub(crate) fn regular_prefix(sequence_number: u32, iv: [u8; 12]) -> [u8; 16] {
    let mut prefix = [0; 16];
    prefix[..4].copy_from_slice(&sequence_number.to_be_bytes());
    prefix[4..].copy_from_slice(&iv);
    prefix
}

/// Splits a complete regular frame into prefix, content and tag.
pub(crate) fn split_regular(frame: &[u8]) -> (&[u8; 16], &[u8], &[u8; 16]) {
    let (prefix, rest) = frame.split_first_chunk().expect("the frame is complete");
    let (content, tag) = rest.split_last_chunk().expect("the frame is complete");
    (prefix, content, tag)
}

/// Splits the buffer for a regular frame into prefix, content and tag.
pub(crate) fn split_regular_mut(frame: &mut [u8]) -> (&mut [u8; 16], &mut [u8], &mut [u8; 16]) {
    let (prefix, rest) = frame.split_first_chunk_mut().expect("the buffer has room for the prefix");
    let (content, tag) = rest.split_last_chunk_mut().expect("the buffer has room for the tag");
    (prefix, content, tag)
}

/// Appends the fields before the final frame's content.
pub(crate) fn write_final_prefix(
    out: &mut Vec<u8>,
    sequence_number: u32,
    iv: [u8; 12],
    content_length: u32,
) {
    out.extend_from_slice(&SEQUENCE_NUMBER_END.to_be_bytes());
    out.extend_from_slice(&sequence_number.to_be_bytes());
    out.extend_from_slice(&iv);
    out.extend_from_slice(&content_length.to_be_bytes());
}

/// Returns the IV of a frame: its sequence number, with zeros in front.
///
/// Sequence numbers start at 1, so no frame has the IV of the header, which is zero.
pub(crate) fn iv(sequence_number: u32) -> [u8; 12] {
    let mut iv = [0; 12];
    iv[8..].copy_from_slice(&sequence_number.to_be_bytes());
    iv
}

/// Returns the number of frames for `plaintext_length` bytes.
///
/// A plaintext that is an exact multiple of the frame length ends with a full final frame. An empty
/// plaintext is an empty final frame.
///
/// # Errors
///
/// [`Error::PlaintextTooLong`] for more than 2^32 - 1 frames.
pub(crate) fn count(plaintext_length: u64, frame_length: u32) -> Result<u32, Error> {
    let frames = plaintext_length.div_ceil(frame_length.into()).max(1);
    u32::try_from(frames).map_err(|_| too_long(frame_length))
}

/// Returns the error for a plaintext that needs more frames than there are sequence numbers.
pub(crate) fn too_long(frame_length: u32) -> Error {
    Error::PlaintextTooLong { limit: u64::from(frame_length) * u64::from(u32::MAX) }
}

/// Returns the length in bytes of a body of `frames` frames with `plaintext_length` bytes.
pub(crate) fn body_length(plaintext_length: usize, frames: u32) -> usize {
    plaintext_length + (length(frames) - 1) * REGULAR_OVERHEAD + FINAL_OVERHEAD
}

/// Returns an upper bound of the plaintext in a body of `body_length` bytes, well-formed or not.
///
/// The bound is at most 8 bytes above the plaintext length of a well-formed body.
pub(crate) fn plaintext_length(body_length: usize, frame_length: u32) -> usize {
    let frame = length(frame_length).saturating_add(REGULAR_OVERHEAD);
    body_length / frame * length(frame_length)
        + (body_length % frame).saturating_sub(REGULAR_OVERHEAD)
}

/// Converts a 32-bit length to `usize`.
pub(crate) fn length(length: u32) -> usize {
    usize::try_from(length).expect("usize has at least 32 bits on all supported platforms")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(frame: &UnverifiedFrame<'_>) -> Vec<u8> {
        let mut out = vec![];
        if frame.is_final {
            let content_length = u32::try_from(frame.encrypted_content.len()).unwrap();
            write_final_prefix(&mut out, frame.sequence_number, *frame.iv, content_length);
        } else {
            out.extend_from_slice(&regular_prefix(frame.sequence_number, *frame.iv));
        }
        out.extend_from_slice(frame.encrypted_content);
        out.extend_from_slice(frame.tag);
        out
    }

    #[test]
    fn the_iv_is_the_sequence_number() {
        assert_eq!(iv(1), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(iv(0x0102_0304), [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_final_frame_may_be_full_or_empty() {
        assert_eq!(count(0, 4).unwrap(), 1);
        assert_eq!(count(4, 4).unwrap(), 1);
        assert_eq!(count(5, 4).unwrap(), 2);
        assert!(matches!(count(1 << 32, 1), Err(Error::PlaintextTooLong { .. })));
    }

    #[test]
    fn a_final_frame_longer_than_the_frame_length_is_malformed() {
        let mut bytes = vec![];
        write_final_prefix(&mut bytes, 1, iv(1), 5);
        bytes.extend_from_slice(&[0; 21]);
        let error = UnverifiedFrame::read(&mut Reader::new(&bytes, 0), 4).unwrap_err();
        assert!(matches!(
            error,
            Error::Malformed { field: "encrypted content length", offset: 20, .. }
        ));
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(
            is_final: bool,
            sequence_number in 1..u32::MAX,
            iv: [u8; 12],
            content: Vec<u8>,
            tag: [u8; 16],
        ) {
            let frame = UnverifiedFrame {
                is_final,
                sequence_number,
                iv: &iv,
                encrypted_content: &content,
                tag: &tag,
            };
            let bytes = write(&frame);
            let frame_length = u32::try_from(content.len()).unwrap();
            let mut reader = Reader::new(&bytes, 0);
            prop_assert_eq!(UnverifiedFrame::read(&mut reader, frame_length).unwrap(), frame);
            prop_assert_eq!(reader.position(), bytes.len());
        }

        #[test]
        fn writes_what_it_reads(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xFF)], 0..80),
            frame_length in 0u32..16,
        ) {
            let mut reader = Reader::new(&bytes, 0);
            if let Ok(frame) = UnverifiedFrame::read(&mut reader, frame_length) {
                prop_assert_eq!(write(&frame), reader.since(0));
            }
        }

        /// Complete frames fit into the reserved memory, wherever the body is truncated.
        #[test]
        fn the_bound_holds_for_a_truncated_body(
            frames in 0usize..100,
            rest in 0usize..100,
            frame in 1u32..100,
        ) {
            let body = frames * (length(frame) + REGULAR_OVERHEAD) + rest;
            prop_assert!(plaintext_length(body, frame) >= frames * length(frame));
        }

        #[test]
        fn the_bound_is_at_most_8_bytes_too_high(
            plaintext in 0usize..100_000,
            frame in 1u32..5000,
        ) {
            let body = body_length(plaintext, count(plaintext as u64, frame).unwrap());
            prop_assert!((plaintext..=plaintext + 8).contains(&plaintext_length(body, frame)));
        }
    }
}
