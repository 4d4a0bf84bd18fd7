//! The description of a key in responses, with its relations to keys in other regions.

use std::time::SystemTime;

use serde::Serialize;

use crate::{
    arn::{Home, KeyId},
    store::{Key, KeyState, StoreHandle},
    time::to_epoch_seconds,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KeyMetadata {
    #[serde(rename = "AWSAccountId")]
    account: String,
    key_id: KeyId,
    pub(crate) arn: String,
    creation_date: f64,
    enabled: bool,
    description: String,
    key_usage: &'static str,
    key_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_date: Option<f64>,
    origin: &'static str,
    key_manager: &'static str,
    customer_master_key_spec: &'static str,
    key_spec: &'static str,
    encryption_algorithms: [&'static str; 1],
    multi_region: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_region_configuration: Option<MultiRegionConfiguration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_deletion_window_in_days: Option<u32>,
}

/// The keys that are related to a multi-Region key, and its role among them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MultiRegionConfiguration {
    multi_region_key_type: &'static str,
    primary_key: RelatedKey,
    replica_keys: Vec<RelatedKey>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RelatedKey {
    arn: String,
    region: String,
}

impl KeyMetadata {
    /// Describes the key in `home`, which may be another region than that of `store`.
    pub(super) fn new(store: &StoreHandle, home: &Home, key: &Key, now: SystemTime) -> Self {
        let (key_state, deletion_date, pending_deletion_window_in_days) = match key.state {
            KeyState::Enabled => ("Enabled", None, None),
            KeyState::Disabled => ("Disabled", None, None),
            KeyState::PendingDeletion { on } => {
                ("PendingDeletion", Some(to_epoch_seconds(on)), None)
            }
            KeyState::PendingReplicaDeletion { days } => {
                ("PendingReplicaDeletion", None, Some(days))
            }
        };
        Self {
            account: home.account.clone(),
            key_id: key.id,
            arn: home.key_arn(key.id),
            creation_date: to_epoch_seconds(key.created),
            enabled: key.state == KeyState::Enabled,
            description: key.description.clone(),
            key_usage: "ENCRYPT_DECRYPT",
            key_state,
            deletion_date,
            origin: "AWS_KMS",
            key_manager: "CUSTOMER",
            customer_master_key_spec: "SYMMETRIC_DEFAULT",
            key_spec: "SYMMETRIC_DEFAULT",
            encryption_algorithms: ["SYMMETRIC_DEFAULT"],
            multi_region: key.id.multi_region,
            multi_region_configuration: relations(store, home, key, now),
            pending_deletion_window_in_days,
        }
    }
}

/// Returns the relations of the key in `home`, or `None` for a single-Region key.
fn relations(
    store: &StoreHandle,
    home: &Home,
    key: &Key,
    now: SystemTime,
) -> Option<MultiRegionConfiguration> {
    let primary_region = key.primary_region.as_ref()?;
    let primary = Home { region: primary_region.clone(), account: home.account.clone() };
    let related =
        |home: &Home| RelatedKey { arn: home.key_arn(key.id), region: home.region.clone() };
    Some(MultiRegionConfiguration {
        multi_region_key_type: if home.region == *primary_region { "PRIMARY" } else { "REPLICA" },
        primary_key: related(&primary),
        replica_keys: store.replicas(key, now).into_iter().map(related).collect(),
    })
}
