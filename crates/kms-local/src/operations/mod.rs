//! The operations: what a request asks, what it gets, and nothing of HTTP.

mod aliases;
mod data;
mod fields;
mod keys;
mod replicate;

use std::time::SystemTime;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{context::EncryptionContext, error::Refusal, store::Place};

pub(crate) use self::aliases::{PointAlias, check_alias_name, create_alias};
pub(crate) use self::keys::{CreateKey, NamedKey, create_key, disable_key, enable_key};
pub(crate) use self::replicate::{ReplicateKey, replicate_key};

/// One operation of the API.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// Whether it changes the store, and so may wait for a disk.
    pub(crate) changes: bool,
    run: Run,
}

/// From the body of a request to the body of its answer.
type Run = fn(&Place, &[u8], SystemTime) -> Result<Vec<u8>, Refusal>;

const PREFIX: &str = "TrentService.";

const OPERATIONS: [Operation; 18] = [
    reading("Decrypt", |keys, body, now| reply(&data::decrypt(keys, parse(body)?, now)?)),
    reading("Encrypt", |keys, body, now| reply(&data::encrypt(keys, parse(body)?, now)?)),
    reading("GenerateDataKey", |keys, body, now| {
        reply(&data::generate_data_key(keys, parse(body)?, now)?)
    }),
    reading("GenerateDataKeyWithoutPlaintext", |keys, body, now| {
        reply(&data::generate_data_key_without_plaintext(keys, parse(body)?, now)?)
    }),
    reading("ReEncrypt", |keys, body, now| reply(&data::re_encrypt(keys, parse(body)?, now)?)),
    reading("GenerateRandom", |_, body, _| reply(&data::generate_random(&parse(body)?)?)),
    reading("DescribeKey", |keys, body, now| reply(&keys::describe_key(keys, parse(body)?, now)?)),
    reading("ListKeys", |keys, body, now| reply(&keys::list_keys(keys, parse(body)?, now)?)),
    reading("ListAliases", |keys, body, now| {
        reply(&aliases::list_aliases(keys, parse(body)?, now)?)
    }),
    changing("CreateKey", |keys, body, now| reply(&create_key(keys, parse(body)?, now)?)),
    changing("ReplicateKey", |keys, body, now| reply(&replicate_key(keys, parse(body)?, now)?)),
    changing("EnableKey", |keys, body, now| nothing(enable_key(keys, parse(body)?, now))),
    changing("DisableKey", |keys, body, now| nothing(disable_key(keys, parse(body)?, now))),
    changing("ScheduleKeyDeletion", |keys, body, now| {
        reply(&keys::schedule_key_deletion(keys, parse(body)?, now)?)
    }),
    changing("CancelKeyDeletion", |keys, body, now| {
        reply(&keys::cancel_key_deletion(keys, parse(body)?, now)?)
    }),
    changing("CreateAlias", |keys, body, now| nothing(create_alias(keys, parse(body)?, now))),
    changing("UpdateAlias", |keys, body, now| {
        nothing(aliases::update_alias(keys, parse(body)?, now))
    }),
    changing("DeleteAlias", |keys, body, _| nothing(aliases::delete_alias(keys, parse(body)?))),
];

impl Operation {
    /// The operation that an `X-Amz-Target` header names.
    pub(crate) fn from_target(target: &str) -> Option<&'static Self> {
        let name = target.strip_prefix(PREFIX)?;
        OPERATIONS.iter().find(|operation| operation.name == name)
    }

    /// Runs it. Blocks for a disk when it [`changes`](Self::changes) a persistent store.
    ///
    /// # Errors
    ///
    /// Any [`Refusal`] that the operation documents.
    pub(crate) fn run(
        &self,
        keys: &Place,
        body: &[u8],
        now: SystemTime,
    ) -> Result<Vec<u8>, Refusal> {
        (self.run)(keys, body, now)
    }
}

const fn reading(name: &'static str, run: Run) -> Operation {
    Operation { name, changes: false, run }
}

const fn changing(name: &'static str, run: Run) -> Operation {
    Operation { name, changes: true, run }
}

/// The encryption context of a request, if it has one.
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

fn reply(answer: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(answer).map_err(|error| Refusal::Internal(error.to_string()))
}

/// Operations without an answer answer with an empty body.
fn nothing(outcome: Result<(), Refusal>) -> Result<Vec<u8>, Refusal> {
    outcome.map(|()| Vec::new())
}
