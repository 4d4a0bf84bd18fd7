//! RSA encryption of data keys (RFC 8017, section 7), and the PEM texts that RSA keys come in (RFC
//! 7468).
//!
//! AWS-LC does the arithmetic, blinded and in constant time; RustCrypto's `rsa` has an open
//! advisory on the timing of its decryption (RUSTSEC-2023-0071).

use std::fmt;

use aws_lc_rs::{
    encoding::AsDer as _,
    error::{KeyRejected, Unspecified},
    rsa::{
        KeyPair, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384,
        OAEP_SHA512_MGF1SHA512, OaepAlgorithm, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
        Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey, PrivateDecryptingKey,
        PublicEncryptingKey, PublicKey,
    },
};
use zeroize::Zeroizing;

use crate::{data_key::DataKey, error::Error};

/// How a data key is padded before RSA encrypts it (specification:
/// `framework/raw-rsa-keyring.md#supported-padding-schemes`).
///
/// Take [`OaepSha256Mgf1`](Self::OaepSha256Mgf1) or a longer hash unless existing messages or peers
/// say otherwise. No message tells its padding: both sides must agree on it beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RsaPadding {
    /// PKCS #1 v1.5 (RFC 8017, section 7.2). Only for messages and peers that have nothing else.
    ///
    /// An attacker who can submit messages and learn, by a response or its time, whether a wrapped
    /// data key decrypted, can decrypt other wrapped data keys with enough attempts
    /// (Bleichenbacher, 1998). A keyring answers every failure alike, but a wrapped key that does
    /// decrypt leads on to another failure, later and in other words. Don't show strangers why a
    /// message did not open, and limit how often they may try.
    Pkcs1,
    /// OAEP with SHA-1 and MGF1 with SHA-1 (RFC 8017, section 7.1).
    OaepSha1Mgf1,
    /// OAEP with SHA-256 and MGF1 with SHA-256 (RFC 8017, section 7.1).
    OaepSha256Mgf1,
    /// OAEP with SHA-384 and MGF1 with SHA-384 (RFC 8017, section 7.1).
    OaepSha384Mgf1,
    /// OAEP with SHA-512 and MGF1 with SHA-512 (RFC 8017, section 7.1).
    OaepSha512Mgf1,
}

impl RsaPadding {
    /// OAEP's hash functions; `None` for PKCS #1 v1.5.
    fn oaep(self) -> Option<&'static OaepAlgorithm> {
        match self {
            Self::Pkcs1 => None,
            Self::OaepSha1Mgf1 => Some(&OAEP_SHA1_MGF1SHA1),
            Self::OaepSha256Mgf1 => Some(&OAEP_SHA256_MGF1SHA256),
            Self::OaepSha384Mgf1 => Some(&OAEP_SHA384_MGF1SHA384),
            Self::OaepSha512Mgf1 => Some(&OAEP_SHA512_MGF1SHA512),
        }
    }
}

/// An RSA public key of 2048 to 8192 bits: wraps data keys.
#[derive(Clone)]
pub struct RsaPublicKey(PublicEncryptingKey);

impl RsaPublicKey {
    /// The key in a PEM text: `PUBLIC KEY` (X.509 `SubjectPublicKeyInfo`) or `RSA PUBLIC KEY` (PKCS
    /// #1).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when the text is not of that form, or the key not an RSA key of
    /// 2048 to 8192 bits.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let invalid = |problem| Error::invalid_setting("RSA public key", problem);
        let (label, der) = decode_pem(pem).map_err(invalid)?;
        let key = match label {
            "PUBLIC KEY" => PublicEncryptingKey::from_der(&der),
            "RSA PUBLIC KEY" => PublicKey::from_der(&der).and_then(|key| spki(&key)),
            _ => {
                return Err(invalid(
                    "the PEM label is neither `PUBLIC KEY` nor `RSA PUBLIC KEY`".to_owned(),
                ));
            }
        };
        key.map(Self).map_err(rejected).map_err(invalid)
    }

    /// Whether this is the public half of `private_key`.
    pub(crate) fn belongs_to(&self, private_key: &RsaPrivateKey) -> bool {
        let [ours, theirs] = [self, &private_key.public_key].map(|key| key.0.as_der());
        ours.is_ok_and(|ours| theirs.is_ok_and(|theirs| ours.as_ref() == theirs.as_ref()))
    }

    /// Encrypts `data_key`; as long as the key's modulus.
    ///
    /// Fails for a data key that does not fit, and for a key that is restricted to RSA-PSS
    /// signatures.
    pub(crate) fn encrypt(
        &self,
        padding: RsaPadding,
        data_key: &[u8],
    ) -> Result<Vec<u8>, Unspecified> {
        let mut ciphertext = vec![0; self.0.key_size_bytes()];
        let key = self.0.clone(); // one more reference to the same key
        let length = match padding.oaep() {
            None => Pkcs1PublicEncryptingKey::new(key)?.encrypt(data_key, &mut ciphertext)?.len(),
            Some(oaep) => OaepPublicEncryptingKey::new(key)?
                .encrypt(oaep, data_key, &mut ciphertext, None)?
                .len(),
        };
        ciphertext.truncate(length);
        Ok(ciphertext)
    }
}

impl fmt::Debug for RsaPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaPublicKey")
            .field("bits", &self.0.key_size_bits())
            .finish_non_exhaustive()
    }
}

/// An RSA private key of 2048 to 8192 bits: unwraps data keys. Never cloned, never printed; AWS-LC
/// wipes it when it is dropped.
pub struct RsaPrivateKey {
    key: PrivateDecryptingKey,
    /// A copy of the public half. AWS-LC's own is the private key under another name: handed out,
    /// it would keep the private key from being wiped.
    public_key: RsaPublicKey,
}

impl RsaPrivateKey {
    /// The key in a PEM text: `PRIVATE KEY` (PKCS #8) or `RSA PRIVATE KEY` (PKCS #1), not
    /// encrypted.
    ///
    /// Takes the text over and wipes it, and every copy made on the way, whether or not it holds a
    /// key.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when the text is not of that form, or the key not a consistent RSA
    /// key of 2048 to 8192 bits.
    pub fn from_pem(pem: String) -> Result<Self, Error> {
        let pem = Zeroizing::new(pem);
        let invalid = |problem| Error::invalid_setting("RSA private key", problem);
        let (label, der) = decode_pem(&pem).map_err(invalid)?;
        let key = match label {
            "PRIVATE KEY" => PrivateDecryptingKey::from_pkcs8(&der),
            "RSA PRIVATE KEY" => KeyPair::from_der(&der).and_then(|key| pkcs8(&key)),
            _ => {
                return Err(invalid(
                    "the PEM label is neither `PRIVATE KEY` nor `RSA PRIVATE KEY`".to_owned(),
                ));
            }
        };
        key.and_then(Self::new).map_err(rejected).map_err(invalid)
    }

    fn new(key: PrivateDecryptingKey) -> Result<Self, KeyRejected> {
        let public_key =
            RsaPublicKey(PublicEncryptingKey::from_der(key.public_key().as_der()?.as_ref())?);
        Ok(Self { key, public_key })
    }

    /// The public half, alone: it keeps nothing of the private one.
    #[must_use]
    pub fn public_key(&self) -> RsaPublicKey {
        self.public_key.clone()
    }

    /// Decrypts a data key. Fails without saying why, and for any length but that of the key's
    /// modulus.
    pub(crate) fn decrypt(
        &self,
        padding: RsaPadding,
        ciphertext: &[u8],
    ) -> Result<DataKey, Unspecified> {
        let mut buffer = Zeroizing::new(vec![0; self.key.key_size_bytes()]);
        let key = self.key.clone(); // one more reference to the same key
        let data_key = match padding.oaep() {
            None => Pkcs1PrivateDecryptingKey::new(key)?.decrypt(ciphertext, &mut buffer)?,
            Some(oaep) => {
                OaepPrivateDecryptingKey::new(key)?.decrypt(oaep, ciphertext, &mut buffer, None)?
            }
        };
        Ok(DataKey::copied_from(data_key))
    }
}

impl fmt::Debug for RsaPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaPrivateKey")
            .field("bits", &self.key.key_size_bits())
            .finish_non_exhaustive()
    }
}

/// A PEM text's label and content. The error for an invalid text says why, but quotes nothing of
/// it.
fn decode_pem(pem: &str) -> Result<(&str, Zeroizing<Vec<u8>>), String> {
    let not_pem = |cause: pem_rfc7468::Error| format!("not one PEM text: {cause}");
    let mut decoder =
        pem_rfc7468::Decoder::new_detect_wrap(pem.trim().as_bytes()).map_err(not_pem)?;
    // Decoded where it stays, so that no growing buffer leaves a copy behind.
    let mut der = Zeroizing::new(vec![0; decoder.remaining_len()]);
    decoder.decode(&mut der).map_err(not_pem)?;
    Ok((decoder.type_label(), der))
}

/// From PKCS #1 (RFC 8017, appendix A.1.1) by way of the only form that AWS-LC encrypts with.
fn spki(key: &PublicKey) -> Result<PublicEncryptingKey, KeyRejected> {
    PublicEncryptingKey::from_der(key.as_der()?.as_ref())
}

/// From PKCS #1 (RFC 8017, appendix A.1.2) by way of the only form that AWS-LC decrypts with; it
/// wipes that form.
fn pkcs8(key: &KeyPair) -> Result<PrivateDecryptingKey, KeyRejected> {
    PrivateDecryptingKey::from_pkcs8(key.as_der()?.as_ref())
}

fn rejected(cause: KeyRejected) -> String {
    format!("AWS-LC refuses it ({cause}): an RSA key of 2048 to 8192 bits is needed")
}
