//! Forged messages that look valid: what attackers can write if they have seen one real message.

use fastrand::Rng;

/// The bytes of a ciphertext of kms-local before its random part: version and key id.
const CIPHERTEXT_HEAD: usize = 1 + 16;

/// The parts of a message around its wrapped data key (message format 2.0).
#[derive(Clone)]
pub(super) struct Forger {
    head: Vec<u8>,
    /// Provider, information and ciphertext of the wrapped data key.
    wrapped: [Vec<u8>; 3],
    tail: Vec<u8>,
}

impl Forger {
    /// Splits a message that has one wrapped data key.
    pub(super) fn new(message: &[u8]) -> Self {
        let length_at = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
        // Version, suite, message id, and the encryption context after its length.
        let start = 1 + 2 + 32 + 2 + length_at(35);
        let mut at = start + 2;
        let wrapped = [(); 3].map(|()| {
            let field = message[at + 2..at + 2 + length_at(at)].to_vec();
            at += 2 + field.len();
            field
        });
        Self { head: message[..start].to_vec(), wrapped, tail: message[at..].to_vec() }
    }

    /// The message with wrapped data keys that name the real KMS key and cannot be unwrapped.
    pub(super) fn garbage(&self, keys: usize, random: &mut Rng) -> Vec<u8> {
        let garbage = (0..keys).map(|_| {
            let mut wrapped = self.wrapped.clone();
            random.fill(&mut wrapped[2][CIPHERTEXT_HEAD..]);
            wrapped
        });
        self.with(&garbage.collect::<Vec<_>>())
    }

    /// The message with its real wrapped data key, followed by unknown ones of this total size. Its
    /// header is not authentic.
    pub(super) fn padded(&self, bytes: usize, random: &mut Rng) -> Vec<u8> {
        const MAX_LENGTH: usize = 60_000;
        let mut all = vec![self.wrapped.clone()];
        let mut left = bytes;
        while left > 0 {
            let mut ciphertext = vec![0; left.min(MAX_LENGTH)];
            left -= ciphertext.len();
            let filled = ciphertext.len().min(32);
            random.fill(&mut ciphertext[..filled]);
            all.push([b"nobody".to_vec(), b"nothing".to_vec(), ciphertext]);
        }
        self.with(&all)
    }

    fn with(&self, keys: &[[Vec<u8>; 3]]) -> Vec<u8> {
        let length = |length: usize| u16::try_from(length).expect("it fits").to_be_bytes();
        let mut message = self.head.clone();
        message.extend(length(keys.len()));
        for field in keys.iter().flatten() {
            message.extend(length(field.len()));
            message.extend_from_slice(field);
        }
        message.extend_from_slice(&self.tail);
        message
    }
}

#[cfg(test)]
mod tests {
    use benches::{context, warm};
    use envelope::Error;

    use super::*;

    #[test]
    fn forged_messages_parse_and_have_the_requested_keys() {
        let (envelope, context, mut random) = (warm().unwrap(), context(), Rng::with_seed(1));
        let message = envelope.try_encrypt(b"x", &context).unwrap();
        let forger = Forger::new(&message);
        assert_eq!(forger.with(std::slice::from_ref(&forger.wrapped)), message);
        let decrypt = |message: Vec<u8>| envelope.blocking().decrypt(&message, &context);
        let error = decrypt(forger.garbage(16, &mut random)).unwrap_err();
        assert!(matches!(error, Error::DataKeyNotUnwrapped { .. }), "{error}");
        let padded = forger.padded(150_000, &mut random);
        assert!(padded.len() > 150_000);
        let error = decrypt(padded).unwrap_err();
        assert!(matches!(error, Error::Authentication), "{error}");
    }
}
