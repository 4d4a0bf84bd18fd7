//! The key store against an AWS KMS, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod changed_items;
mod configurations;
mod keyring;
mod migration;
mod operations;
mod root;
mod root_items;
mod unconfirmed;

use std::collections::BTreeMap;

use branch_keys::{CreateBranchKey, Error, Item};
use kms_pool::KmsErrorKind;

/// The branch key of most tests.
const ID: &str = "tenant-a";

fn new_key(id: &str) -> CreateBranchKey {
    CreateBranchKey::new(id, [("tenant", "42"), ("department", "7")])
}

/// Whether AWS KMS found a ciphertext not to be authentic.
fn is_inauthentic(error: &Error) -> bool {
    matches!(error, Error::Kms { cause, .. } if cause.kind() == KmsErrorKind::InvalidCiphertext)
}

fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn changed(item: &Item, change: impl FnOnce(&mut Item)) -> Item {
    let mut item = item.clone();
    change(&mut item);
    item
}
