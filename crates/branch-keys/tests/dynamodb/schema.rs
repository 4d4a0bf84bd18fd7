//! Items of AWS's schema, and lists of them.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use branch_keys::{DynamoDbStorage, ItemType, Storage as _, StorageErrorKind};

use crate::items::{generation, item, version_of};
use crate::server::{Fault, Server, TABLE};

async fn create(storage: &DynamoDbStorage, id: &str) {
    let (active, version) = generation(id, 1);
    storage.create(&active, &version, &item(id, ItemType::Beacon, 1)).await.unwrap();
}

#[tokio::test]
async fn an_item_has_the_attributes_of_awss_clients() {
    let server = Server::with_table().await;
    create(&server.storage(), "tenant-1").await;
    let stored = server
        .client()
        .await
        .get_item()
        .table_name(TABLE)
        .key("branch-key-id", AttributeValue::S("tenant-1".to_owned()))
        .key("type", AttributeValue::S("branch:ACTIVE".to_owned()))
        .send()
        .await
        .unwrap()
        .item
        .unwrap();
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let expected = [
        ("branch-key-id", text("tenant-1")),
        ("type", text("branch:ACTIVE")),
        ("version", text("branch:version:01010101-0101-4f01-8f01-010101010101")),
        ("enc", AttributeValue::B(b"branch:ACTIVE 1".to_vec().into())),
        ("kms-arn", text("arn:aws:kms:us-east-1:111122223333:key/test")),
        ("create-time", text("2026-11-28T05:00:00.000000Z")),
        ("hierarchy-version", AttributeValue::N("1".to_owned())),
        ("aws-crypto-ec:tenant", text("tenant-1")),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(stored, expected.into());
}

#[tokio::test]
async fn unknown_strings_are_kept_and_other_unknown_attributes_are_refused() {
    let server = Server::with_table().await;
    let storage = server.storage();
    create(&storage, "tenant-1").await;
    let client = server.client().await;
    let put = async |name: &str, value: AttributeValue| {
        client
            .update_item()
            .table_name(TABLE)
            .key("branch-key-id", AttributeValue::S("tenant-1".to_owned()))
            .key("type", AttributeValue::S("branch:ACTIVE".to_owned()))
            .update_expression("SET #name = :value")
            .expression_attribute_names("#name", name)
            .expression_attribute_values(":value", value)
            .send()
            .await
            .unwrap();
    };
    put("note", AttributeValue::S("text".to_owned())).await;
    let stored = storage.read("tenant-1", ItemType::Active, true).await.unwrap().unwrap();
    let mut expected = generation("tenant-1", 1).0;
    expected.attributes.insert("note".to_owned(), "text".to_owned());
    assert_eq!(stored, expected);

    for (name, value) in [
        ("note", AttributeValue::N("1".to_owned())),
        ("note", AttributeValue::Bool(true)),
        ("note", AttributeValue::B(vec![1].into())),
        ("enc", AttributeValue::S("text".to_owned())),
        ("hierarchy-version", AttributeValue::S("1".to_owned())),
        ("not for\na log \u{1b}[31m", AttributeValue::Bool(true)),
        ("hierarchy-version", AttributeValue::N("-1".to_owned())),
        ("version", AttributeValue::Null(true)),
    ] {
        put("note", AttributeValue::S("text".to_owned())).await;
        put(name, value.clone()).await;
        let error = storage.read("tenant-1", ItemType::Active, true).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Invalid, "{name} {value:?}: {error}");
        let error = storage.items("tenant-1").await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Invalid, "{name} {value:?}: {error}");
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }
}

#[tokio::test]
async fn all_items_of_a_branch_key_are_listed_and_none_of_another() {
    let server = Server::with_table().await;
    let storage = server.storage();
    for id in ["tenant-1", "tenant-10", "Tenant-1", "tenant-1 "] {
        create(&storage, id).await;
    }
    let old = generation("tenant-1", 1).0.ciphertext;
    let (active, version) = generation("tenant-1", 2);
    storage.rotate(&active, &version, &old).await.unwrap();
    let items = storage.items("tenant-1").await.unwrap();
    assert!(items.iter().all(|item| item.id == "tenant-1"));
    let types: Vec<_> = items.iter().map(|item| item.item_type).collect();
    assert_eq!(types.len(), 4);
    for wanted in [
        ItemType::Active,
        ItemType::Beacon,
        ItemType::Version(version_of(1)),
        ItemType::Version(version_of(2)),
    ] {
        assert!(types.contains(&wanted), "{wanted}");
    }
}

#[tokio::test]
async fn the_list_of_items_is_bounded() {
    let server = Server::with_table().await;
    let storage = server.storage();
    let next = serde_json::json!({"branch-key-id": {"S": "tenant-1"}, "type": {"S": "x"}});
    let page = serde_json::json!({"Items": [], "Count": 0, "LastEvaluatedKey": next});
    server.fail("Query", vec![Fault::Answer(page); 100]);
    let error = storage.items("tenant-1").await.unwrap_err();
    assert_eq!((error.kind(), server.count("Query")), (StorageErrorKind::Invalid, 16));
}

#[tokio::test]
async fn each_id_is_listed_once_even_if_branch_keys_disappear_meanwhile() {
    let server = Server::with_table().await;
    let storage = server.storage();
    let ids: BTreeSet<_> = (0..25).map(|number| format!("tenant-{number}")).collect();
    for id in &ids {
        create(&storage, id).await;
    }
    for limit in [1, 4, 25, 1000] {
        let mut listed = Vec::new();
        loop {
            let after = listed.last().map(String::as_str);
            let page = storage.ids(after, limit).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert_eq!(listed.len(), 25);
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), ids);
    }
    let mut listed = storage.ids(None, 5).await.unwrap();
    let last = listed.last().unwrap().clone();
    storage.shred(&item(&last, ItemType::Tombstone, 1)).await.unwrap();
    listed.extend(storage.ids(Some(&last), 1000).await.unwrap());
    assert_eq!(listed.len(), 25);
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), ids);
}

#[tokio::test]
async fn shredding_continues_where_it_failed() {
    let server = Server::with_table().await;
    let storage = server.storage();
    create(&storage, "tenant-1").await;
    let tombstone = item("tenant-1", ItemType::Tombstone, 1);
    let denied = Fault::Refuse { status: 400, code: "AccessDeniedException" };
    server.fail("DeleteItem", [denied]);
    let error = storage.shred(&tombstone).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Denied);

    // The tombstone comes first: nobody can use the branch key's id from now on.
    let (active, version) = generation("tenant-1", 2);
    let old = generation("tenant-1", 1).0.ciphertext;
    let rotated = storage.rotate(&active, &version, &old).await;
    assert_eq!(rotated.unwrap_err().kind(), StorageErrorKind::Shredded);

    assert_eq!(storage.shred(&tombstone).await.unwrap(), 3);
    assert_eq!(storage.shred(&tombstone).await.unwrap(), 0);
    let left = storage.items("tenant-1").await.unwrap();
    assert_eq!(left, [tombstone]);
    let created = storage.create(&active, &version, &item("tenant-1", ItemType::Beacon, 2)).await;
    assert_eq!(created.unwrap_err().kind(), StorageErrorKind::Shredded);
}

/// Another client, which knows no tombstones, rotates between the list and the deletion.
#[tokio::test]
async fn a_version_that_appears_while_its_branch_key_is_shredded_is_deleted_too() {
    let server = Server::with_table().await;
    let storage = server.storage();
    create(&storage, "tenant-1").await;
    server.fail("DeleteItem", [Fault::Hang]);
    let tombstone = item("tenant-1", ItemType::Tombstone, 1);
    let shred = async {
        assert_eq!(storage.shred(&tombstone).await.unwrap(), 4);
    };
    let rotate = async {
        while server.count("DeleteItem") == 0 {
            tokio::task::yield_now().await;
        }
        let mut put = server.client().await.put_item().table_name(TABLE);
        for (name, value) in [
            ("branch-key-id", "tenant-1"),
            ("type", "branch:version:02020202-0202-4f02-8f02-020202020202"),
        ] {
            put = put.item(name, AttributeValue::S(value.to_owned()));
        }
        put.send().await.unwrap();
        server.release();
    };
    tokio::join!(shred, rotate);
    assert_eq!(storage.items("tenant-1").await.unwrap(), [tombstone]);
}
