//! Requests to AWS KMS, and checks of its responses (specification:
//! `framework/branch-key-store.md`).

use std::collections::HashMap;
use std::sync::Arc;

use envelope::DataKey;
use kms_pool::aws_sdk_kms::{Client, primitives::Blob};
use kms_pool::{ClientSupplier, KmsError, KmsKeyArn, Purpose};

use crate::context::{CheckedItem, encryption_context};
use crate::error::Error;
use crate::item::Item;
use crate::kms_keys::KmsKeys;

/// The length of branch keys and beacon keys, in bytes.
const LENGTH: i32 = 32;

/// Sends a key store's requests to AWS KMS.
#[derive(Clone, Debug)]
pub(crate) struct Kms {
    pub(crate) keys: KmsKeys,
    pub(crate) clients: Arc<dyn ClientSupplier>,
    pub(crate) grant_tokens: Vec<String>,
    pub(crate) logical_name: String,
}

impl Kms {
    /// The key to call for an item.
    ///
    /// # Errors
    ///
    /// [`Error::KmsKeyNotAllowed`].
    pub(crate) fn key_for(&self, item: &Item) -> Result<KmsKeyArn, Error> {
        self.keys.for_stored(&item.kms_key_arn).ok_or_else(|| Error::KmsKeyNotAllowed {
            id: item.id.clone(),
            item_type: item.item_type,
            kms_key_arn: item.kms_key_arn.chars().take(200).collect(),
        })
    }

    /// The key for new branch keys.
    ///
    /// # Errors
    ///
    /// [`Error::Discovery`].
    pub(crate) fn key_for_new(&self) -> Result<&KmsKeyArn, Error> {
        self.keys.for_new().ok_or(Error::Discovery)
    }

    /// Generates a key that nobody sees, and sets it as the ciphertext of `item`.
    pub(crate) async fn generate(&self, key: &KmsKeyArn, item: &mut Item) -> Result<(), Error> {
        let client = self.client(key, &item.id, Purpose::Foreground).await?;
        let response = client
            .generate_data_key_without_plaintext()
            .key_id(key.as_str())
            .number_of_bytes(LENGTH)
            .set_encryption_context(Some(self.context(item)))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(|error| failed(&item.id, key, error))?;
        check_key(&item.id, key, response.key_id())?;
        item.ciphertext = ciphertext(&item.id, key, response.ciphertext_blob)?;
        Ok(())
    }

    /// Re-encrypts the ciphertext of `from` for `to`, and sets it there. This authenticates `from`.
    pub(crate) async fn re_encrypt(
        &self,
        key: &KmsKeyArn,
        from: &Item,
        to: &mut Item,
    ) -> Result<(), Error> {
        let client = self.client(key, &from.id, Purpose::Foreground).await?;
        let response = client
            .re_encrypt()
            .source_key_id(key.as_str())
            .destination_key_id(key.as_str())
            .ciphertext_blob(Blob::new(from.ciphertext.as_slice()))
            .set_source_encryption_context(Some(self.context(from)))
            .set_destination_encryption_context(Some(self.context(to)))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(|error| failed(&from.id, key, error))?;
        check_key(&from.id, key, response.source_key_id())?;
        check_key(&from.id, key, response.key_id())?;
        to.ciphertext = ciphertext(&from.id, key, response.ciphertext_blob)?;
        Ok(())
    }

    /// Encrypts a key for `item`, and sets it as the ciphertext.
    pub(crate) async fn encrypt(
        &self,
        key: &KmsKeyArn,
        item: &mut Item,
        secret: &DataKey,
    ) -> Result<(), Error> {
        let client = self.client(key, &item.id, Purpose::Foreground).await?;
        let response = client
            .encrypt()
            .key_id(key.as_str())
            .plaintext(Blob::new(secret.expose_secret()))
            .set_encryption_context(Some(self.context(item)))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(|error| failed(&item.id, key, error))?;
        check_key(&item.id, key, response.key_id())?;
        item.ciphertext = ciphertext(&item.id, key, response.ciphertext_blob)?;
        Ok(())
    }

    /// Decrypts the key in an item, which authenticates the item.
    pub(crate) async fn decrypt(
        &self,
        key: &KmsKeyArn,
        checked: &CheckedItem,
        purpose: Purpose,
    ) -> Result<DataKey, Error> {
        let item = &checked.item;
        let client = self.client(key, &item.id, purpose).await?;
        let response = client
            .decrypt()
            .key_id(key.as_str())
            .ciphertext_blob(Blob::new(item.ciphertext.as_slice()))
            .set_encryption_context(Some(self.context(item)))
            .set_grant_tokens(self.grant_tokens())
            .send()
            .await
            .map_err(|error| failed(&item.id, key, error))?;
        // It becomes a secret before anything is checked.
        let secret = response.plaintext.map(|blob| DataKey::from_vec(blob.into_inner()));
        check_key(&item.id, key, response.key_id.as_deref())?;
        secret
            .filter(|secret| i32::try_from(secret.len()) == Ok(LENGTH))
            .ok_or_else(|| broken(&item.id, key, "the response has no plaintext of 32 bytes"))
    }

    async fn client(&self, key: &KmsKeyArn, id: &str, purpose: Purpose) -> Result<Client, Error> {
        let client = self.clients.client_for(key.region(), purpose).await;
        client.map_err(|error| failed(id, key, error))
    }

    fn context(&self, item: &Item) -> HashMap<String, String> {
        encryption_context(item, &self.logical_name)
    }

    fn grant_tokens(&self) -> Option<Vec<String>> {
        (!self.grant_tokens.is_empty()).then(|| self.grant_tokens.clone())
    }
}

fn failed(id: &str, key: &KmsKeyArn, error: impl Into<KmsError>) -> Error {
    Error::Kms { id: id.to_owned(), key: key.clone(), cause: error.into() }
}

fn broken(id: &str, key: &KmsKeyArn, problem: &'static str) -> Error {
    Error::InvalidResponse { id: id.to_owned(), key: key.clone(), problem }
}

/// Checks that AWS KMS responded for the requested key.
fn check_key(id: &str, called: &KmsKeyArn, responded: Option<&str>) -> Result<(), Error> {
    if responded == Some(called.as_str()) {
        return Ok(());
    }
    Err(broken(id, called, "it responded for another key: check the endpoint and any proxy"))
}

fn ciphertext(id: &str, key: &KmsKeyArn, blob: Option<Blob>) -> Result<Vec<u8>, Error> {
    let ciphertext = blob.map(Blob::into_inner).filter(|bytes| !bytes.is_empty());
    ciphertext.ok_or_else(|| broken(id, key, "the response has no ciphertext"))
}
