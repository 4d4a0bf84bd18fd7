//! ECDSA signatures of messages (specification: `framework/transitive-requirements.md#ecdsa`).
//!
//! AWS-LC implements them. Without the feature `aws-lc-rs`, signed suites are not available.

use crate::{error::Error, suite::Curve};

/// A signature covers the header and the body of a message, which are hashed incrementally.
pub(crate) use self::backend::{Signer, SigningKey, VerificationKey, Verifier};

/// Returns the error that names the missing feature.
#[cfg(not(feature = "aws-lc-rs"))]
fn unavailable<T>() -> Result<T, Error> {
    Err(Error::invalid_setting("suite", "signed suites need the feature `aws-lc-rs`"))
}

#[cfg(feature = "aws-lc-rs")]
mod backend {
    use std::fmt;

    use aws_lc_rs::{
        digest::{Context, SHA256, SHA384},
        encoding::{AsBigEndian, EcPublicKeyCompressedBin},
        signature::{
            ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1,
            ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
        },
    };

    use super::{Curve, Error};

    /// A key pair. AWS-LC wipes the private key when it frees it.
    pub(crate) struct SigningKey {
        pair: EcdsaKeyPair,
        curve: Curve,
    }

    impl SigningKey {
        /// Generates a key pair.
        ///
        /// # Errors
        ///
        /// [`Error::Random`] when the random number generator fails.
        pub(crate) fn generate(curve: Curve) -> Result<Self, Error> {
            let algorithm = match curve {
                Curve::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
                Curve::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            };
            let pair = EcdsaKeyPair::generate(algorithm)
                .map_err(|cause| Error::Random(std::sync::Arc::new(cause)))?;
            Ok(Self { pair, curve })
        }

        /// Returns the public key as a compressed point (SEC 1, section 2.3.3).
        pub(crate) fn public_key(&self) -> Vec<u8> {
            let point: EcPublicKeyCompressedBin<'_> =
                self.pair.public_key().as_be_bytes().expect("a generated key has a point");
            point.as_ref().to_vec()
        }

        /// Starts a signature.
        pub(crate) fn signer(&self) -> Signer {
            Signer(hash(self.curve))
        }
    }

    impl fmt::Debug for SigningKey {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("SigningKey").field("curve", &self.curve).finish_non_exhaustive()
        }
    }

    /// Hashes the bytes of a message and signs the hash.
    pub(crate) struct Signer(Context);

    impl Signer {
        /// Hashes the next bytes of the message.
        pub(crate) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        /// Returns the signature, an `ECDSA-Sig-Value` in DER.
        ///
        /// # Errors
        ///
        /// [`Error::Random`] when the random number generator fails.
        pub(crate) fn sign(self, key: &SigningKey) -> Result<Vec<u8>, Error> {
            let signature = key.pair.sign_digest(&self.0.finish());
            let signature = signature.map_err(|cause| Error::Random(std::sync::Arc::new(cause)))?;
            Ok(signature.as_ref().to_vec())
        }
    }

    /// A public key on a curve.
    pub(crate) struct VerificationKey {
        key: ParsedPublicKey,
        curve: Curve,
    }

    impl VerificationKey {
        /// Parses a compressed point; `None` when it is not on the curve.
        pub(crate) fn from_point(curve: Curve, point: &[u8]) -> Option<Self> {
            let length = match curve {
                Curve::P256 => 33,
                Curve::P384 => 49,
            };
            let algorithm = match curve {
                Curve::P256 => &ECDSA_P256_SHA256_ASN1,
                Curve::P384 => &ECDSA_P384_SHA384_ASN1,
            };
            let key = (point.len() == length)
                .then(|| ParsedPublicKey::new(algorithm, point))
                .and_then(Result::ok)?;
            Some(Self { key, curve })
        }

        /// Starts a verification.
        pub(crate) fn verifier(&self) -> Verifier {
            Verifier(hash(self.curve))
        }
    }

    impl fmt::Debug for VerificationKey {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("VerificationKey").field("curve", &self.curve).finish_non_exhaustive()
        }
    }

    /// Hashes the bytes of a message and verifies a signature of the hash.
    pub(crate) struct Verifier(Context);

    impl Verifier {
        /// Hashes the next bytes of the message.
        pub(crate) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        /// Returns whether `signature` is valid for the bytes.
        pub(crate) fn verify(self, key: &VerificationKey, signature: &[u8]) -> bool {
            key.key.verify_digest_sig(&self.0.finish(), signature).is_ok()
        }
    }

    fn hash(curve: Curve) -> Context {
        Context::new(match curve {
            Curve::P256 => &SHA256,
            Curve::P384 => &SHA384,
        })
    }
}

#[cfg(not(feature = "aws-lc-rs"))]
mod backend {
    use super::{Curve, Error, unavailable};

    /// Cannot be created without the feature `aws-lc-rs`.
    #[derive(Debug)]
    pub(crate) enum SigningKey {}

    impl SigningKey {
        pub(crate) fn generate(_: Curve) -> Result<Self, Error> {
            unavailable()
        }

        pub(crate) fn public_key(&self) -> Vec<u8> {
            match *self {}
        }

        pub(crate) fn signer(&self) -> Signer {
            match *self {}
        }
    }

    pub(crate) enum Signer {}

    impl Signer {
        pub(crate) fn update(&mut self, _: &[u8]) {
            match *self {}
        }

        pub(crate) fn sign(self, _: &SigningKey) -> Result<Vec<u8>, Error> {
            match self {}
        }
    }

    /// Cannot be created without the feature `aws-lc-rs`.
    #[derive(Debug)]
    pub(crate) enum VerificationKey {}

    impl VerificationKey {
        pub(crate) fn from_point(_: Curve, _: &[u8]) -> Option<Self> {
            None
        }

        pub(crate) fn verifier(&self) -> Verifier {
            match *self {}
        }
    }

    pub(crate) enum Verifier {}

    impl Verifier {
        pub(crate) fn update(&mut self, _: &[u8]) {
            match *self {}
        }

        pub(crate) fn verify(self, _: &VerificationKey, _: &[u8]) -> bool {
            match self {}
        }
    }
}

#[cfg(all(test, feature = "aws-lc-rs"))]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_valid_only_for_the_same_bytes() {
        for curve in [Curve::P256, Curve::P384] {
            let key = SigningKey::generate(curve).unwrap();
            let mut signer = key.signer();
            signer.update(b"mess");
            signer.update(b"age");
            let signature = signer.sign(&key).unwrap();
            let public = VerificationKey::from_point(curve, &key.public_key()).unwrap();
            let verifies = |bytes: &[u8]| {
                let mut verifier = public.verifier();
                verifier.update(bytes);
                verifier.verify(&public, &signature)
            };
            assert!(verifies(b"message"));
            assert!(!verifies(b"massage"));
        }
    }

    #[test]
    fn invalid_points_are_refused() {
        for curve in [Curve::P256, Curve::P384] {
            let mut point = SigningKey::generate(curve).unwrap().public_key();
            assert!(VerificationKey::from_point(curve, &point[..10]).is_none());
            point[0] = 9;
            assert!(VerificationKey::from_point(curve, &point).is_none());
        }
    }
}
