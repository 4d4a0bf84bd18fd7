//! The command `envelope keys show`.

use std::{collections::BTreeMap, fmt::Write as _};

use branch_keys::{Error, Item, ItemType};
use serde::Serialize;

use crate::{
    arguments::keys::Show,
    failure::Failure,
    json,
    kms::Aws,
    output::print,
    store::{Table, storage, version_text},
};

/// The unverified items of a branch key. Field names are those of the specification.
#[derive(Debug, Serialize)]
struct Summary {
    verified: bool,
    branch_key_id: String,
    /// The active item. `null` if it is missing.
    active: Option<Active>,
    versions: Vec<Version>,
    has_beacon_key: bool,
}

#[derive(Debug, Serialize)]
struct Active {
    version: Option<String>,
    create_time: String,
    kms_arn: String,
    encryption_context: BTreeMap<String, String>,
    other_attributes: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Version {
    create_time: String,
    version: String,
}

pub(super) async fn run(arguments: &Show) -> Result<(), Failure> {
    let storage = storage(&arguments.store, &Aws::new(&arguments.kms), Table::Expect).await?;
    let id = &arguments.id;
    let items = storage.items(id).await.map_err(|error| Failure::storage(&error))?;
    if items.is_empty() {
        return Err(Failure::branch_keys(&Error::NotFound { id: id.clone() }));
    }
    if items.iter().any(|item| item.item_type == ItemType::Tombstone) {
        return Err(Failure::branch_keys(&Error::Shredded { id: id.clone() }));
    }
    let summary = Summary::new(id, items);
    let text = if arguments.json { json::pretty(&summary) } else { summary.text() };
    print(text.as_bytes())
}

impl Summary {
    fn new(id: &str, items: Vec<Item>) -> Self {
        let mut summary = Self {
            verified: false,
            branch_key_id: id.to_owned(),
            active: None,
            versions: vec![],
            has_beacon_key: false,
        };
        for item in items {
            match item.item_type {
                ItemType::Active => summary.active = Some(Active::new(item)),
                ItemType::Version(version) => summary.versions.push(Version {
                    create_time: item.create_time,
                    version: version_text(version),
                }),
                ItemType::Beacon => summary.has_beacon_key = true,
                ItemType::Tombstone => {}
            }
        }
        summary.versions.sort_by(|one, other| {
            (&one.create_time, &one.version).cmp(&(&other.create_time, &other.version))
        });
        summary
    }

    /// Returns the summary as text. Strings from the store are escaped, because they could contain
    /// terminal control sequences.
    fn text(&self) -> String {
        let mut out =
            "NOT VERIFIED: run `envelope keys verify` to authenticate the items\n".to_owned();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<18} {value}");
        };
        line("branch key id", format!("{:?}", self.branch_key_id));
        match &self.active {
            Some(active) => {
                let version = active.version.as_deref().unwrap_or("missing");
                line("active version", format!("{version:?}"));
                line("create time", format!("{:?}", active.create_time));
                line("KMS key", format!("{:?}", active.kms_arn));
                for (key, value) in &active.encryption_context {
                    line("encryption context", format!("{key:?} = {value:?}"));
                }
                for (key, value) in &active.other_attributes {
                    line("other attribute", format!("{key:?} = {value:?}"));
                }
            }
            None => line("active version", "missing".to_owned()),
        }
        for version in &self.versions {
            line("version", format!("{} created at {:?}", version.version, version.create_time));
        }
        line("beacon key", if self.has_beacon_key { "present" } else { "missing" }.to_owned());
        out
    }
}

impl Active {
    fn new(item: Item) -> Self {
        let version = |text: String| text.trim_start_matches("branch:version:").to_owned();
        let (custom, other): (BTreeMap<_, _>, _) =
            item.attributes.into_iter().partition(|(name, _)| name.starts_with(CUSTOM_PREFIX));
        // Once: the rest may begin with the prefix, too.
        let unprefixed =
            |(mut name, value): (String, String)| (name.split_off(CUSTOM_PREFIX.len()), value);
        Self {
            version: item.version.map(version),
            create_time: item.create_time,
            kms_arn: item.kms_key_arn,
            encryption_context: custom.into_iter().map(unprefixed).collect(),
            other_attributes: other,
        }
    }
}

const CUSTOM_PREFIX: &str = "aws-crypto-ec:";
