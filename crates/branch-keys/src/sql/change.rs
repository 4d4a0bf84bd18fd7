//! Creates, rotates, replaces and shreds items of branch keys, each in one transaction.
//!
//! Each transaction first inserts the row of the tombstone, and all but a shredding delete it again
//! before they commit. So the primary key of that row is a lock on the branch key, in any database
//! and without a table of locks: a second transaction waits for the first, then sees its outcome.
//! It cannot insert the row if the branch key has been shredded.

use super::connection::Connection;
use super::error::Failure;
use super::row::{self, DELETE_ONE, DELETE_OTHERS, UPDATE_ONE, Value};
use crate::item::{Item, ItemType};
use crate::storage::StorageErrorKind;

/// What a transaction does.
#[derive(Debug)]
pub(super) enum Change {
    Create([Item; 3]),
    Rotate { active: Item, version: Item, old_ciphertext: Vec<u8> },
    Replace { item: Item, old_ciphertext: Vec<u8> },
    Shred { tombstone: Item },
}

impl Change {
    /// Commits the change. Returns the number of rows that a shredding deleted.
    pub(super) async fn commit(&self, connection: &mut Connection) -> Result<u64, Failure> {
        connection.begin().await?;
        match self.apply(connection).await {
            Ok(deleted) => {
                connection.commit().await?;
                Ok(deleted)
            }
            Err(failure @ (Failure::Broken(_) | Failure::Unknown(_))) => Err(failure),
            Err(failure) => {
                connection.rollback().await?;
                Err(failure)
            }
        }
    }

    async fn apply(&self, connection: &mut Connection) -> Result<u64, Failure> {
        match self {
            Self::Create(items) => {
                lock(connection, &items[0]).await?;
                for item in items {
                    if !connection.insert(row::write(item)?).await? {
                        return Err(Failure::answer(StorageErrorKind::AlreadyExists));
                    }
                }
                unlock(connection, &items[0]).await?;
                Ok(0)
            }
            Self::Rotate { active, version, old_ciphertext } => {
                lock(connection, active).await?;
                update(connection, active, old_ciphertext).await?;
                if !connection.insert(row::write(version)?).await? {
                    return Err(Failure::answer(StorageErrorKind::Race));
                }
                unlock(connection, active).await?;
                Ok(0)
            }
            Self::Replace { item, old_ciphertext } => {
                lock(connection, item).await?;
                update(connection, item, old_ciphertext).await?;
                unlock(connection, item).await?;
                Ok(0)
            }
            Self::Shred { tombstone } => {
                // If it exists, it stays as it is.
                connection.insert(row::write(tombstone)?).await?;
                let id_and_type = vec![row::id(&tombstone.id), row::item_type(ItemType::Tombstone)];
                Ok(connection.execute(DELETE_OTHERS, id_and_type).await?)
            }
        }
    }
}

/// Replaces an item that has the old ciphertext.
async fn update(
    connection: &mut Connection,
    item: &Item,
    old_ciphertext: &[u8],
) -> Result<(), Failure> {
    let mut values = row::write(item)?;
    let id_and_type: Vec<Value> = values.drain(..2).collect();
    values.extend(id_and_type);
    values.push(Value::Bytes(old_ciphertext.to_vec()));
    if connection.execute(UPDATE_ONE, values).await? == 1 {
        Ok(())
    } else {
        Err(Failure::answer(StorageErrorKind::Race))
    }
}

async fn lock(connection: &mut Connection, item: &Item) -> Result<(), Failure> {
    let lock = Item {
        id: item.id.clone(),
        item_type: ItemType::Tombstone,
        kms_key_arn: String::new(),
        create_time: item.create_time.clone(),
        hierarchy_version: item.hierarchy_version,
        version: None,
        ciphertext: Vec::new(),
        attributes: std::collections::BTreeMap::new(),
    };
    if connection.insert(row::write(&lock)?).await? {
        Ok(())
    } else {
        Err(Failure::answer(StorageErrorKind::Shredded))
    }
}

async fn unlock(connection: &mut Connection, item: &Item) -> Result<(), Failure> {
    let lock = vec![row::id(&item.id), row::item_type(ItemType::Tombstone)];
    connection.execute(DELETE_ONE, lock).await?;
    Ok(())
}
