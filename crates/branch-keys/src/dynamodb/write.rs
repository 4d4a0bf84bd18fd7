//! Creates, rotates and shreds branch keys.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ConditionCheck, Put, TransactWriteItem};

use super::error::{failed, is, misbuilt, unknown};
use super::row::{self, CIPHERTEXT, ID, TYPE};
use super::transaction::Outcome;
use super::{Connection, DynamoDbStorage};
use crate::item::{Item, ItemType};
use crate::storage::{StorageError, StorageErrorKind};

/// No item has this primary key yet.
const IS_NEW: &str = "attribute_not_exists(#id)";
/// The item exists and has the ciphertext that was read before.
const IS_UNCHANGED: &str = "attribute_exists(#id) AND #enc = :old";

/// The code of a request without effect, because a transaction uses the same item.
const CONFLICT: &str = "TransactionConflictException";

/// How many times a request is sent again while a transaction uses the same item.
const MAX_CONFLICTS: u32 = 8;

/// How many times [`DynamoDbStorage::delete_all`] looks for further items. Another client that
/// rotates the branch key at the same time may add one item.
const MAX_ROUNDS: u32 = 4;

impl DynamoDbStorage {
    pub(super) async fn put_new(
        &self,
        active: &Item,
        version: &Item,
        beacon: &Item,
    ) -> Result<(), StorageError> {
        let connection = self.connection().await?;
        let items = vec![
            self.unshredded(&active.id)?,
            self.put(version, IS_NEW, None)?,
            self.put(active, IS_NEW, None)?,
            self.put(beacon, IS_NEW, None)?,
        ];
        let outcome = self.transact(&connection, items).await?;
        self.decide(outcome, version, StorageErrorKind::AlreadyExists).await
    }

    pub(super) async fn put_next(
        &self,
        active: &Item,
        version: &Item,
        old_ciphertext: &[u8],
    ) -> Result<(), StorageError> {
        let connection = self.connection().await?;
        let items = vec![
            self.unshredded(&active.id)?,
            self.put(version, IS_NEW, None)?,
            self.put(active, IS_UNCHANGED, Some(old_ciphertext))?,
        ];
        let outcome = self.transact(&connection, items).await?;
        self.decide(outcome, version, StorageErrorKind::Race).await
    }

    pub(super) async fn put_instead(
        &self,
        item: &Item,
        old_ciphertext: &[u8],
    ) -> Result<(), StorageError> {
        let connection = self.connection().await?;
        let items =
            vec![self.unshredded(&item.id)?, self.put(item, IS_UNCHANGED, Some(old_ciphertext))?];
        let outcome = self.transact(&connection, items).await?;
        self.decide(outcome, item, StorageErrorKind::Race).await
    }

    /// Decides what became of a transaction that put this item.
    ///
    /// Only the process that put it knows its random ciphertext: if it is stored, then the
    /// transaction was committed, even if a condition failed when it was repeated. Of a creation or
    /// a rotation it is the version, which nobody rotates away.
    async fn decide(
        &self,
        outcome: Outcome,
        item: &Item,
        lost: StorageErrorKind,
    ) -> Result<(), StorageError> {
        let error = match outcome {
            Outcome::Committed => return Ok(()),
            Outcome::ConditionsFailed(failed) if failed.first() == Some(&true) => {
                return Err(StorageError::new(StorageErrorKind::Shredded));
            }
            Outcome::ConditionsFailed(_) => StorageError::new(lost),
            Outcome::Unknown(cause) => unknown(cause),
        };
        match self.read_item(&item.id, item.item_type, true).await {
            Ok(Some(stored)) if stored.ciphertext == item.ciphertext => Ok(()),
            Ok(_) => Err(error),
            Err(cause) => Err(unknown(cause)),
        }
    }

    /// Puts the tombstone, and then deletes all other items of the branch key.
    pub(super) async fn delete_all(&self, tombstone: &Item) -> Result<u64, StorageError> {
        let connection = self.connection().await?;
        self.put_tombstone(&connection, tombstone).await?;
        let tombstone_type = tombstone.item_type.to_string();
        let mut deleted = 0;
        for _ in 0..MAX_ROUNDS {
            let mut types = self.query_types(&connection, &tombstone.id).await?;
            types.retain(|it| *it != tombstone_type);
            if types.is_empty() {
                return Ok(deleted);
            }
            // ACTIVE first: without it, no client can rotate the branch key.
            let active = ItemType::Active.to_string();
            types.sort_by_key(|it| *it != active);
            for item_type in types {
                self.delete(&connection, &tombstone.id, item_type).await?;
                deleted += 1;
            }
        }
        Err(StorageError::new(StorageErrorKind::Unavailable))
    }

    async fn put_tombstone(
        &self,
        connection: &Connection,
        tombstone: &Item,
    ) -> Result<(), StorageError> {
        let mut conflicts = 0;
        loop {
            let put = connection
                .client
                .put_item()
                .table_name(&self.table)
                .set_item(Some(row::write(tombstone)))
                .condition_expression(IS_NEW)
                .expression_attribute_names("#id", ID);
            match put.send().await {
                Ok(_) => return Ok(()),
                // The tombstone exists.
                Err(error) if is(&error, "ConditionalCheckFailedException") => return Ok(()),
                Err(error) if is(&error, CONFLICT) && conflicts < MAX_CONFLICTS => {}
                Err(error) => return Err(failed(error)),
            }
            conflicts += 1;
            connection.pause(conflicts).await;
        }
    }

    async fn delete(
        &self,
        connection: &Connection,
        id: &str,
        item_type: String,
    ) -> Result<(), StorageError> {
        let mut conflicts = 0;
        loop {
            let delete = connection
                .client
                .delete_item()
                .table_name(&self.table)
                .key(ID, AttributeValue::S(id.to_owned()))
                .key(TYPE, AttributeValue::S(item_type.clone()));
            match delete.send().await {
                Ok(_) => return Ok(()),
                Err(error) if is(&error, CONFLICT) && conflicts < MAX_CONFLICTS => {}
                Err(error) => return Err(failed(error)),
            }
            conflicts += 1;
            connection.pause(conflicts).await;
        }
    }

    /// A part of a transaction that fails if the branch key was shredded. It must be the first.
    fn unshredded(&self, id: &str) -> Result<TransactWriteItem, StorageError> {
        let check = ConditionCheck::builder()
            .table_name(&self.table)
            .set_key(Some(row::key(id, ItemType::Tombstone)))
            .condition_expression(IS_NEW)
            .expression_attribute_names("#id", ID)
            .build()
            .map_err(misbuilt)?;
        Ok(TransactWriteItem::builder().condition_check(check).build())
    }

    fn put(
        &self,
        item: &Item,
        condition: &str,
        old_ciphertext: Option<&[u8]>,
    ) -> Result<TransactWriteItem, StorageError> {
        let mut names = HashMap::from([("#id".to_owned(), ID.to_owned())]);
        let values = old_ciphertext.map(|old| {
            names.insert("#enc".to_owned(), CIPHERTEXT.to_owned());
            HashMap::from([(":old".to_owned(), AttributeValue::B(Blob::new(old)))])
        });
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(row::write(item)))
            .condition_expression(condition)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(values)
            .build()
            .map_err(misbuilt)?;
        Ok(TransactWriteItem::builder().put(put).build())
    }
}
