//! The operation that replicates a multi-Region key.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{
    fields::{constraint, length, required},
    metadata::KeyMetadata,
};
use crate::{
    error::Refusal,
    store::{Change, Key, KeyState, StoreHandle},
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

pub(crate) fn replicate_key(
    store: &StoreHandle,
    request: ReplicateKey,
    now: SystemTime,
) -> Result<Replicated, Refusal> {
    let name = required("keyId", request.key_id)?;
    let region = required("replicaRegion", request.replica_region)?;
    let description = request.description.unwrap_or_default();
    length("description", description.len(), 0..=8192)?;

    let _one_at_a_time = store.relate();
    let primary = store.find_without_alias(&store.read(), &name, now)?;
    check_primary(store, &primary)?;
    store.check_usable(&primary)?;
    let target = match store.region(&region) {
        Some(target) if region != store.home.region => target,
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
    if target.home.partition() != store.home.partition() {
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
        Ok((Change::ReplicateKey { replica, from: store.home.region.clone() }, ()))
    })?;
    let replica = target.find_without_alias(&target.read(), &primary.id.to_string(), now)?;
    Ok(Replicated {
        replica_key_metadata: KeyMetadata::new(store, &target.home, &replica, now),
        replica_policy: "",
        replica_tags: [],
    })
}

fn check_primary(store: &StoreHandle, key: &Key) -> Result<(), Refusal> {
    let arn = || store.home.key_arn(key.id);
    match &key.primary_region {
        Some(region) if *region == store.home.region => Ok(()),
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
        arn::Home,
        operations::{CreateKey, Operation, create_key},
        store::{KeyStore, State, Stores},
    };

    const DAY: Duration = Duration::from_hours(24);

    fn schedule(
        store: &StoreHandle,
        key: &str,
        now: SystemTime,
    ) -> Result<serde_json::Value, Refusal> {
        let operation = Operation::from_target("TrentService.ScheduleKeyDeletion").unwrap();
        let body = serde_json::json!({ "KeyId": key, "PendingWindowInDays": 7 }).to_string();
        operation
            .run(store, body.as_bytes(), now)
            .map(|answer| serde_json::from_slice(&answer).unwrap())
    }

    #[test]
    fn deletion_of_a_primary_waits_for_its_replicas_and_a_replica_can_be_created_again() {
        let home =
            |region: &str| Home { region: region.to_owned(), account: "000000000000".to_owned() };
        let stores =
            ["a-1", "b-1"].map(|region| KeyStore::new(home(region), State::default(), None));
        let handles = Stores::handles(stores.into());
        let [here, there] = &handles[..] else { panic!() };
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
