//! Forged messages that look valid: what an attacker can write who has seen one real message.

use fastrand::Rng;

/// The bytes of a blob of kms-local before its random part: version and key id.
const BLOB_HEAD: usize = 1 + 16;

/// The parts of a message around its wrapped data keys (message format 2.0).
#[derive(Debug, Clone)]
pub(super) struct Forger {
    head: Vec<u8>,
    wrapped: Wrapped,
    tail: Vec<u8>,
}

/// One wrapped data key.
#[derive(Debug, Clone)]
struct Wrapped {
    provider: Vec<u8>,
    information: Vec<u8>,
    ciphertext: Vec<u8>,
}

impl Forger {
    /// Splits a message that has one wrapped key.
    pub(super) fn new(message: &[u8]) -> Self {
        // Version, suite, message id, and the encryption context after its length.
        let start = 1 + 2 + 32 + 2 + length_at(message, 35);
        let mut at = start + 2;
        let mut field = || {
            let length = length_at(message, at);
            let bytes = message[at + 2..at + 2 + length].to_vec();
            at += 2 + length;
            bytes
        };
        let wrapped = Wrapped { provider: field(), information: field(), ciphertext: field() };
        Self { head: message[..start].to_vec(), wrapped, tail: message[at..].to_vec() }
    }

    /// The message with `keys` wrapped keys that name the real KMS key but cannot be unwrapped.
    pub(super) fn garbage(&self, keys: usize, random: &mut Rng) -> Vec<u8> {
        let all = (0..keys).map(|_| {
            let mut garbage = self.wrapped.clone();
            random.fill(&mut garbage.ciphertext[BLOB_HEAD..]);
            garbage
        });
        self.with(&all.collect::<Vec<_>>())
    }

    /// The message with its real wrapped key, followed by unknown ones of this total size, and with
    /// a header that is not authentic.
    pub(super) fn padded(&self, bytes: usize, random: &mut Rng) -> Vec<u8> {
        const LONGEST: usize = 60_000;
        let mut all = vec![self.wrapped.clone()];
        let mut left = bytes;
        while left > 0 {
            let mut ciphertext = vec![0; left.min(LONGEST)];
            left -= ciphertext.len();
            let filled = ciphertext.len().min(32);
            random.fill(&mut ciphertext[..filled]);
            all.push(Wrapped {
                provider: b"nobody".to_vec(),
                information: b"nothing".to_vec(),
                ciphertext,
            });
        }
        self.with(&all)
    }

    fn with(&self, keys: &[Wrapped]) -> Vec<u8> {
        let mut message = self.head.clone();
        push_length(&mut message, keys.len());
        for Wrapped { provider, information, ciphertext } in keys {
            for field in [provider, information, ciphertext] {
                push_length(&mut message, field.len());
                message.extend_from_slice(field);
            }
        }
        message.extend_from_slice(&self.tail);
        message
    }
}

fn length_at(message: &[u8], at: usize) -> usize {
    u16::from_be_bytes([message[at], message[at + 1]]).into()
}

fn push_length(message: &mut Vec<u8>, length: usize) {
    let length = u16::try_from(length).expect("forged values fit their fields");
    message.extend_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn forged_messages_parse_and_have_the_requested_keys() {
        let envelope = crate::warm().await.unwrap();
        let context = crate::context().unwrap();
        let message = envelope.encrypt(b"x", &context).await.unwrap();
        let (forger, mut random) = (Forger::new(&message), Rng::with_seed(1));
        assert_eq!(forger.with(std::slice::from_ref(&forger.wrapped)), message);
        let error = envelope.decrypt(&forger.garbage(16, &mut random), &context).await.unwrap_err();
        assert!(matches!(error, envelope::Error::DataKeyNotUnwrapped { .. }), "{error}");
        let padded = forger.padded(150_000, &mut random);
        assert!(padded.len() > 150_000);
        let error = envelope.decrypt(&padded, &context).await.unwrap_err();
        assert!(matches!(error, envelope::Error::Authentication), "{error}");
    }
}
