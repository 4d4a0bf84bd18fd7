//! Operations on aliases, which are other names for keys.

use std::{ops::Bound, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::fields::{constraint, length, number, required};
use crate::{
    arn::KeyId,
    error::Refusal,
    store::{Alias, Change, KeyState, KeyStore, State},
    time::to_epoch_seconds,
};

/// The request of `CreateAlias` and `UpdateAlias`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PointAlias {
    pub(crate) alias_name: Option<String>,
    pub(crate) target_key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteAlias {
    alias_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListAliases {
    key_id: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AliasPage {
    aliases: Vec<ListedAlias>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedAlias {
    alias_arn: String,
    alias_name: String,
    creation_date: f64,
    last_updated_date: f64,
    target_key_id: KeyId,
}

pub(crate) fn create_alias(
    store: &KeyStore,
    request: PointAlias,
    now: SystemTime,
) -> Result<(), Refusal> {
    let name = alias_name(request.alias_name)?;
    let target = required("targetKeyId", request.target_key_id)?;
    store.change(|state| {
        if state.aliases.contains_key(&name) {
            let arn = store.home.alias_arn(&name);
            return Err(Refusal::AlreadyExists(format!(
                "An alias with the name {arn} already exists"
            )));
        }
        let target = target_key(store, state, &target, now)?;
        let alias = Alias { target, created: now, updated: now };
        Ok((Change::PutAlias(name, alias), ()))
    })
}

pub(super) fn update_alias(
    store: &KeyStore,
    request: PointAlias,
    now: SystemTime,
) -> Result<(), Refusal> {
    let name = alias_name(request.alias_name)?;
    let target = required("targetKeyId", request.target_key_id)?;
    store.change(|state| {
        let created = existing(store, state, &name)?.created;
        let target = target_key(store, state, &target, now)?;
        let alias = Alias { target, created, updated: now };
        Ok((Change::PutAlias(name, alias), ()))
    })
}

pub(super) fn delete_alias(store: &KeyStore, request: DeleteAlias) -> Result<(), Refusal> {
    let name = alias_name(request.alias_name)?;
    store.change(|state| {
        existing(store, state, &name)?;
        Ok((Change::RemoveAlias(name), ()))
    })
}

pub(super) fn list_aliases(
    store: &KeyStore,
    request: ListAliases,
    now: SystemTime,
) -> Result<AliasPage, Refusal> {
    let limit = number("limit", request.limit, 50, 1..=100)?;
    let after = match request.marker {
        None => Bound::Unbounded,
        Some(marker) if marker.starts_with("alias/") => Bound::Excluded(marker),
        Some(marker) => return Err(Refusal::InvalidMarker(marker)),
    };
    let state = store.read();
    let wanted = match request.key_id {
        None => None,
        Some(key) => Some(store.find_without_alias(&state, &key, now)?.id),
    };
    let mut rest = state
        .aliases
        .range((after, Bound::Unbounded))
        .filter(|(_, alias)| wanted.is_none_or(|key| key == alias.target));
    let aliases: Vec<_> = rest
        .by_ref()
        .take(limit)
        .map(|(name, alias)| ListedAlias {
            alias_arn: store.home.alias_arn(name),
            alias_name: name.clone(),
            creation_date: to_epoch_seconds(alias.created),
            last_updated_date: to_epoch_seconds(alias.updated),
            target_key_id: alias.target,
        })
        .collect();
    let truncated = rest.next().is_some();
    let next_marker = aliases.last().filter(|_| truncated).map(|alias| alias.alias_name.clone());
    Ok(AliasPage { aliases, next_marker, truncated })
}

/// Checks the name of an alias.
///
/// # Errors
///
/// [`Refusal::Validation`], or [`Refusal::NotAuthorized`] for names that AWS reserves.
pub(crate) fn check_alias_name(name: &str) -> Result<(), Refusal> {
    length("aliasName", name.len(), 1..=256)?;
    let Some(rest) = name.strip_prefix("alias/") else {
        return Err(Refusal::Validation("Invalid identifier".to_owned()));
    };
    if rest.starts_with("aws/") {
        return Err(Refusal::NotAuthorized);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/_-".contains(c);
    if rest.is_empty() || !rest.chars().all(allowed) {
        let rule = "Member must satisfy regular expression pattern: ^alias/[a-zA-Z0-9/_-]+$";
        return Err(constraint(name, "aliasName", rule));
    }
    Ok(())
}

fn alias_name(name: Option<String>) -> Result<String, Refusal> {
    let name = required("aliasName", name)?;
    check_alias_name(&name)?;
    Ok(name)
}

fn existing<'a>(store: &KeyStore, state: &'a State, name: &str) -> Result<&'a Alias, Refusal> {
    state.aliases.get(name).ok_or_else(|| {
        Refusal::NotFound(format!("Alias {} is not found.", store.home.alias_arn(name)))
    })
}

/// Finds the target of an alias, by key id or key ARN. It must not be pending deletion.
fn target_key(
    store: &KeyStore,
    state: &State,
    target: &str,
    now: SystemTime,
) -> Result<KeyId, Refusal> {
    if target.starts_with("alias/") {
        return Err(Refusal::Validation("Aliases must refer to keys. Not aliases".to_owned()));
    }
    let key = store.find_without_alias(state, target, now)?;
    match key.state {
        KeyState::PendingDeletion { .. } | KeyState::PendingReplicaDeletion { .. } => {
            Err(store.pending_deletion(&key))
        }
        KeyState::Enabled | KeyState::Disabled => Ok(key.id),
    }
}
