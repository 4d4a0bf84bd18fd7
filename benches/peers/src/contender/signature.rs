//! What suite 0x0578 adds to 0x0478: ECDSA over P-384, by AWS-LC.

use std::error::Error;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};

use super::{Contender, version_of};

/// Signing and verification alone. What it seals is the text with its signature after it.
pub(super) struct Signature {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Signature {
    pub(super) fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            key: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)?,
            random: SystemRandom::new(),
        })
    }
}

impl Contender for Signature {
    fn version(&self) -> String {
        format!("aws-lc-rs {}", version_of("aws-lc-rs"))
    }

    fn encrypt(&self, text: &[u8]) -> Vec<u8> {
        let signature = self.key.sign(&self.random, text).expect("a key pair signs");
        let length = u8::try_from(signature.as_ref().len()).expect("a signature is short");
        [text, signature.as_ref(), &[length]].concat()
    }

    fn decrypt(&self, signed: &[u8]) -> Vec<u8> {
        let (length, rest) = signed.split_last().expect("a length");
        let (text, signature) = rest.split_at(rest.len() - usize::from(*length));
        let public_key =
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, self.key.public_key().as_ref());
        public_key.verify(text, signature).expect("the same key pair signed it");
        text.to_vec()
    }
}

/// The making of a key pair alone, instead of sealing.
pub(super) struct KeyPair;

impl Contender for KeyPair {
    fn version(&self) -> String {
        format!("aws-lc-rs {}", version_of("aws-lc-rs"))
    }

    fn encrypt(&self, _: &[u8]) -> Vec<u8> {
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)
            .expect("a machine with random numbers");
        key.public_key().as_ref().to_vec()
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        message.to_vec()
    }
}
