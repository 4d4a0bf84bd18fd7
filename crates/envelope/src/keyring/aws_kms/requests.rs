//! Requests to AWS KMS and checks of its responses, for all AWS KMS keyrings (specification:
//! `framework/aws-kms/aws-kms-keyring.md`).

use std::{collections::HashMap, sync::Arc};

use kms_pool::{
    ClientSupplier, KmsError, KmsErrorKind, KmsKeyArn, Purpose, Replicas,
    aws_sdk_kms::{Client, operation::decrypt::DecryptOutput, primitives::Blob},
};

use crate::{
    context::EncryptionContext,
    data_key::DataKey,
    error::Error,
    format::encrypted_data_key::EncryptedDataKey,
    keyring::{GeneratedDataKey, KeyringError, KeyringErrorKind, KeyringRequest},
};

/// The key provider id of every key that AWS KMS wraps.
const PROVIDER_ID: &str = "aws-kms";

/// Sends a keyring's requests to AWS KMS.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    clients: Arc<dyn ClientSupplier>,
    /// The regions to call for multi-Region keys, instead of the region of the key.
    replicas: Option<Replicas>,
    grant_tokens: Vec<String>,
}

impl Requests {
    pub(super) fn new(clients: Arc<dyn ClientSupplier>) -> Self {
        Self { clients, replicas: None, grant_tokens: vec![] }
    }

    pub(super) fn with_replicas(self, replicas: Replicas) -> Self {
        Self { replicas: Some(replicas), ..self }
    }

    pub(super) fn with_grant_tokens(
        mut self,
        grant_tokens: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.grant_tokens = grant_tokens.into_iter().map(Into::into).collect();
        self
    }

    /// Returns a number that increases when the identity that calls KMS changes.
    pub(super) fn tenure(&self) -> u64 {
        self.replicas.as_ref().map_or(0, Replicas::tenure).wrapping_add(self.clients.tenure())
    }

    /// Generates a data key and wraps it: `OnEncrypt` without a data key.
    pub(super) async fn generate(
        &self,
        key: &KmsKeyArn,
        request: KeyringRequest<'_>,
    ) -> Result<GeneratedDataKey, Error> {
        let generated = self.generate_data_key(key, request).await;
        generated.map_err(|failure| Error::DataKeyUnavailable(failure.of(key)))
    }

    /// Wraps a data key: `OnEncrypt` with a data key.
    pub(super) async fn wrap(
        &self,
        key: &KmsKeyArn,
        request: KeyringRequest<'_>,
        data_key: &DataKey,
    ) -> Result<Vec<EncryptedDataKey>, Error> {
        let wrapped = self.encrypt(key, request, data_key).await;
        wrapped
            .map(|wrapped| vec![wrapped])
            .map_err(|failure| Error::DataKeyUnavailable(failure.of(key)))
    }

    /// Unwraps the first encrypted data key that it can: `OnDecrypt`.
    ///
    /// `key_for` returns the KMS key to call for the one that the message names, and `None` if the
    /// encrypted data key does not belong to the keyring. No request is sent for a message that
    /// names an AWS KMS key by anything but a key ARN. `keyring` is the keyring's name in errors
    /// that concern no key.
    pub(super) async fn unwrap(
        &self,
        keyring: &str,
        request: KeyringRequest<'_>,
        encrypted_data_keys: &[EncryptedDataKey],
        key_for: impl Fn(&KmsKeyArn) -> Option<KmsKeyArn>,
    ) -> Result<DataKey, Vec<KeyringError>> {
        let of_kms =
            encrypted_data_keys.iter().filter(|wrapped| wrapped.key_provider_id == PROVIDER_ID);
        let named: Option<Vec<_>> =
            of_kms.map(|wrapped| Some((key_arn(wrapped)?, &wrapped.ciphertext))).collect();
        let Some(named) = named else {
            let problem = "the message contains an invalid KMS key ARN";
            return Err(vec![KeyringError::new(keyring, KeyringErrorKind::Other, problem)]);
        };
        let mut failures = vec![];
        for (stored, ciphertext) in named {
            let Some(key) = key_for(&stored) else { continue };
            match self.decrypt(&key, request, ciphertext).await {
                Ok(data_key) => return Ok(data_key.unwrapped_by(stored)),
                Err(failure) => failures.push(failure.of(&key).with_name_in_messages(stored)),
            }
        }
        Err(failures)
    }

    async fn generate_data_key(
        &self,
        key: &KmsKeyArn,
        request: KeyringRequest<'_>,
    ) -> Result<GeneratedDataKey, Failure> {
        let length = request.suite.data_key_length();
        let bytes = i32::try_from(length).expect("a data key has at most 32 bytes");
        let (response, called) = self
            .call(key, request, |client, key| {
                let generate = client
                    .generate_data_key()
                    .key_id(key.as_str())
                    .number_of_bytes(bytes)
                    .set_encryption_context(pairs(request.encryption_context))
                    .set_grant_tokens(self.grant_tokens());
                async { Ok((generate.send().await?, key)) }
            })
            .await?;
        let data_key = plaintext(response.plaintext, length)?;
        let encrypted_data_key =
            encrypted_data_key(&called, response.key_id.as_deref(), response.ciphertext_blob)?;
        Ok(GeneratedDataKey { data_key, encrypted_data_keys: vec![encrypted_data_key] })
    }

    async fn encrypt(
        &self,
        key: &KmsKeyArn,
        request: KeyringRequest<'_>,
        data_key: &DataKey,
    ) -> Result<EncryptedDataKey, Failure> {
        let (response, called) = self
            .call(key, request, |client, key| {
                let encrypt = client
                    .encrypt()
                    .key_id(key.as_str())
                    .plaintext(Blob::new(data_key.expose_secret()))
                    .set_encryption_context(pairs(request.encryption_context))
                    .set_grant_tokens(self.grant_tokens());
                async { Ok((encrypt.send().await?, key)) }
            })
            .await?;
        encrypted_data_key(&called, response.key_id.as_deref(), response.ciphertext_blob)
    }

    async fn decrypt(
        &self,
        key: &KmsKeyArn,
        request: KeyringRequest<'_>,
        ciphertext: &[u8],
    ) -> Result<DataKey, Failure> {
        let (response, called) = self
            .call(key, request, |client, key| {
                let decrypt = client
                    .decrypt()
                    .key_id(key.as_str())
                    .ciphertext_blob(Blob::new(ciphertext))
                    .set_encryption_context(pairs(request.encryption_context))
                    .set_grant_tokens(self.grant_tokens());
                async { Ok((decrypt.send().await?, key)) }
            })
            .await?;
        decrypted(response, &called, request.suite.data_key_length())
    }

    /// Calls `operation` with the client for the region of `key`. For a multi-Region key with
    /// replicas, calls it with the clients and the related keys in their regions, until one
    /// responds.
    async fn call<T, F, Fut>(
        &self,
        key: &KmsKeyArn,
        request: KeyringRequest<'_>,
        operation: F,
    ) -> Result<T, KmsError>
    where
        F: Fn(Client, KmsKeyArn) -> Fut,
        Fut: Future<Output = Result<T, KmsError>>,
    {
        if let Some(replicas) = self.replicas.as_ref().filter(|_| key.is_multi_region()) {
            return replicas.call(|client, region| operation(client, key.in_region(&region))).await;
        }
        let purpose = if request.background { Purpose::Background } else { Purpose::Foreground };
        let client = self.clients.client_for(key.region(), purpose).await?;
        operation(client, key.clone()).await
    }

    fn grant_tokens(&self) -> Option<Vec<String>> {
        (!self.grant_tokens.is_empty()).then(|| self.grant_tokens.clone())
    }
}

/// The failure of a request.
#[derive(Debug)]
enum Failure {
    Kms(KmsError),
    Contract(String),
}

impl Failure {
    /// Converts it to the error of the key that was called.
    fn of(self, key: &KmsKeyArn) -> KeyringError {
        match self {
            Self::Kms(error) => KeyringError::new(key.clone(), kind(error.kind()), error),
            Self::Contract(problem) => {
                let problem = format!("AWS KMS broke its contract: {problem}");
                KeyringError::new(key.clone(), KeyringErrorKind::InvalidResponse, problem)
            }
        }
    }
}

impl From<KmsError> for Failure {
    fn from(error: KmsError) -> Self {
        Self::Kms(error)
    }
}

/// Returns the kind of keyring error for an error of AWS KMS.
fn kind(kind: KmsErrorKind) -> KeyringErrorKind {
    match kind {
        KmsErrorKind::Throttled => KeyringErrorKind::Throttled,
        KmsErrorKind::OverBudget => KeyringErrorKind::OverBudget,
        KmsErrorKind::TimedOut => KeyringErrorKind::TimedOut,
        KmsErrorKind::Unavailable => KeyringErrorKind::Unavailable,
        KmsErrorKind::AccessDenied => KeyringErrorKind::Denied,
        KmsErrorKind::KeyDisabled | KmsErrorKind::KeyInvalidState | KmsErrorKind::KeyNotFound => {
            KeyringErrorKind::Unusable
        }
        KmsErrorKind::CredentialsExpired
        | KmsErrorKind::CredentialsRejected
        | KmsErrorKind::CredentialsUnavailable => KeyringErrorKind::Credentials,
        KmsErrorKind::InvalidCiphertext | KmsErrorKind::IncorrectKey => {
            KeyringErrorKind::InvalidCiphertext
        }
        _ => KeyringErrorKind::Other,
    }
}

fn pairs(context: &EncryptionContext) -> Option<HashMap<String, String>> {
    let pairs: HashMap<_, _> =
        context.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    (!pairs.is_empty()).then_some(pairs)
}

/// Returns the key that wrapped an encrypted data key of AWS KMS, if its ARN is valid.
fn key_arn(wrapped: &EncryptedDataKey) -> Option<KmsKeyArn> {
    std::str::from_utf8(&wrapped.key_provider_information).ok()?.parse().ok()
}

/// Returns the plaintext data key in a response to Decrypt, and checks its length and its KMS key.
fn decrypted(response: DecryptOutput, key: &KmsKeyArn, length: usize) -> Result<DataKey, Failure> {
    let data_key = plaintext(response.plaintext, length)?;
    check_key(key, response.key_id.as_deref())?;
    Ok(data_key)
}

/// Checks that AWS KMS responded for the requested key. Requests name keys by their ARN only, so
/// the response contains the same ARN: even a related multi-Region key counts as another key.
fn check_key(called: &KmsKeyArn, responded: Option<&str>) -> Result<(), Failure> {
    // Only a valid key ARN is shown: it has no control characters and a limited length.
    let other = match responded.map(str::parse::<KmsKeyArn>) {
        Some(Ok(key)) if key == *called => return Ok(()),
        Some(Ok(key)) => format!("the key {key}"),
        _ => "something that is not a key ARN".to_owned(),
    };
    let problem = format!(
        "KMS responded for {other} instead of {called}: check the endpoint and any proxy before it"
    );
    Err(Failure::Contract(problem))
}

/// Returns the plaintext data key in a response. It becomes a secret before it is checked.
fn plaintext(blob: Option<Blob>, length: usize) -> Result<DataKey, Failure> {
    let key = blob.map(|blob| DataKey::from_vec(blob.into_inner()));
    key.filter(|key| key.len() == length).ok_or_else(|| {
        Failure::Contract("the response has no plaintext of the requested length".to_owned())
    })
}

/// Returns the wrapped data key in a response, and checks that it is wrapped under `called`.
fn encrypted_data_key(
    called: &KmsKeyArn,
    responded: Option<&str>,
    ciphertext: Option<Blob>,
) -> Result<EncryptedDataKey, Failure> {
    check_key(called, responded)?;
    let ciphertext =
        ciphertext.ok_or_else(|| Failure::Contract("the response has no ciphertext".to_owned()))?;
    Ok(EncryptedDataKey {
        key_provider_id: PROVIDER_ID.to_owned(),
        key_provider_information: called.as_str().into(),
        ciphertext: ciphertext.into_inner(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyrings_and_the_pool_agree_on_what_is_retryable() {
        use KmsErrorKind::*;
        for it in [
            Throttled,
            OverBudget,
            TimedOut,
            Unavailable,
            AccessDenied,
            KeyDisabled,
            KeyInvalidState,
            KeyNotFound,
            InvalidCiphertext,
            IncorrectKey,
            CredentialsExpired,
            CredentialsRejected,
            CredentialsUnavailable,
            AfterFork,
            InvalidRequest,
            LimitExceeded,
            Other,
        ] {
            assert_eq!(kind(it).is_retryable(), it.is_retryable(), "{it:?}");
        }
    }

    #[test]
    fn a_response_of_another_key_or_length_is_an_error() {
        let called = "arn:aws:kms:us-east-1:1:key/mrk-a";
        let key: KmsKeyArn = called.parse().unwrap();
        let response = |key_id: &str, length| {
            let output = DecryptOutput::builder()
                .key_id(key_id)
                .plaintext(Blob::new(vec![7; length]))
                .build();
            decrypted(output, &key, 32).is_ok()
        };
        assert!(response(called, 32));
        assert!(!response("arn:aws:kms:us-east-1:1:key/mrk-b", 32));
        // A related key counts as another key.
        assert!(!response("arn:aws:kms:eu-west-1:1:key/mrk-a", 32));
        assert!(!response(called, 31));
        assert!(!response(called, 33));
        assert!(
            decrypted(DecryptOutput::builder().key_id(key.as_str()).build(), &key, 32).is_err()
        );
        assert!(
            decrypted(DecryptOutput::builder().plaintext(Blob::new(vec![7; 32])).build(), &key, 32)
                .is_err()
        );
    }

    #[test]
    fn a_data_key_wrapped_under_another_key_is_an_error() {
        let arn = "arn:aws:kms:us-east-1:1:key/mrk-a";
        let called: KmsKeyArn = arn.parse().unwrap();
        let wrapped = |key_id: Option<&str>, ciphertext: Option<&str>| {
            encrypted_data_key(&called, key_id, ciphertext.map(|it| Blob::new(it.as_bytes())))
        };
        assert_eq!(wrapped(Some(arn), Some("x")).unwrap().key_provider_information, arn.as_bytes());
        let related = "arn:aws:kms:eu-west-1:1:key/mrk-a";
        for (key_id, ciphertext) in [
            (Some("key/mrk-a"), Some("x")),
            (Some(related), Some("x")),
            (None, Some("x")),
            (Some(arn), None),
        ] {
            wrapped(key_id, ciphertext).unwrap_err();
        }
    }
}
