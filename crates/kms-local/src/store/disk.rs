//! Keys and aliases in a `redb` database, so that they survive a restart.
//!
//! One file holds the keys of all regions. A commit is durable before it returns, and redb's
//! commits are atomic: after a crash, every acknowledged change is there, and no change is there in
//! part. The material of a key is written once, to a separate table, in the clear. The file is
//! therefore as secret as the keys, and only its owner can read it.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::state::{Alias, Change, Key, KeyState, State};
use crate::{
    arn::KeyId,
    ciphertext::{KEY_BYTES, WrappingKey},
    error::StartError,
    time,
};

type Table<V> = TableDefinition<'static, (&'static str, &'static str), V>;

/// (region, key id) → 32 bytes.
const MATERIAL: Table<&[u8; KEY_BYTES]> = TableDefinition::new("material");
/// (region, key id) → [`KeyRecord`] as JSON.
const KEYS: Table<&[u8]> = TableDefinition::new("keys");
/// (region, alias name) → [`AliasRecord`] as JSON.
const ALIASES: Table<&[u8]> = TableDefinition::new("aliases");
/// Properties of the whole directory.
const PROPERTIES: TableDefinition<'static, &str, &str> = TableDefinition::new("properties");

/// An open data directory. redb locks it against other processes.
pub(crate) struct Disk {
    /// `None` once closed.
    database: RwLock<Option<Database>>,
}

/// The reason why a change could not be made durable.
#[derive(Debug, Error)]
pub(crate) enum CommitError {
    #[error("the data directory is closed")]
    Closed,
    #[error("could not write to the data directory")]
    Database(#[from] redb::Error),
    #[error("could not encode a record")]
    Encoding(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct KeyRecord {
    description: String,
    created_ms: u64,
    enabled: bool,
    deletion_ms: Option<u64>,
    /// Earlier versions wrote neither this field nor the next.
    #[serde(default)]
    replica_deletion_days: Option<u32>,
    #[serde(default)]
    primary_region: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct AliasRecord {
    target: KeyId,
    created_ms: u64,
    updated_ms: u64,
}

impl Disk {
    /// Opens the directory. Creates it and the database if they do not exist.
    ///
    /// # Errors
    ///
    /// [`StartError`] if the directory cannot be created or read, if another process uses it, or if
    /// it belongs to another account.
    pub(crate) fn open(directory: &Path, account: &str) -> Result<Self, StartError> {
        let io_error = |source| StartError::DataDirectory { path: directory.to_owned(), source };
        let file = prepare(directory).map_err(io_error)?;
        let database = Database::create(&file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                StartError::DataDirectoryInUse(directory.to_owned())
            }
            other => storage(other),
        })?;
        // The names of new files must be as durable as their content.
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error)?;

        let found = claim(&database, account).map_err(storage)?;
        if found != account {
            return Err(StartError::AccountMismatch { wanted: account.to_owned(), found });
        }
        Ok(Self { database: RwLock::new(Some(database)) })
    }

    /// Loads the state of a region. Erases keys whose waiting period is over, with their aliases.
    ///
    /// # Errors
    ///
    /// [`StartError::Storage`], or [`StartError::DamagedRecord`] if a record cannot be read.
    pub(crate) fn load(&self, region: &str, now: SystemTime) -> Result<State, StartError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = guard.as_ref() else { return Ok(State::default()) };
        let mut state = load(database, region)?;
        let gone: Vec<_> = state.keys.extract_if(.., |_, key| key.is_gone(now)).collect();
        if !gone.is_empty() {
            let targets = |alias: &Alias| gone.iter().any(|(id, _)| *id == alias.target);
            let orphans: Vec<_> = state.aliases.extract_if(.., |_, alias| targets(alias)).collect();
            write(database, |transaction| {
                for (id, _) in &gone {
                    let id = id.to_string();
                    transaction.open_table(MATERIAL)?.remove((region, &*id))?;
                    transaction.open_table(KEYS)?.remove((region, &*id))?;
                }
                for (name, _) in &orphans {
                    transaction.open_table(ALIASES)?.remove((region, &**name))?;
                }
                Ok(())
            })
            .map_err(storage)?;
        }
        Ok(state)
    }

    /// Makes one change durable. Blocks until it is done.
    pub(crate) fn commit(&self, region: &str, change: &Change) -> Result<(), CommitError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(CommitError::Closed)?;
        match change {
            Change::CreateKey(key, material) => {
                let record = serde_json::to_vec(&KeyRecord::from(key))?;
                let id = key.id.to_string();
                write(database, |transaction| {
                    transaction.open_table(MATERIAL)?.insert((region, &*id), &**material)?;
                    transaction.open_table(KEYS)?.insert((region, &*id), &*record)?;
                    Ok(())
                })?;
            }
            Change::ReplicateKey { replica, from } => {
                let record = serde_json::to_vec(&KeyRecord::from(replica))?;
                let id = replica.id.to_string();
                write(database, |transaction| {
                    let mut material = transaction.open_table(MATERIAL)?;
                    let known =
                        material.get((&**from, &*id))?.map(|known| Zeroizing::new(*known.value()));
                    let known = known.ok_or_else(|| {
                        redb::Error::Corrupted(format!("no material for key {id} in region {from}"))
                    })?;
                    material.insert((region, &*id), &*known)?;
                    transaction.open_table(KEYS)?.insert((region, &*id), &*record)?;
                    Ok(())
                })?;
            }
            Change::ReplaceKey(key) => {
                let record = serde_json::to_vec(&KeyRecord::from(key))?;
                let id = key.id.to_string();
                write(database, |transaction| {
                    transaction.open_table(KEYS)?.insert((region, &*id), &*record)?;
                    Ok(())
                })?;
            }
            Change::PutAlias(name, alias) => {
                let record = serde_json::to_vec(&AliasRecord::from(alias))?;
                write(database, |transaction| {
                    transaction.open_table(ALIASES)?.insert((region, &**name), &*record)?;
                    Ok(())
                })?;
            }
            Change::RemoveAlias(name) => write(database, |transaction| {
                transaction.open_table(ALIASES)?.remove((region, &**name))?;
                Ok(())
            })?,
        }
        Ok(())
    }

    /// Releases the directory after the current commit. Later changes fail.
    pub(crate) fn close(&self) {
        self.database.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl From<&Key> for KeyRecord {
    fn from(key: &Key) -> Self {
        let (deletion_ms, replica_deletion_days) = match key.state {
            KeyState::PendingDeletion { on } => (Some(time::to_millis(on)), None),
            KeyState::PendingReplicaDeletion { days } => (None, Some(days)),
            KeyState::Enabled | KeyState::Disabled => (None, None),
        };
        Self {
            description: key.description.clone(),
            created_ms: time::to_millis(key.created),
            enabled: key.state == KeyState::Enabled,
            deletion_ms,
            replica_deletion_days,
            primary_region: key.primary_region.clone(),
        }
    }
}

impl From<&Alias> for AliasRecord {
    fn from(alias: &Alias) -> Self {
        Self {
            target: alias.target,
            created_ms: time::to_millis(alias.created),
            updated_ms: time::to_millis(alias.updated),
        }
    }
}

impl KeyRecord {
    fn into_key(self, id: KeyId, material: &[u8; KEY_BYTES]) -> Option<Key> {
        let state = match (self.deletion_ms, self.replica_deletion_days) {
            (Some(on), _) => KeyState::PendingDeletion { on: time::from_millis(on)? },
            (None, Some(days)) => KeyState::PendingReplicaDeletion { days },
            (None, None) if self.enabled => KeyState::Enabled,
            (None, None) => KeyState::Disabled,
        };
        Some(Key {
            id,
            primary_region: self.primary_region,
            description: self.description,
            created: time::from_millis(self.created_ms)?,
            state,
            wrapping: Arc::new(WrappingKey::new(id, material)),
        })
    }
}

impl AliasRecord {
    fn into_alias(self) -> Option<Alias> {
        Some(Alias {
            target: self.target,
            created: time::from_millis(self.created_ms)?,
            updated: time::from_millis(self.updated_ms)?,
        })
    }
}

/// Creates the directory and an empty database file, both accessible only to their owner.
fn prepare(directory: &Path) -> io::Result<PathBuf> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        builder.mode(0o700);
        options.mode(0o600);
    }
    builder.create(directory)?;
    let file = directory.join("kms-local.redb");
    options.open(&file)?;
    Ok(file)
}

/// Creates the tables, and stores the account if none is stored. Returns the stored account.
fn claim(database: &Database, account: &str) -> Result<String, redb::Error> {
    let mut found = account.to_owned();
    write(database, |transaction| {
        transaction.open_table(MATERIAL)?;
        transaction.open_table(KEYS)?;
        transaction.open_table(ALIASES)?;
        let mut properties = transaction.open_table(PROPERTIES)?;
        let known = properties.get("account")?.map(|known| known.value().to_owned());
        match known {
            Some(known) => found = known,
            None => {
                properties.insert("account", account)?;
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Runs one transaction. It is durable when this returns: redb's default is
/// `Durability::Immediate`.
fn write(
    database: &Database,
    steps: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    steps(&transaction)?;
    transaction.commit()?;
    Ok(())
}

fn storage(error: impl Into<redb::Error>) -> StartError {
    StartError::Storage(Box::new(error.into()))
}

fn load(database: &Database, region: &str) -> Result<State, StartError> {
    let mut state = State::default();
    let transaction = database.begin_read().map_err(storage)?;
    let material = transaction.open_table(MATERIAL).map_err(storage)?;
    let keys = transaction.open_table(KEYS).map_err(storage)?;
    let aliases = transaction.open_table(ALIASES).map_err(storage)?;

    for row in keys.range((region, "")..).map_err(storage)? {
        let (name, record) = row.map_err(storage)?;
        let (row_region, id_text) = name.value();
        if row_region != region {
            break;
        }
        let damaged = || StartError::DamagedRecord(format!("key {id_text} of {region}"));
        let id = KeyId::parse(id_text).ok_or_else(damaged)?;
        let record: KeyRecord = serde_json::from_slice(record.value()).map_err(|_| damaged())?;
        let material = material.get((region, id_text)).map_err(storage)?;
        let material = material.ok_or_else(damaged)?;
        let key = record.into_key(id, material.value()).ok_or_else(damaged)?;
        state.keys.insert(id, Arc::new(key));
    }
    for row in aliases.range((region, "")..).map_err(storage)? {
        let (name, record) = row.map_err(storage)?;
        let (row_region, alias_name) = name.value();
        if row_region != region {
            break;
        }
        let damaged = || StartError::DamagedRecord(format!("{alias_name} of {region}"));
        let record: AliasRecord = serde_json::from_slice(record.value()).map_err(|_| damaged())?;
        let alias = record.into_alias().ok_or_else(damaged)?;
        state.aliases.insert(alias_name.to_owned(), alias);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_key_is_erased_with_its_aliases_after_its_waiting_period() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), "000000000000").unwrap();
        let created = SystemTime::UNIX_EPOCH;
        let on = created + Duration::from_hours(24);
        let (key, create) = Key::generate(String::new(), None, created);
        let alias = Alias { target: key.id, created, updated: created };
        let pending = key.with_state(KeyState::PendingDeletion { on });
        for change in
            [create, Change::ReplaceKey(pending), Change::PutAlias("alias/a".to_owned(), alias)]
        {
            disk.commit("us-east-1", &change).unwrap();
        }
        let held = |now| {
            let state = disk.load("us-east-1", now).unwrap();
            (state.keys.len(), state.aliases.len())
        };
        assert_eq!(held(on - Duration::from_millis(1)), (1, 1));
        assert_eq!(held(on), (0, 0));
        assert_eq!(held(created), (0, 0));
    }

    #[test]
    fn a_damaged_record_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), "000000000000").unwrap();
        {
            let guard = disk.database.read().unwrap();
            write(guard.as_ref().unwrap(), |transaction| {
                transaction.open_table(KEYS)?.insert(("us-east-1", "x"), &b"{"[..])?;
                Ok(())
            })
            .unwrap();
        }
        let loaded = disk.load("us-east-1", SystemTime::UNIX_EPOCH);
        assert!(matches!(loaded, Err(StartError::DamagedRecord(_))));
        assert!(disk.load("us-east-2", SystemTime::UNIX_EPOCH).is_ok());
    }

    #[test]
    fn a_closed_disk_accepts_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), "000000000000").unwrap();
        disk.close();
        let (_, create) = Key::generate(String::new(), None, SystemTime::UNIX_EPOCH);
        assert!(matches!(disk.commit("us-east-1", &create), Err(CommitError::Closed)));
    }

    #[test]
    fn records_of_earlier_versions_are_read() {
        let id = KeyId::parse("1234abcd-12ab-34cd-56ef-1234567890ab").unwrap();
        let record = br#"{"description":"d","created_ms":5,"enabled":true,"deletion_ms":null}"#;
        let record: KeyRecord = serde_json::from_slice(record).unwrap();
        let key = record.into_key(id, &[7; KEY_BYTES]).unwrap();
        assert_eq!((key.state, key.primary_region), (KeyState::Enabled, None));
        let record =
            br#"{"target":"1234abcd-12ab-34cd-56ef-1234567890ab","created_ms":5,"updated_ms":6}"#;
        let record: AliasRecord = serde_json::from_slice(record).unwrap();
        assert_eq!(record.target, id);
    }
}
