//! Making keys, describing them, and turning them on and off.

use std::{
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    fields::{length, not_in_enum, number, required},
    replicate::{MultiRegionConfiguration, relations},
};
use crate::{
    arn::{Home, KeyId},
    error::Refusal,
    store::{Change, Key, KeyState, KeyStore, Place},
    time::to_epoch_seconds,
};

const DAY: Duration = Duration::from_hours(24);

/// `Policy`, `Tags` and `BypassPolicyLockoutSafetyCheck` are accepted and have no effect.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateKey {
    pub(crate) description: Option<String>,
    key_usage: Option<String>,
    key_spec: Option<String>,
    customer_master_key_spec: Option<String>,
    origin: Option<String>,
    multi_region: Option<bool>,
    custom_key_store_id: Option<IgnoredAny>,
    xks_key_id: Option<IgnoredAny>,
}

impl CreateKey {
    /// A request for a multi-Region key.
    pub(crate) fn multi_region() -> Self {
        Self { multi_region: Some(true), ..Self::default() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NamedKey {
    pub(crate) key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListKeys {
    limit: Option<i64>,
    marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ScheduleKeyDeletion {
    key_id: Option<String>,
    pending_window_in_days: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Described {
    pub(crate) key_metadata: KeyMetadata,
}

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

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyPage {
    keys: Vec<ListedKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<KeyId>,
    truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedKey {
    key_arn: String,
    key_id: KeyId,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeletionScheduled {
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_date: Option<f64>,
    key_id: String,
    key_state: &'static str,
    pending_window_in_days: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ArnOnly {
    key_id: String,
}

pub(crate) fn create_key(
    place: &Place,
    request: CreateKey,
    now: SystemTime,
) -> Result<Described, Refusal> {
    let description = request.description.unwrap_or_default();
    length("description", description.len(), 0..=8192)?;
    match request.key_usage.as_deref() {
        None | Some("ENCRYPT_DECRYPT") => {}
        Some(usage @ ("SIGN_VERIFY" | "GENERATE_VERIFY_MAC" | "KEY_AGREEMENT")) => {
            return Err(unsupported(&format!("KeyUsage {usage}")));
        }
        Some(other) => {
            let allowed = "SIGN_VERIFY, ENCRYPT_DECRYPT, GENERATE_VERIFY_MAC, KEY_AGREEMENT";
            return Err(not_in_enum(other, "keyUsage", allowed));
        }
    }
    match (request.key_spec.as_deref(), request.customer_master_key_spec.as_deref()) {
        (None | Some("SYMMETRIC_DEFAULT"), None) | (None, Some("SYMMETRIC_DEFAULT")) => {}
        (Some(_), Some(_)) => {
            return Err(Refusal::Validation(
                "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. \
                 CustomerMasterKeySpec is deprecated."
                    .to_owned(),
            ));
        }
        (Some(other), None) | (None, Some(other)) => {
            return Err(unsupported(&format!("KeySpec {other}")));
        }
    }
    match request.origin.as_deref() {
        None | Some("AWS_KMS") => {}
        Some(other) => return Err(unsupported(&format!("Origin {other}"))),
    }
    if request.custom_key_store_id.is_some() || request.xks_key_id.is_some() {
        return Err(unsupported("a custom key store"));
    }

    let primary_region =
        request.multi_region.unwrap_or_default().then(|| place.home.region.clone());
    let (key, change) = Key::generate(description, primary_region, now);
    place.change(|_| Ok((change, ())))?;
    Ok(Described { key_metadata: metadata(place, &place.home, &key, now) })
}

pub(super) fn describe_key(
    place: &Place,
    request: NamedKey,
    now: SystemTime,
) -> Result<Described, Refusal> {
    let key = place.find(&required("keyId", request.key_id)?, now)?;
    Ok(Described { key_metadata: metadata(place, &place.home, &key, now) })
}

pub(super) fn list_keys(
    store: &KeyStore,
    request: ListKeys,
    now: SystemTime,
) -> Result<KeyPage, Refusal> {
    let limit = number("limit", request.limit, 100, 1..=1000)?;
    let after = match request.marker {
        None => Bound::Unbounded,
        Some(marker) => match KeyId::parse(&marker) {
            Some(id) => Bound::Excluded(id),
            None => return Err(Refusal::InvalidMarker(marker)),
        },
    };
    let state = store.read();
    let mut rest = state
        .keys
        .range((after, Bound::Unbounded))
        .map(|(_, key)| key)
        .filter(|key| !key.is_gone(now));
    let keys: Vec<_> = rest
        .by_ref()
        .take(limit)
        .map(|key| ListedKey { key_arn: store.home.key_arn(key.id), key_id: key.id })
        .collect();
    let truncated = rest.next().is_some();
    let next_marker = keys.last().filter(|_| truncated).map(|key| key.key_id);
    Ok(KeyPage { keys, next_marker, truncated })
}

pub(crate) fn enable_key(
    store: &KeyStore,
    request: NamedKey,
    now: SystemTime,
) -> Result<(), Refusal> {
    switch(store, request, now, KeyState::Enabled)
}

pub(crate) fn disable_key(
    store: &KeyStore,
    request: NamedKey,
    now: SystemTime,
) -> Result<(), Refusal> {
    switch(store, request, now, KeyState::Disabled)
}

pub(super) fn schedule_key_deletion(
    place: &Place,
    request: ScheduleKeyDeletion,
    now: SystemTime,
) -> Result<DeletionScheduled, Refusal> {
    let days = number("pendingWindowInDays", request.pending_window_in_days, 30, 7..=30)?;
    let days = u32::try_from(days).expect("at most 30");
    let on = now + DAY * days;
    let _one_at_a_time = place.relate();
    let mut scheduled = None;
    let key_id = replace(place, request.key_id, now, |key| {
        let is_primary = key.primary_region.as_ref() == Some(&place.home.region);
        let replicated = is_primary && !place.replicas(key, now).is_empty();
        let state = match key.state {
            KeyState::PendingDeletion { .. } => return Err(place.pending_deletion(key)),
            KeyState::PendingReplicaDeletion { .. } if replicated => {
                return Err(place.pending_deletion(key));
            }
            _ if replicated => KeyState::PendingReplicaDeletion { days },
            _ => KeyState::PendingDeletion { on },
        };
        scheduled = Some(state);
        Ok(state)
    })?;
    let (key_state, deletion_date) = match scheduled {
        Some(KeyState::PendingReplicaDeletion { .. }) => ("PendingReplicaDeletion", None),
        _ => ("PendingDeletion", Some(to_epoch_seconds(on))),
    };
    Ok(DeletionScheduled { deletion_date, key_id, key_state, pending_window_in_days: days })
}

pub(super) fn cancel_key_deletion(
    store: &KeyStore,
    request: NamedKey,
    now: SystemTime,
) -> Result<ArnOnly, Refusal> {
    let key_id = replace(store, request.key_id, now, |key| {
        if let KeyState::PendingDeletion { .. } | KeyState::PendingReplicaDeletion { .. } =
            key.state
        {
            return Ok(KeyState::Disabled);
        }
        let arn = store.home.key_arn(key.id);
        Err(Refusal::InvalidState(format!("{arn} is not pending deletion.")))
    })?;
    Ok(ArnOnly { key_id })
}

/// Enabling and disabling differ in nothing but the state that they leave.
fn switch(
    store: &KeyStore,
    request: NamedKey,
    now: SystemTime,
    to: KeyState,
) -> Result<(), Refusal> {
    replace(store, request.key_id, now, |key| match key.state {
        KeyState::PendingDeletion { .. } | KeyState::PendingReplicaDeletion { .. } => {
            Err(store.pending_deletion(key))
        }
        KeyState::Enabled | KeyState::Disabled => Ok(to),
    })
    .map(drop)
}

/// Puts the key that a key id or key ARN names into its next state, and returns its ARN.
fn replace(
    store: &KeyStore,
    name: Option<String>,
    now: SystemTime,
    next: impl FnOnce(&Key) -> Result<KeyState, Refusal>,
) -> Result<String, Refusal> {
    let name = required("keyId", name)?;
    store.change(|state| {
        let key: Arc<Key> = store.find_without_alias(state, &name, now)?;
        let changed = key.with_state(next(&key)?);
        Ok((Change::ReplaceKey(changed), store.home.key_arn(key.id)))
    })
}

/// The state of the key with this home, which may be in another region than `place`.
pub(super) fn metadata(place: &Place, home: &Home, key: &Key, now: SystemTime) -> KeyMetadata {
    let (key_state, deletion_date, pending_deletion_window_in_days) = match key.state {
        KeyState::Enabled => ("Enabled", None, None),
        KeyState::Disabled => ("Disabled", None, None),
        KeyState::PendingDeletion { on } => ("PendingDeletion", Some(to_epoch_seconds(on)), None),
        KeyState::PendingReplicaDeletion { days } => ("PendingReplicaDeletion", None, Some(days)),
    };
    KeyMetadata {
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
        multi_region_configuration: relations(place, home, key, now),
        pending_deletion_window_in_days,
    }
}

fn unsupported(what: &str) -> Refusal {
    Refusal::Unsupported(format!("kms-local does not support {what}"))
}
