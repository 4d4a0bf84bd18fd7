//! AES-GCM with 12-byte nonces and 16-byte tags (NIST SP 800-38D), in place.
//!
//! [`Key`] is the backend in use: AWS-LC with the feature `aws-lc-rs`, RustCrypto otherwise. A
//! differential test checks that both backends agree.

use zeroize::Zeroize;

/// Length of a nonce (the specification's IV) in bytes.
pub(crate) const NONCE_LENGTH: usize = 12;
/// Length of an authentication tag in bytes.
pub(crate) const TAG_LENGTH: usize = 16;

#[cfg(feature = "aws-lc-rs")]
pub(crate) use self::aws_lc::Key;
#[cfg(not(feature = "aws-lc-rs"))]
pub(crate) use self::rust_crypto::Key;
/// RustCrypto's backend, for comparison with the one in use.
#[cfg(any(fuzzing, test))]
pub(crate) use self::rust_crypto::Key as Portable;

/// The tag did not match. Gives no details, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unauthenticated;

#[cfg(feature = "aws-lc-rs")]
mod aws_lc {
    use aws_lc_rs::aead::{
        AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey,
    };

    use super::{NONCE_LENGTH, TAG_LENGTH, Unauthenticated, Zeroize};

    /// An AES-GCM key of AWS-LC, which wipes it when it frees it.
    pub(crate) struct Key(LessSafeKey);

    impl Key {
        /// Creates a key from 16, 24 or 32 bytes; `None` for any other length.
        pub(crate) fn new(key: &[u8]) -> Option<Self> {
            let algorithm = match key.len() {
                16 => &AES_128_GCM,
                24 => &AES_192_GCM,
                32 => &AES_256_GCM,
                _ => return None,
            };
            UnboundKey::new(algorithm, key).ok().map(|key| Self(LessSafeKey::new(key)))
        }

        /// Encrypts `in_out` in place and returns its tag.
        pub(crate) fn seal(
            &self,
            nonce: [u8; NONCE_LENGTH],
            aad: &[u8],
            in_out: &mut [u8],
        ) -> [u8; TAG_LENGTH] {
            let tag = self
                .0
                .seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    in_out,
                )
                .expect("a frame is shorter than AES-GCM's limit of 2^36 - 32 bytes");
            let mut bytes = [0; TAG_LENGTH];
            bytes.copy_from_slice(tag.as_ref());
            bytes
        }

        /// Decrypts `in_out` in place if `tag` is valid, and wipes it otherwise.
        pub(crate) fn open(
            &self,
            nonce: [u8; NONCE_LENGTH],
            aad: &[u8],
            in_out: &mut [u8],
            tag: &[u8; TAG_LENGTH],
        ) -> Result<(), Unauthenticated> {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let opened =
                self.0.open_in_place_separate_tag(nonce, Aad::from(aad), tag, in_out).is_ok();
            opened.then_some(()).ok_or(Unauthenticated).inspect_err(|_| in_out.zeroize())
        }
    }
}

#[cfg(any(fuzzing, test, not(feature = "aws-lc-rs")))]
mod rust_crypto {
    use aes_gcm::{
        Aes128Gcm, Aes256Gcm, AesGcm, KeyInit, Nonce, Tag,
        aead::{AeadInOut, consts::U12, inout::InOutBuf},
        aes::Aes192,
    };

    use super::{NONCE_LENGTH, TAG_LENGTH, Unauthenticated, Zeroize};
    use crate::crypto::stack;

    /// An AES-GCM key of RustCrypto, wiped on drop.
    ///
    /// The key is created on the stack and then moved, and encryption copies round keys to the
    /// stack. Each method therefore uses the key in a function that is not inlined, and wipes the
    /// stack of that function afterwards.
    pub(crate) struct Key(Box<Cipher>);

    /// The number of frames of 2,000 bytes to wipe: more stack than these functions use in a
    /// release build. With 10 KiB, the test `residency` finds no copies left.
    const FRAMES: u32 = 8;

    enum Cipher {
        Aes128(Aes128Gcm),
        Aes192(AesGcm<Aes192, U12>),
        Aes256(Aes256Gcm),
    }

    impl Key {
        /// Creates a key from 16, 24 or 32 bytes; `None` for any other length.
        pub(crate) fn new(key: &[u8]) -> Option<Self> {
            let made = Self::new_on_stack(key);
            stack::wipe(FRAMES);
            made
        }

        #[inline(never)]
        fn new_on_stack(key: &[u8]) -> Option<Self> {
            let cipher = match key.len() {
                16 => Cipher::Aes128(Aes128Gcm::new_from_slice(key).ok()?),
                24 => Cipher::Aes192(AesGcm::new_from_slice(key).ok()?),
                32 => Cipher::Aes256(Aes256Gcm::new_from_slice(key).ok()?),
                _ => return None,
            };
            Some(Self(Box::new(cipher)))
        }

        /// Encrypts `in_out` in place and returns its tag.
        pub(crate) fn seal(
            &self,
            nonce: [u8; NONCE_LENGTH],
            aad: &[u8],
            in_out: &mut [u8],
        ) -> [u8; TAG_LENGTH] {
            let tag = self.seal_on_stack(nonce, aad, in_out);
            stack::wipe(FRAMES);
            tag
        }

        #[inline(never)]
        fn seal_on_stack(
            &self,
            nonce: [u8; NONCE_LENGTH],
            aad: &[u8],
            in_out: &mut [u8],
        ) -> [u8; TAG_LENGTH] {
            let nonce = Nonce::from(nonce);
            let buffer = InOutBuf::from(in_out);
            match &*self.0 {
                Cipher::Aes128(cipher) => cipher.encrypt_inout_detached(&nonce, aad, buffer),
                Cipher::Aes192(cipher) => cipher.encrypt_inout_detached(&nonce, aad, buffer),
                Cipher::Aes256(cipher) => cipher.encrypt_inout_detached(&nonce, aad, buffer),
            }
            .expect("a frame is shorter than AES-GCM's limit of 2^36 - 32 bytes")
            .into()
        }

        /// Decrypts `in_out` in place if `tag` is valid, and wipes it otherwise.
        pub(crate) fn open(
            &self,
            nonce: [u8; NONCE_LENGTH],
            aad: &[u8],
            in_out: &mut [u8],
            tag: &[u8; TAG_LENGTH],
        ) -> Result<(), Unauthenticated> {
            let opened = self.open_on_stack(nonce, aad, in_out, tag);
            stack::wipe(FRAMES);
            opened
        }

        #[inline(never)]
        fn open_on_stack(
            &self,
            nonce: [u8; NONCE_LENGTH],
            aad: &[u8],
            in_out: &mut [u8],
            tag: &[u8; TAG_LENGTH],
        ) -> Result<(), Unauthenticated> {
            let nonce = Nonce::from(nonce);
            let tag = Tag::from(*tag);
            let buffer = InOutBuf::from(&mut *in_out);
            match &*self.0 {
                Cipher::Aes128(cipher) => cipher.decrypt_inout_detached(&nonce, aad, buffer, &tag),
                Cipher::Aes192(cipher) => cipher.decrypt_inout_detached(&nonce, aad, buffer, &tag),
                Cipher::Aes256(cipher) => cipher.decrypt_inout_detached(&nonce, aad, buffer, &tag),
            }
            .map_err(|_| Unauthenticated)
            .inspect_err(|_| in_out.zeroize())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_key_lengths_are_refused() {
        for length in [0, 15, 17, 31, 33] {
            assert!(Key::new(&vec![0; length]).is_none());
            assert!(Portable::new(&vec![0; length]).is_none());
        }
    }

    /// Test case 16 of NIST's GCM specification (AES-256, 60 bytes, 20 bytes of additional data).
    #[test]
    fn agrees_with_a_known_answer() {
        let key = hex::decode("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
            .unwrap();
        let nonce = *b"\xca\xfe\xba\xbe\xfa\xce\xdb\xad\xde\xca\xf8\x88";
        let aad = hex::decode("feedfacedeadbeeffeedfacedeadbeefabaddad2").unwrap();
        let mut text = hex::decode(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e24\
             49a6b525b16aedf5aa0de657ba637b39",
        )
        .unwrap();
        let tag = Key::new(&key).unwrap().seal(nonce, &aad, &mut text);
        assert_eq!(hex::encode(tag), "76fc6ece0f4e1768cddf8853bb2d551b");
        assert!(hex::encode(text).starts_with("522dc1f099567d07f47f37a32a84427d"));
    }

    #[test]
    fn a_wrong_tag_wipes_the_buffer() {
        let key = [1; 32];
        let mut text = *b"plaintext";
        let mut tag = Key::new(&key).unwrap().seal([0; 12], b"", &mut text);
        tag[0] ^= 1;
        let mut again = text;
        assert_eq!(
            Key::new(&key).unwrap().open([0; 12], b"", &mut text, &tag),
            Err(Unauthenticated)
        );
        assert_eq!(
            Portable::new(&key).unwrap().open([0; 12], b"", &mut again, &tag),
            Err(Unauthenticated)
        );
        assert_eq!((text, again), ([0; 9], [0; 9]));
    }

    proptest! {
        #[test]
        fn backends_agree(
            key in prop_oneof![Just(16), Just(24), Just(32)]
                .prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length)),
            nonce: [u8; 12],
            aad: Vec<u8>,
            plaintext in proptest::collection::vec(any::<u8>(), 0..5000),
        ) {
            let one = Key::new(&key).unwrap();
            let other = Portable::new(&key).unwrap();
            let mut a = plaintext.clone();
            let mut b = plaintext.clone();
            let tag_a = one.seal(nonce, &aad, &mut a);
            let tag_b = other.seal(nonce, &aad, &mut b);
            prop_assert_eq!((&a, tag_a), (&b, tag_b));
            prop_assert_eq!(other.open(nonce, &aad, &mut a, &tag_a), Ok(()));
            prop_assert_eq!(one.open(nonce, &aad, &mut b, &tag_b), Ok(()));
            prop_assert_eq!((&a, &b), (&plaintext, &plaintext));
        }
    }
}
