//! Creating the table.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use branch_keys::{DynamoDbStorage, StorageErrorKind};
use futures_util::future::join_all;
use serde_json::json;

use crate::server::{Fault, Server, TABLE};

#[tokio::test]
async fn a_table_is_created_once_by_any_number_of_processes() {
    let server = Server::start().await;
    let storages: Vec<_> = (0..8).map(|_| server.storage()).collect();
    let created = join_all(storages.iter().map(DynamoDbStorage::create_table)).await;
    let created: Vec<_> = created.into_iter().map(Result::unwrap).collect();
    assert_eq!(created.iter().filter(|it| **it).count(), 1, "{created:?}");
    assert!(!server.storage().create_table().await.unwrap());
    let table = server.client().await.describe_table().table_name(TABLE).send().await.unwrap();
    let billing = table.table.unwrap().billing_mode_summary.unwrap();
    assert_eq!(billing.billing_mode, Some(BillingMode::PayPerRequest));
}

#[tokio::test]
async fn a_table_with_another_primary_key_is_refused() {
    for [hash, range] in [["branch-key-id", "kind"], ["id", "type"], ["type", "branch-key-id"]] {
        let server = Server::start().await;
        let mut request = server
            .client()
            .await
            .create_table()
            .table_name(TABLE)
            .billing_mode(BillingMode::PayPerRequest);
        for (name, key_type) in [(hash, KeyType::Hash), (range, KeyType::Range)] {
            let definition = AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S);
            let element = KeySchemaElement::builder().attribute_name(name).key_type(key_type);
            request = request
                .attribute_definitions(definition.build().unwrap())
                .key_schema(element.build().unwrap());
        }
        request.send().await.unwrap();
        let error = server.storage().create_table().await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Other, "{error}");
        assert!(error.to_string().contains("another primary key"), "{error}");
    }
}

fn description(status: &str, consistency: &str) -> Fault {
    let definition = |name: &str| json!({ "AttributeName": name, "AttributeType": "S" });
    let element =
        |name: &str, key_type: &str| json!({ "AttributeName": name, "KeyType": key_type });
    Fault::Answer(json!({ "Table": {
        "TableStatus": status,
        "MultiRegionConsistency": consistency,
        "AttributeDefinitions": [definition("branch-key-id"), definition("type")],
        "KeySchema": [element("branch-key-id", "HASH"), element("type", "RANGE")],
    }}))
}

#[tokio::test]
async fn an_unusable_table_is_refused_and_a_new_one_is_awaited() {
    let server = Server::start().await;
    let storage = server.storage();
    for (status, consistency, reason) in [
        ("ACTIVE", "STRONG", "no transactions"),
        ("DELETING", "EVENTUAL", "its status is DELETING"),
    ] {
        server.fail("DescribeTable", [description(status, consistency)]);
        let error = storage.create_table().await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let looks = server.count("DescribeTable");
    server.fail(
        "DescribeTable",
        ["CREATING", "CREATING", "ACTIVE"].map(|status| description(status, "EVENTUAL")),
    );
    assert!(!storage.create_table().await.unwrap());
    assert_eq!(server.count("DescribeTable"), looks + 3);
    assert_eq!(server.count("CreateTable"), 0);
}
