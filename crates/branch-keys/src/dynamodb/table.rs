//! Creates the table, or verifies that it has the schema of a key store.

use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, MultiRegionConsistency,
    ScalarAttributeType, TableDescription, TableStatus,
};

use super::error::{failed, is, misbuilt, refused};
use super::row::{ID, TYPE};
use super::{Connection, DynamoDbStorage};
use crate::storage::StorageError;

/// The pause before the table is described again.
const PAUSE: Duration = Duration::from_millis(250);
/// How many times the table is described before this gives up: two minutes in total.
const MAX_LOOKS: u32 = 480;

impl DynamoDbStorage {
    /// Creates the table if it does not exist, and waits until it can be used.
    ///
    /// A new table is billed per request. An existing table must have the primary key of AWS's key
    /// stores, and may have indexes. This returns whether the table was created. It can be called
    /// again, and by several processes at once. The principal needs `dynamodb:DescribeTable` and
    /// `dynamodb:CreateTable`.
    ///
    /// Enable point-in-time recovery and deletion protection of the table yourself.
    ///
    /// # Errors
    ///
    /// - [`StorageErrorKind::Other`](crate::StorageErrorKind::Other) if the table has another
    ///   primary key, is a global table with multi-Region strong consistency, which has no
    ///   transactions, is being deleted, or cannot be used within two minutes.
    /// - [`StorageErrorKind::Unavailable`](crate::StorageErrorKind::Unavailable) if DynamoDB cannot
    ///   be reached.
    /// - [`StorageErrorKind::Denied`](crate::StorageErrorKind::Denied) if the principal may not
    ///   describe or create the table.
    pub async fn create_table(&self) -> Result<bool, StorageError> {
        let connection = self.connection().await?;
        let mut description = self.describe(&connection).await?;
        let is_created = description.is_none() && self.create(&connection).await?;
        for _ in 0..MAX_LOOKS {
            // A new table may be unknown for a moment.
            if let Some(table) = &description
                && is_usable(table)?
            {
                return Ok(is_created);
            }
            connection.sleep(PAUSE).await;
            description = self.describe(&connection).await?;
        }
        Err(refused("the table cannot be used after two minutes: see its status"))
    }

    async fn describe(
        &self,
        connection: &Connection,
    ) -> Result<Option<TableDescription>, StorageError> {
        match connection.client.describe_table().table_name(&self.table).send().await {
            Ok(response) => Ok(response.table),
            Err(error) if is(&error, "ResourceNotFoundException") => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Creates the table. Returns false if another process created it.
    async fn create(&self, connection: &Connection) -> Result<bool, StorageError> {
        let mut request = connection
            .client
            .create_table()
            .table_name(&self.table)
            .billing_mode(BillingMode::PayPerRequest);
        for (name, key_type) in [(ID, KeyType::Hash), (TYPE, KeyType::Range)] {
            let definition = AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S);
            let element = KeySchemaElement::builder().attribute_name(name).key_type(key_type);
            request = request
                .attribute_definitions(definition.build().map_err(misbuilt)?)
                .key_schema(element.build().map_err(misbuilt)?);
        }
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) if is(&error, "ResourceInUseException") => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Whether the table can be used now.
///
/// # Errors
///
/// Why it can never be used.
fn is_usable(table: &TableDescription) -> Result<bool, StorageError> {
    let has_key = |name: &str, key_type: KeyType| {
        let is_key =
            |it: &KeySchemaElement| it.attribute_name() == name && *it.key_type() == key_type;
        let is_text = |it: &AttributeDefinition| {
            it.attribute_name() == name && *it.attribute_type() == ScalarAttributeType::S
        };
        table.key_schema().iter().any(is_key) && table.attribute_definitions().iter().any(is_text)
    };
    if !has_key(ID, KeyType::Hash) || !has_key(TYPE, KeyType::Range) {
        return Err(refused(
            "the table has another primary key: it must be the string \"branch-key-id\" with the \
             string \"type\" as sort key",
        ));
    }
    if table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong) {
        return Err(refused(
            "a table with multi-Region strong consistency has no transactions: use one with \
             eventual consistency, or in one region",
        ));
    }
    match table.table_status() {
        Some(TableStatus::Active | TableStatus::Updating) => Ok(true),
        Some(TableStatus::Creating) => Ok(false),
        status => {
            let status = status.map_or("unknown", TableStatus::as_str);
            Err(refused(&format!("the table cannot be used: its status is {status}")))
        }
    }
}
