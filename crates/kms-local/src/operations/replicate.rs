//! Multi-Region keys: how they are related, and making one more of them.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{
    fields::{constraint, length, required},
    keys::{KeyMetadata, metadata},
};
use crate::{
    arn::Home,
    error::Refusal,
    store::{Change, Key, KeyState, Place},
};

/// `Policy`, `Tags` and `BypassPolicyLockoutSafetyCheck` are accepted and have no effect.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReplicateKey {
    pub(crate) key_id: Option<String>,
    pub(crate) replica_region: Option<String>,
    pub(crate) description: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(clippy::struct_field_names, reason = "the protocol has these names")]
pub(crate) struct Replicated {
    pub(crate) replica_key_metadata: KeyMetadata,
    replica_policy: &'static str,
    replica_tags: [(); 0],
}

/// Which keys belong together, and which of them this one is.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MultiRegionConfiguration {
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

pub(crate) fn replicate_key(
    place: &Place,
    request: ReplicateKey,
    now: SystemTime,
) -> Result<Replicated, Refusal> {
    let name = required("keyId", request.key_id)?;
    let region = required("replicaRegion", request.replica_region)?;
    let description = request.description.unwrap_or_default();
    length("description", description.len(), 0..=8192)?;

    let _one_at_a_time = place.relate();
    let primary = place.find_without_alias(&place.read(), &name, now)?;
    check_primary(place, &primary)?;
    place.check_usable(&primary)?;
    let target = match place.region(&region) {
        Some(target) if region != place.home.region => target,
        Some(_) => {
            return Err(constraint(
                region,
                "replicaRegion",
                "Member must not be the Region of the primary key",
            ));
        }
        None => {
            return Err(constraint(
                region,
                "replicaRegion",
                "Member must be a Region of this server",
            ));
        }
    };
    if target.home.partition() != place.home.partition() {
        return Err(constraint(
            region,
            "replicaRegion",
            "Member must be a Region of the same partition",
        ));
    }
    target.change(|_| {
        if target.holds(primary.id, now) {
            return Err(Refusal::AlreadyExists(format!(
                "{} already exists",
                target.home.key_arn(primary.id)
            )));
        }
        let replica =
            Key { description, created: now, state: KeyState::Enabled, ..Key::clone(&primary) };
        Ok((Change::ReplicateKey { replica, from: place.home.region.clone() }, ()))
    })?;
    let replica = target.find_without_alias(&target.read(), &primary.id.to_string(), now)?;
    Ok(Replicated {
        replica_key_metadata: metadata(place, &target.home, &replica, now),
        replica_policy: "",
        replica_tags: [],
    })
}

/// How the key with this home is related; nothing for a single-Region key.
pub(super) fn relations(
    place: &Place,
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
        replica_keys: place.replicas(key, now).into_iter().map(related).collect(),
    })
}

fn check_primary(place: &Place, key: &Key) -> Result<(), Refusal> {
    let arn = || place.home.key_arn(key.id);
    match &key.primary_region {
        Some(region) if *region == place.home.region => Ok(()),
        Some(_) => {
            Err(Refusal::Unsupported(format!("{} is a replica key, not a primary key.", arn())))
        }
        None => Err(Refusal::Unsupported(format!("{} is not a multi-Region key.", arn()))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        operations::{CreateKey, Operation, create_key},
        store::{Everywhere, KeyStore, State},
    };

    const DAY: Duration = Duration::from_hours(24);

    fn schedule(place: &Place, key: &str, now: SystemTime) -> Result<serde_json::Value, Refusal> {
        let operation = Operation::from_target("TrentService.ScheduleKeyDeletion").unwrap();
        let body = serde_json::json!({ "KeyId": key, "PendingWindowInDays": 7 }).to_string();
        operation
            .run(place, body.as_bytes(), now)
            .map(|answer| serde_json::from_slice(&answer).unwrap())
    }

    #[test]
    fn a_primary_is_scheduled_again_when_its_replicas_are_gone_and_a_replica_made_again() {
        let home =
            |region: &str| Home { region: region.to_owned(), account: "000000000000".to_owned() };
        let stores =
            ["a-1", "b-1"].map(|region| KeyStore::new(home(region), State::default(), None));
        let places = Everywhere::places(stores.into());
        let [here, there] = &places[..] else { panic!() };
        let start = SystemTime::UNIX_EPOCH;
        let key = create_key(here, CreateKey::multi_region(), start).unwrap().key_metadata.arn;
        let id = key.rsplit('/').next().unwrap();
        let replicate = |now| {
            let (key_id, replica_region) = (Some(key.clone()), Some("b-1".to_owned()));
            replicate_key(
                here,
                ReplicateKey { key_id, replica_region, ..ReplicateKey::default() },
                now,
            )
        };
        replicate(start).unwrap();
        assert_eq!(schedule(there, id, start).unwrap()["KeyState"], "PendingDeletion");
        assert!(matches!(replicate(start + 6 * DAY), Err(Refusal::AlreadyExists(_))));
        replicate(start + 7 * DAY).unwrap();

        assert_eq!(
            schedule(here, id, start + 7 * DAY).unwrap()["KeyState"],
            "PendingReplicaDeletion"
        );
        schedule(there, id, start + 7 * DAY).unwrap();
        assert!(matches!(schedule(here, id, start + 13 * DAY), Err(Refusal::InvalidState(_))));
        assert_eq!(schedule(here, id, start + 14 * DAY).unwrap()["KeyState"], "PendingDeletion");
        assert!(
            here.find(id, start + 20 * DAY).is_ok() && here.find(id, start + 21 * DAY).is_err()
        );
    }
}
