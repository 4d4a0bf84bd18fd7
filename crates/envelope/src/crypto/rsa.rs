//! RSA encryption of data keys (RFC 8017, section 7), and RSA keys in PEM (RFC 7468).
//!
//! AWS-LC implements RSA with blinding and in constant time. RustCrypto's `rsa` has an open
//! advisory about the timing of its decryption (RUSTSEC-2023-0071).

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

use super::kdf;
use crate::{data_key::DataKey, error::Error};

/// The padding of a data key before RSA encryption (specification:
/// `framework/raw-rsa-keyring.md#supported-padding-schemes`).
///
/// Use [`OaepSha256Mgf1`](Self::OaepSha256Mgf1) or a longer hash, unless existing messages or other
/// clients need something else. Messages do not store the padding: both sides must use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RsaPadding {
    /// PKCS #1 v1.5 (RFC 8017, section 7.2). Only for messages and clients that support nothing
    /// else.
    ///
    /// An attacker who can submit messages and learn from a response, or from its time, whether an
    /// encrypted data key could be decrypted, can decrypt other data keys with enough attempts
    /// (Bleichenbacher, 1998). The keyring returns the same error for every failure. But if an
    /// attacker's key does decrypt, the message fails later with another error. Do not tell
    /// untrusted clients why decryption failed, and limit how often they can try.
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
    /// Returns the hash functions of OAEP; `None` for PKCS #1 v1.5.
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

/// An RSA public key of 2048 to 8192 bits, which encrypts data keys.
#[derive(Clone)]
pub struct RsaPublicKey(PublicEncryptingKey);

impl RsaPublicKey {
    /// Parses a PEM text: `PUBLIC KEY` (X.509 `SubjectPublicKeyInfo`) or `RSA PUBLIC KEY` (PKCS
    /// #1).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when the text has another form, or the key is not an RSA key of
    /// 2048 to 8192 bits.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let invalid = |problem| Error::invalid_setting("RSA public key", problem);
        let (label, der) = decode_pem(pem).map_err(invalid)?;
        let key = match label {
            "PUBLIC KEY" => PublicEncryptingKey::from_der(&der),
            "RSA PUBLIC KEY" => PublicKey::from_der(&der).and_then(|key| spki(&key)),
            _ => {
                return Err(invalid(
                    "expected the PEM label `PUBLIC KEY` or `RSA PUBLIC KEY`".to_owned(),
                ));
            }
        };
        key.map(Self).map_err(rejected).map_err(invalid)
    }

    /// Returns whether this is the public key of `private_key`.
    pub(crate) fn belongs_to(&self, private_key: &RsaPrivateKey) -> bool {
        let [ours, theirs] = [self, &private_key.public_key].map(|key| key.0.as_der());
        ours.is_ok_and(|ours| theirs.is_ok_and(|theirs| ours.as_ref() == theirs.as_ref()))
    }

    /// Returns a value that tells keys apart.
    pub(crate) fn fingerprint(&self) -> Option<u64> {
        self.0.as_der().ok().map(|der| kdf::fingerprint(der.as_ref()))
    }

    /// Encrypts `data_key`. The ciphertext has the length of the modulus.
    ///
    /// Fails for a data key that is too long, and for a key that is restricted to RSA-PSS
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

/// An RSA private key of 2048 to 8192 bits, which decrypts data keys.
///
/// It cannot be cloned or printed, and AWS-LC wipes it when it is dropped.
pub struct RsaPrivateKey {
    key: PrivateDecryptingKey,
    /// A copy of the public key. AWS-LC's own public key shares memory with the private key, which
    /// would not be wiped as long as the public key exists.
    public_key: RsaPublicKey,
}

impl RsaPrivateKey {
    /// Parses an unencrypted PEM text: `PRIVATE KEY` (PKCS #8) or `RSA PRIVATE KEY` (PKCS #1).
    ///
    /// Wipes the text and all copies of it, even if parsing fails.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when the text has another form, or the key is not a consistent RSA
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
                    "expected the PEM label `PRIVATE KEY` or `RSA PRIVATE KEY`".to_owned(),
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

    /// Returns the public key, which keeps nothing of the private key alive.
    #[must_use]
    pub fn public_key(&self) -> RsaPublicKey {
        self.public_key.clone()
    }

    /// Decrypts a data key. Fails for any length but that of the modulus, and never says why.
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

/// Returns the label and the content of a PEM text. Errors quote nothing of the text.
fn decode_pem(pem: &str) -> Result<(&str, Zeroizing<Vec<u8>>), String> {
    let not_pem = |cause: pem_rfc7468::Error| format!("expected one PEM text: {cause}");
    let mut decoder =
        pem_rfc7468::Decoder::new_detect_wrap(pem.trim().as_bytes()).map_err(not_pem)?;
    // The buffer has its final size, so that it leaves no copy behind by growing.
    let mut der = Zeroizing::new(vec![0; decoder.remaining_len()]);
    decoder.decode(&mut der).map_err(not_pem)?;
    Ok((decoder.type_label(), der))
}

/// Converts PKCS #1 (RFC 8017, appendix A.1.1) to the only form that AWS-LC encrypts with.
fn spki(key: &PublicKey) -> Result<PublicEncryptingKey, KeyRejected> {
    PublicEncryptingKey::from_der(key.as_der()?.as_ref())
}

/// Converts PKCS #1 (RFC 8017, appendix A.1.2) to the only form that AWS-LC decrypts with. AWS-LC
/// wipes the converted key.
fn pkcs8(key: &KeyPair) -> Result<PrivateDecryptingKey, KeyRejected> {
    PrivateDecryptingKey::from_pkcs8(key.as_der()?.as_ref())
}

fn rejected(cause: KeyRejected) -> String {
    format!("AWS-LC rejected the key ({cause}): expected an RSA key of 2048 to 8192 bits")
}
