//! Operations that create, describe, list, enable, disable and delete keys.

use std::{
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    fields::{length, not_in_enum, number, required},
    metadata::KeyMetadata,
};
use crate::{
    arn::KeyId,
    error::Refusal,
    store::{Change, Key, KeyState, KeyStore, StoreHandle},
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
    /// Returns a request for a multi-Region key.
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
    store: &StoreHandle,
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
        request.multi_region.unwrap_or_default().then(|| store.home.region.clone());
    let (key, change) = Key::generate(description, primary_region, now);
    store.change(|_| Ok((change, ())))?;
    Ok(Described { key_metadata: KeyMetadata::new(store, &store.home, &key, now) })
}

pub(super) fn describe_key(
    store: &StoreHandle,
    request: NamedKey,
    now: SystemTime,
) -> Result<Described, Refusal> {
    let key = store.find(&required("keyId", request.key_id)?, now)?;
    Ok(Described { key_metadata: KeyMetadata::new(store, &store.home, &key, now) })
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
    store: &StoreHandle,
    request: ScheduleKeyDeletion,
    now: SystemTime,
) -> Result<DeletionScheduled, Refusal> {
    let days = number("pendingWindowInDays", request.pending_window_in_days, 30, 7..=30)?;
    let days = u32::try_from(days).expect("at most 30");
    let on = now + DAY * days;
    let _one_at_a_time = store.relate();
    let mut scheduled = None;
    let key_id = replace(store, request.key_id, now, |key| {
        let is_primary = key.primary_region.as_ref() == Some(&store.home.region);
        let replicated = is_primary && !store.replicas(key, now).is_empty();
        let state = match key.state {
            KeyState::PendingDeletion { .. } => return Err(store.pending_deletion(key)),
            KeyState::PendingReplicaDeletion { .. } if replicated => {
                return Err(store.pending_deletion(key));
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

/// Enables or disables a key.
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

/// Changes the state of a key, named by key id or key ARN, and returns its ARN.
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

fn unsupported(what: &str) -> Refusal {
    Refusal::Unsupported(format!("kms-local does not support {what}"))
}
