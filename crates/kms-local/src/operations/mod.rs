//! The operations of AWS KMS, from the JSON of a request to the JSON of its response.

mod aliases;
mod data;
mod fields;
mod keys;
mod metadata;
mod replicate;

use std::time::SystemTime;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{context::EncryptionContext, error::Refusal, store::StoreHandle};

pub(crate) use self::aliases::{PointAlias, check_alias_name, create_alias};
pub(crate) use self::keys::{CreateKey, NamedKey, create_key, disable_key, enable_key};
pub(crate) use self::replicate::{ReplicateKey, replicate_key};

/// One operation of the API.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// Whether it changes the store, and can therefore wait for a disk.
    pub(crate) changes: bool,
    run: Run,
}

/// From the body of a request to the body of its response.
type Run = fn(&StoreHandle, &[u8], SystemTime) -> Result<Vec<u8>, Refusal>;

const PREFIX: &str = "TrentService.";

const OPERATIONS: [Operation; 18] = [
    reading("Decrypt", |store, body, now| reply(&data::decrypt(store, parse(body)?, now)?)),
    reading("Encrypt", |store, body, now| reply(&data::encrypt(store, parse(body)?, now)?)),
    reading("GenerateDataKey", |store, body, now| {
        reply(&data::generate_data_key(store, parse(body)?, now)?)
    }),
    reading("GenerateDataKeyWithoutPlaintext", |store, body, now| {
        reply(&data::generate_data_key_without_plaintext(store, parse(body)?, now)?)
    }),
    reading("ReEncrypt", |store, body, now| reply(&data::re_encrypt(store, parse(body)?, now)?)),
    reading("GenerateRandom", |_, body, _| reply(&data::generate_random(&parse(body)?)?)),
    reading("DescribeKey", |store, body, now| {
        reply(&keys::describe_key(store, parse(body)?, now)?)
    }),
    reading("ListKeys", |store, body, now| reply(&keys::list_keys(store, parse(body)?, now)?)),
    reading("ListAliases", |store, body, now| {
        reply(&aliases::list_aliases(store, parse(body)?, now)?)
    }),
    changing("CreateKey", |store, body, now| reply(&create_key(store, parse(body)?, now)?)),
    changing("ReplicateKey", |store, body, now| reply(&replicate_key(store, parse(body)?, now)?)),
    changing("EnableKey", |store, body, now| empty(enable_key(store, parse(body)?, now))),
    changing("DisableKey", |store, body, now| empty(disable_key(store, parse(body)?, now))),
    changing("ScheduleKeyDeletion", |store, body, now| {
        reply(&keys::schedule_key_deletion(store, parse(body)?, now)?)
    }),
    changing("CancelKeyDeletion", |store, body, now| {
        reply(&keys::cancel_key_deletion(store, parse(body)?, now)?)
    }),
    changing("CreateAlias", |store, body, now| empty(create_alias(store, parse(body)?, now))),
    changing("UpdateAlias", |store, body, now| {
        empty(aliases::update_alias(store, parse(body)?, now))
    }),
    changing("DeleteAlias", |store, body, _| empty(aliases::delete_alias(store, parse(body)?))),
];

impl Operation {
    /// Returns the operation that an `X-Amz-Target` header names.
    pub(crate) fn from_target(target: &str) -> Option<&'static Self> {
        let name = target.strip_prefix(PREFIX)?;
        OPERATIONS.iter().find(|operation| operation.name == name)
    }

    /// Runs the operation. Blocks for a disk if it [`changes`](Self::changes) a persistent store.
    ///
    /// # Errors
    ///
    /// Any [`Refusal`] that AWS documents for the operation.
    pub(crate) fn run(
        &self,
        store: &StoreHandle,
        body: &[u8],
        now: SystemTime,
    ) -> Result<Vec<u8>, Refusal> {
        (self.run)(store, body, now)
    }
}

const fn reading(name: &'static str, run: Run) -> Operation {
    Operation { name, changes: false, run }
}

const fn changing(name: &'static str, run: Run) -> Operation {
    Operation { name, changes: true, run }
}

/// Returns the encryption context of a request, if it has one.
pub(crate) fn context_of(body: &[u8]) -> Option<EncryptionContext> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Bound {
        encryption_context: Option<EncryptionContext>,
    }
    parse(body).ok().and_then(|bound: Bound| bound.encryption_context)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::Serialization(error.to_string()))
}

fn reply(response: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(response).map_err(|error| Refusal::Internal(error.to_string()))
}

/// Operations without a result respond with an empty body.
fn empty(outcome: Result<(), Refusal>) -> Result<Vec<u8>, Refusal> {
    outcome.map(|()| Vec::new())
}
