//! ECDSA over messages (specification: `framework/transitive-requirements.md#ecdsa`), by AWS-LC.
//! Without the feature `aws-lc-rs` no signed suite is written or opened.

use crate::{error::Error, suite::Curve};

/// A message's signature is over its header and body; both are hashed as they pass.
pub(crate) use self::backend::{Signer, SigningKey, VerificationKey, Verifier};

/// Names the feature that is missing.
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

    /// A private key that AWS-LC wipes when it frees it, and its public key.
    pub(crate) struct SigningKey {
        pair: EcdsaKeyPair,
        curve: Curve,
    }

    impl SigningKey {
        /// A new key.
        ///
        /// # Errors
        ///
        /// [`Error::Random`] when there are no random numbers to make it from.
        pub(crate) fn generate(curve: Curve) -> Result<Self, Error> {
            let algorithm = match curve {
                Curve::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
                Curve::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            };
            let pair = EcdsaKeyPair::generate(algorithm)
                .map_err(|cause| Error::Random(std::sync::Arc::new(cause)))?;
            Ok(Self { pair, curve })
        }

        /// The public key as a compressed point (SEC 1, section 2.3.3).
        pub(crate) fn public_key(&self) -> Vec<u8> {
            let point: EcPublicKeyCompressedBin<'_> =
                self.pair.public_key().as_be_bytes().expect("a generated key has a point");
            point.as_ref().to_vec()
        }

        /// A signature to be.
        pub(crate) fn signer(&self) -> Signer {
            Signer(hash(self.curve))
        }
    }

    impl fmt::Debug for SigningKey {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("SigningKey").field("curve", &self.curve).finish_non_exhaustive()
        }
    }

    /// Hashes the written bytes, to sign them at the end.
    pub(crate) struct Signer(Context);

    impl Signer {
        /// The next bytes of the message.
        pub(crate) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        /// The signature, as `ECDSA-Sig-Value` in DER.
        ///
        /// # Errors
        ///
        /// [`Error::Random`] when there are no random numbers to sign with.
        pub(crate) fn sign(self, key: &SigningKey) -> Result<Vec<u8>, Error> {
            let signature = key.pair.sign_digest(&self.0.finish());
            let signature = signature.map_err(|cause| Error::Random(std::sync::Arc::new(cause)))?;
            Ok(signature.as_ref().to_vec())
        }
    }

    /// A public key.
    pub(crate) struct VerificationKey {
        key: ParsedPublicKey,
        curve: Curve,
    }

    impl VerificationKey {
        /// The key at this compressed point; `None` when it is not one of the curve.
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

        /// A verification to be.
        pub(crate) fn verifier(&self) -> Verifier {
            Verifier(hash(self.curve))
        }
    }

    impl fmt::Debug for VerificationKey {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("VerificationKey").field("curve", &self.curve).finish_non_exhaustive()
        }
    }

    /// Hashes the read bytes, to verify their signature at the end.
    pub(crate) struct Verifier(Context);

    impl Verifier {
        /// The next bytes of the message.
        pub(crate) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        /// Whether `signature` is one over all bytes.
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

    /// None can be made.
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

    /// None can be made.
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
    fn a_signature_verifies_over_the_same_bytes_alone() {
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
    fn points_off_the_curve_are_refused() {
        for curve in [Curve::P256, Curve::P384] {
            let mut point = SigningKey::generate(curve).unwrap().public_key();
            assert!(VerificationKey::from_point(curve, &point[..10]).is_none());
            point[0] = 9;
            assert!(VerificationKey::from_point(curve, &point).is_none());
        }
    }
}
