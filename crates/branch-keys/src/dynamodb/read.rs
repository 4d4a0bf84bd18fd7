//! Reads items, and lists branch key ids.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::error::{failed, invalid};
use super::row::{self, Attributes, ID, TYPE};
use super::{Connection, DynamoDbStorage};
use crate::item::{Item, ItemType};
use crate::storage::StorageError;

/// The maximum number of items that one page of a scan reads.
const MAX_SCANNED: usize = 1000;

/// The maximum number of pages of one branch key's items, of 1 MB each: those of 20,000 versions.
const MAX_PAGES: usize = 16;

/// A branch key that was never rotated has this many items.
const ITEMS_PER_ID: usize = 3;

impl DynamoDbStorage {
    pub(super) async fn read_item(
        &self,
        id: &str,
        item_type: ItemType,
        consistent: bool,
    ) -> Result<Option<Item>, StorageError> {
        let response = self
            .connection()
            .await?
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(row::key(id, item_type)))
            .consistent_read(consistent)
            .send()
            .await
            .map_err(failed)?;
        response.item.map(row::read).transpose()
    }

    /// All items of a branch key, read consistently.
    ///
    /// # Errors
    ///
    /// [`StorageErrorKind::Invalid`](crate::StorageErrorKind::Invalid) if there are so many that
    /// they would fill the memory of every process that reads them.
    pub(super) async fn query_items(&self, id: &str) -> Result<Vec<Item>, StorageError> {
        let rows = self.query(&self.connection().await?, id, None, MAX_PAGES).await?;
        rows.into_iter().map(row::read).collect()
    }

    /// The types of all items of a branch key, read consistently. These may be types that are
    /// unknown here, and any number of them: what cannot be read can be deleted.
    pub(super) async fn query_types(
        &self,
        connection: &Connection,
        id: &str,
    ) -> Result<Vec<String>, StorageError> {
        let rows = self.query(connection, id, Some("#id, #type"), usize::MAX).await?;
        let of = |mut row: Attributes| match row.remove(TYPE) {
            Some(AttributeValue::S(name)) => Some(name),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(of).collect())
    }

    async fn query(
        &self,
        connection: &Connection,
        id: &str,
        projection: Option<&str>,
        max_pages: usize,
    ) -> Result<Vec<Attributes>, StorageError> {
        let mut rows = Vec::new();
        let mut after = None;
        for _ in 0..max_pages {
            let mut names = names();
            if projection.is_none() {
                // DynamoDB refuses unused names.
                names.remove("#type");
            }
            let page = connection
                .client
                .query()
                .table_name(&self.table)
                .key_condition_expression("#id = :id")
                .set_expression_attribute_names(Some(names))
                .expression_attribute_values(":id", AttributeValue::S(id.to_owned()))
                .set_projection_expression(projection.map(ToOwned::to_owned))
                .consistent_read(true)
                .set_exclusive_start_key(after)
                .send()
                .await
                .map_err(failed)?;
            rows.extend(page.items.unwrap_or_default());
            after = page.last_evaluated_key.filter(|key| !key.is_empty());
            if after.is_none() {
                return Ok(rows);
            }
        }
        Err(invalid(format!("the items take more than {max_pages} MB in total")))
    }

    /// Ids of branch keys in the order of the table, which is not alphabetical.
    pub(super) async fn scan_ids(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        let connection = self.connection().await?;
        let mut ids = Vec::new();
        let mut after = after.map(|id| row::key(id, ItemType::Active));
        while ids.len() < limit {
            let wanted = (limit - ids.len()).saturating_mul(ITEMS_PER_ID).min(MAX_SCANNED);
            let page = connection
                .client
                .scan()
                .table_name(&self.table)
                .filter_expression("#type = :active")
                .projection_expression("#id")
                .set_expression_attribute_names(Some(names()))
                .expression_attribute_values(
                    ":active",
                    AttributeValue::S(ItemType::Active.to_string()),
                )
                .limit(i32::try_from(wanted).unwrap_or(i32::MAX))
                .set_exclusive_start_key(after)
                .send()
                .await
                .map_err(failed)?;
            let found = page.items.unwrap_or_default().into_iter();
            ids.extend(found.filter_map(|mut row| match row.remove(ID) {
                Some(AttributeValue::S(id)) => Some(id),
                _ => None,
            }));
            after = page.last_evaluated_key.filter(|key| !key.is_empty());
            if after.is_none() {
                break;
            }
        }
        ids.truncate(limit);
        Ok(ids)
    }
}

fn names() -> HashMap<String, String> {
    [("#id", ID), ("#type", TYPE)].map(|(short, name)| (short.to_owned(), name.to_owned())).into()
}
