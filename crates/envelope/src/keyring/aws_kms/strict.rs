//! The AWS KMS keyring (specification: `framework/aws-kms/aws-kms-keyring.md`).

use std::{collections::HashMap, fmt, sync::Arc};

use aws_sdk_kms::{operation::decrypt::DecryptOutput, primitives::Blob};
use kms_pool::{KmsError, KmsErrorKind, KmsPool, Principal};

use super::{
    EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringFuture, KeyringRequest,
};
use crate::{context::EncryptionContext, data_key::DataKey, error::Error};

/// The key provider id of every key that AWS KMS wraps.
const PROVIDER_ID: &str = "aws-kms";

/// Has AWS KMS generate, wrap and unwrap data keys under one KMS key, with clients of a [`KmsPool`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use envelope::keyring::AwsKmsKeyring;
/// use kms_pool::{KmsPool, Principal};
///
/// let pool = KmsPool::builder().build()?;
/// let principal = Principal::from_default_chain().await;
/// let arn = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let keyring = AwsKmsKeyring::new(pool, principal, arn.parse()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AwsKmsKeyring {
    pool: KmsPool,
    principal: Principal,
    key: KmsKeyArn,
    grant_tokens: Vec<String>,
}

impl AwsKmsKeyring {
    /// A keyring for the KMS key `key`, used as `principal` in the key's own region.
    #[must_use]
    pub fn new(pool: KmsPool, principal: Principal, key: KmsKeyArn) -> Self {
        Self { pool, principal, key, grant_tokens: vec![] }
    }

    /// Grant tokens to send with every request. Default: none.
    #[must_use]
    pub fn with_grant_tokens(mut self, grant_tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.grant_tokens = grant_tokens.into_iter().map(Into::into).collect();
        self
    }

    async fn client(&self) -> Result<aws_sdk_kms::Client, KmsError> {
        self.pool.client(self.key.region(), &self.principal).await
    }

    async fn generate_data_key(&self, request: KeyringRequest<'_>) -> Result<GeneratedDataKey, Failure> {
        let length = request.suite.data_key_length();
        let answer = self
            .client()
            .await?
            .generate_data_key()
            .key_id(self.key.as_str())
            .number_of_bytes(i32::try_from(length).expect("a data key has at most 32 bytes"))
            .set_encryption_context(pairs(request.encryption_context))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(KmsError::from)?;
        let data_key = plaintext(answer.plaintext, length)?;
        let encrypted_data_key = encrypted_data_key(answer.key_id, answer.ciphertext_blob)?;
        Ok(GeneratedDataKey { data_key, encrypted_data_keys: vec![encrypted_data_key] })
    }

    async fn encrypt(&self, request: KeyringRequest<'_>, data_key: &DataKey) -> Result<EncryptedDataKey, Failure> {
        let answer = self
            .client()
            .await?
            .encrypt()
            .key_id(self.key.as_str())
            .plaintext(Blob::new(data_key.expose_secret()))
            .set_encryption_context(pairs(request.encryption_context))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(KmsError::from)?;
        encrypted_data_key(answer.key_id, answer.ciphertext_blob)
    }

    async fn decrypt(&self, request: KeyringRequest<'_>, ciphertext: &[u8]) -> Result<DataKey, Failure> {
        let answer = self
            .client()
            .await?
            .decrypt()
            .key_id(self.key.as_str())
            .ciphertext_blob(Blob::new(ciphertext))
            .set_encryption_context(pairs(request.encryption_context))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(KmsError::from)?;
        decrypted(answer, &self.key, request.suite.data_key_length())
    }

    fn grant_tokens(&self) -> Option<Vec<String>> {
        (!self.grant_tokens.is_empty()).then(|| self.grant_tokens.clone())
    }

    fn failed(&self, failure: Failure) -> KeyringError {
        match failure {
            Failure::Kms(error) => KeyringError::new(Arc::clone(&self.key.0), kind(error.kind()), error),
            Failure::Contract(problem) => self.failed_by_itself(format!("AWS KMS broke its contract: {problem}")),
        }
    }

    fn failed_by_itself(&self, problem: impl Into<String>) -> KeyringError {
        KeyringError::new(Arc::clone(&self.key.0), KeyringErrorKind::Other, problem.into())
    }
}

/// What AWS KMS answered, in the words of keyrings.
fn kind(kind: KmsErrorKind) -> KeyringErrorKind {
    match kind {
        KmsErrorKind::Throttled => KeyringErrorKind::Throttled,
        KmsErrorKind::TimedOut => KeyringErrorKind::TimedOut,
        KmsErrorKind::Unavailable => KeyringErrorKind::Unavailable,
        KmsErrorKind::AccessDenied => KeyringErrorKind::Denied,
        KmsErrorKind::KeyDisabled | KmsErrorKind::KeyInvalidState | KmsErrorKind::KeyNotFound => {
            KeyringErrorKind::Unusable
        }
        KmsErrorKind::CredentialsExpired | KmsErrorKind::CredentialsRejected | KmsErrorKind::CredentialsUnavailable => {
            KeyringErrorKind::Credentials
        }
        KmsErrorKind::InvalidCiphertext | KmsErrorKind::IncorrectKey => KeyringErrorKind::InvalidCiphertext,
        _ => KeyringErrorKind::Other,
    }
}

impl Keyring for AwsKmsKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> KeyringFuture<'a, GeneratedDataKey> {
        Box::pin(async move {
            let generated = self.generate_data_key(request).await;
            generated.map_err(|failure| Error::DataKeyUnavailable(self.failed(failure)))
        })
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> KeyringFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async move {
            let wrapped = self.encrypt(request, data_key).await;
            wrapped.map(|key| vec![key]).map_err(|failure| Error::DataKeyUnavailable(self.failed(failure)))
        })
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> KeyringFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async move {
            let of_kms = || encrypted_data_keys.iter().filter(|wrapped| wrapped.key_provider_id == PROVIDER_ID);
            if of_kms().any(|wrapped| key_arn(wrapped).is_none()) {
                let problem = "the message names a key of AWS KMS by something that is not a key ARN";
                return Err(vec![self.failed_by_itself(problem)]);
            }
            let mut failures = vec![];
            for wrapped in of_kms().filter(|wrapped| key_arn(wrapped).as_ref() == Some(&self.key)) {
                match self.decrypt(request, &wrapped.ciphertext).await {
                    Ok(data_key) => return Ok(data_key),
                    Err(failure) => failures.push(self.failed(failure)),
                }
            }
            Err(failures)
        })
    }

    fn wrapping_key(&self, _request: KeyringRequest<'_>) -> Option<Arc<str>> {
        Some(Arc::clone(&self.key.0))
    }
}

impl Error {
    /// What AWS KMS answered, when that is what failed; of several attempts, the first.
    ///
    /// ```
    /// use kms_pool::KmsErrorKind;
    ///
    /// fn is_throttled(error: &envelope::Error) -> bool {
    ///     error.kms().is_some_and(|kms| kms.kind() == KmsErrorKind::Throttled)
    /// }
    /// ```
    #[must_use]
    pub fn kms(&self) -> Option<&KmsError> {
        self.keyring_errors().iter().find_map(|failure| failure.cause().downcast_ref())
    }
}

/// The ARN of a KMS key (specification: `framework/aws-kms/aws-kms-key-arn.md`).
///
/// An alias is refused: KMS answers with the key's ARN, which is what stands in the message, so a keyring
/// that knows only an alias could seal but never open.
///
/// ```
/// use envelope::keyring::KmsKeyArn;
///
/// let arn: KmsKeyArn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab".parse()?;
/// assert_eq!(arn.region(), "eu-west-1");
/// assert!("alias/payments".parse::<KmsKeyArn>().is_err());
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KmsKeyArn(Arc<str>);

impl KmsKeyArn {
    /// The ARN as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key's region.
    #[must_use]
    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }
}

impl std::str::FromStr for KmsKeyArn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<_> = text.splitn(6, ':').collect();
        let is_key_arn = match parts[..] {
            ["arn", partition, "kms", region, account, resource] => {
                let key_id = resource.strip_prefix("key/");
                [partition, region, account].iter().all(|part| !part.is_empty())
                    && key_id.is_some_and(|id| !id.is_empty())
            }
            _ => false,
        };
        if !is_key_arn {
            let problem = format!(
                "{text:?} is not of the form arn:PARTITION:kms:REGION:ACCOUNT:key/ID; of an alias, `aws kms describe-key` tells it"
            );
            return Err(Error::invalid_setting("KMS key ARN", problem));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for KmsKeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

enum Failure {
    Kms(KmsError),
    Contract(&'static str),
}

impl From<KmsError> for Failure {
    fn from(error: KmsError) -> Self {
        Self::Kms(error)
    }
}

fn pairs(context: &EncryptionContext) -> Option<HashMap<String, String>> {
    let pairs: HashMap<_, _> = context.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    (!pairs.is_empty()).then_some(pairs)
}

/// The key that wrapped this, if it is named as the specification wants it.
fn key_arn(wrapped: &EncryptedDataKey) -> Option<KmsKeyArn> {
    std::str::from_utf8(&wrapped.key_provider_information).ok()?.parse().ok()
}

/// The plaintext data key in an answer to Decrypt, which must be of this key and length.
fn decrypted(answer: DecryptOutput, key: &KmsKeyArn, length: usize) -> Result<DataKey, Failure> {
    let data_key = plaintext(answer.plaintext, length)?;
    if answer.key_id.as_deref() != Some(key.as_str()) {
        return Err(Failure::Contract("it decrypted under another key than it was told to"));
    }
    Ok(data_key)
}

/// The plaintext data key in an answer, moved into a secret before it is looked at.
fn plaintext(blob: Option<Blob>, length: usize) -> Result<DataKey, Failure> {
    let key = blob.map(|blob| DataKey::from_vec(blob.into_inner()));
    key.filter(|key| key.len() == length).ok_or(Failure::Contract("no plaintext of the length asked for"))
}

fn encrypted_data_key(key_id: Option<String>, ciphertext: Option<Blob>) -> Result<EncryptedDataKey, Failure> {
    let arn = key_id.filter(|id| id.parse::<KmsKeyArn>().is_ok());
    let (Some(arn), Some(ciphertext)) = (arn, ciphertext) else {
        return Err(Failure::Contract("no ciphertext, or no key ARN"));
    };
    Ok(EncryptedDataKey {
        key_provider_id: PROVIDER_ID.to_owned(),
        key_provider_information: arn.into_bytes(),
        ciphertext: ciphertext.into_inner(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No server that we can run answers so.
    #[test]
    fn an_answer_under_another_key_or_of_another_length_is_refused() {
        let key: KmsKeyArn = "arn:aws:kms:us-east-1:1:key/a".parse().unwrap();
        let answer = |key_id: &str, length| {
            let output = DecryptOutput::builder().key_id(key_id).plaintext(Blob::new(vec![7; length])).build();
            decrypted(output, &key, 32).is_ok()
        };
        assert!(answer("arn:aws:kms:us-east-1:1:key/a", 32));
        assert!(!answer("arn:aws:kms:us-east-1:1:key/b", 32));
        assert!(!answer("arn:aws:kms:us-east-1:1:key/a", 31));
        assert!(decrypted(DecryptOutput::builder().key_id(key.as_str()).build(), &key, 32).is_err());
    }

    #[test]
    fn only_key_arns_are_taken() {
        let valid = ["arn:aws:kms:us-east-1:1:key/a", "arn:aws-us-gov:kms:us-gov-west-1:1:key/mrk-a/b"];
        for arn in valid {
            assert!(arn.parse::<KmsKeyArn>().is_ok(), "{arn}");
        }
        let invalid = [
            "",
            "key/a",
            "arn:aws:kms:us-east-1:1:alias/a",
            "arn:aws:kms:us-east-1:1:key/",
            "arn:aws:kms:us-east-1::key/a",
            "arn:aws:kms::1:key/a",
            "arn::kms:us-east-1:1:key/a",
            "arn:aws:s3:us-east-1:1:key/a",
            "ARN:aws:kms:us-east-1:1:key/a",
        ];
        for arn in invalid {
            assert!(arn.parse::<KmsKeyArn>().is_err(), "{arn}");
        }
    }
}
