//! The additional authenticated data of the body (specification:
//! `data-format/message-body-aad.md`).

const FRAME: &[u8] = b"AWSKMSEncryptionClient Frame";
const FINAL_FRAME: &[u8] = b"AWSKMSEncryptionClient Final Frame";
const SINGLE_BLOCK: &[u8] = b"AWSKMSEncryptionClient Single Block";
const LENGTH: usize = 32 + SINGLE_BLOCK.len() + 4 + 8;

/// The message body AAD: message id, content type, sequence number, content length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyAad {
    bytes: [u8; LENGTH],
    length: usize,
}

impl BodyAad {
    /// Returns the AAD of one frame with `content_length` bytes of plaintext.
    pub(crate) fn of_frame(
        message_id: &[u8],
        is_final: bool,
        sequence_number: u32,
        content_length: usize,
    ) -> Self {
        Self::new(
            message_id,
            if is_final { FINAL_FRAME } else { FRAME },
            sequence_number,
            content_length,
        )
    }

    /// Returns the AAD of a non-framed body.
    pub(crate) fn of_single_block(message_id: &[u8], content_length: usize) -> Self {
        Self::new(message_id, SINGLE_BLOCK, 1, content_length)
    }

    /// `message_id` has at most 32 bytes.
    fn new(message_id: &[u8], content: &[u8], sequence_number: u32, content_length: usize) -> Self {
        let mut aad = Self { bytes: [0; LENGTH], length: 0 };
        aad.append(message_id);
        aad.append(content);
        aad.append(&sequence_number.to_be_bytes());
        aad.append(&(content_length as u64).to_be_bytes());
        aad
    }

    /// Returns the AAD of a frame that differs only in its sequence number.
    #[inline]
    pub(crate) fn with_sequence_number(mut self, sequence_number: u32) -> Self {
        let end = self.length - size_of::<u64>();
        self.bytes[end - size_of::<u32>()..end].copy_from_slice(&sequence_number.to_be_bytes());
        self
    }

    /// Returns the serialized AAD.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn append(&mut self, part: &[u8]) {
        self.bytes[self.length..][..part.len()].copy_from_slice(part);
        self.length += part.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serialization_is_as_specified() {
        let mut expected = vec![7; 32];
        expected.extend_from_slice(
            b"AWSKMSEncryptionClient Frame\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x10\x00",
        );
        assert_eq!(BodyAad::of_frame(&[7; 32], false, 2, 4096).as_bytes(), expected);
        let last = BodyAad::of_frame(&[7; 32], true, 3, 1);
        assert!(
            last.as_bytes()[32..]
                .starts_with(b"AWSKMSEncryptionClient Final Frame\x00\x00\x00\x03")
        );
        let second = BodyAad::of_frame(&[7; 16], false, 2, 9);
        let third = BodyAad::of_frame(&[7; 16], false, 3, 9);
        assert_eq!(second.with_sequence_number(3).as_bytes(), third.as_bytes());
        let single = BodyAad::of_single_block(&[7; 32], 1);
        assert!(
            single.as_bytes()[32..]
                .starts_with(b"AWSKMSEncryptionClient Single Block\x00\x00\x00\x01")
        );
        assert_eq!(single.as_bytes().len(), LENGTH);
    }
}
