use crate::support::{REGION, Setup, code, setup};

#[tokio::test]
async fn an_alias_is_created_updated_and_deleted() {
    let Setup { kms, client, key } = setup().await;
    let other = kms.create_key(REGION);
    let target = async |alias: &str| {
        let described = client.describe_key().key_id(alias).send().await?;
        Ok::<_, aws_sdk_kms::Error>(described.key_metadata.unwrap().arn.unwrap())
    };

    client.create_alias().alias_name("alias/app").target_key_id(&key).send().await.unwrap();
    assert_eq!(target("alias/app").await.unwrap(), key);
    assert_eq!(target("arn:aws:kms:us-east-1:111122223333:alias/app").await.unwrap(), key);

    let id = other.rsplit('/').next().unwrap();
    client.update_alias().alias_name("alias/app").target_key_id(id).send().await.unwrap();
    assert_eq!(target("alias/app").await.unwrap(), other);

    client.delete_alias().alias_name("alias/app").send().await.unwrap();
    assert!(matches!(target("alias/app").await, Err(aws_sdk_kms::Error::NotFoundException(_))));
}

#[tokio::test]
async fn invalid_aliases_are_refused() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let create = |name: &str, target: &str| {
        client.create_alias().alias_name(name).target_key_id(target).send()
    };
    create("alias/app", &key).await.unwrap();
    assert_eq!(code(create("alias/app", &key).await), "AlreadyExistsException");
    assert_eq!(code(create("alias/aws/ebs", &key).await), "NotAuthorizedException");
    for name in ["app", "alias/", "alias/a:b", "alias/ä", &format!("alias/{}", "x".repeat(251))] {
        assert_eq!(code(create(name, &key).await), "ValidationException", "{name}");
    }
    assert_eq!(code(create("alias/b", "alias/app").await), "ValidationException");
    let unknown = "1234abcd-12ab-34cd-56ef-1234567890ab";
    assert_eq!(code(create("alias/b", unknown).await), "NotFoundException");

    let update = client.update_alias().alias_name("alias/none").target_key_id(&key).send().await;
    assert_eq!(code(update), "NotFoundException");
    let update = client.update_alias().alias_name("alias/app").target_key_id(unknown).send().await;
    assert_eq!(code(update), "NotFoundException");
    let delete = client.delete_alias().alias_name("alias/none").send().await;
    assert_eq!(code(delete), "NotFoundException");

    client.schedule_key_deletion().key_id(&key).send().await.unwrap();
    assert_eq!(code(create("alias/b", &key).await), "KMSInvalidStateException");
}

#[tokio::test]
async fn aliases_are_listed_by_page_and_by_key() {
    let Setup { kms, client, key } = setup().await;
    let other = kms.create_key(REGION);
    for (name, target) in [("c", &key), ("a", &key), ("b", &other), ("e", &key), ("d", &key)] {
        let name = format!("alias/{name}");
        client.create_alias().alias_name(name).target_key_id(target).send().await.unwrap();
    }
    let names = |page: &aws_sdk_kms::operation::list_aliases::ListAliasesOutput| {
        let names = page.aliases().iter().map(|alias| alias.alias_name().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };

    let first = client.list_aliases().key_id(&key).limit(3).send().await.unwrap();
    assert_eq!(names(&first), ["alias/a", "alias/c", "alias/d"]);
    assert!(first.truncated());
    let marker = first.next_marker().unwrap();
    let rest = client.list_aliases().key_id(&key).limit(3).marker(marker).send().await.unwrap();
    assert_eq!(names(&rest), ["alias/e"]);
    assert!(!rest.truncated() && rest.next_marker().is_none());

    let all = client.list_aliases().send().await.unwrap();
    assert_eq!(all.aliases().len(), 5);
    let alias = &all.aliases()[1];
    assert_eq!(alias.alias_arn(), Some("arn:aws:kms:us-east-1:111122223333:alias/b"));
    assert_eq!(alias.target_key_id(), other.rsplit('/').next());
    assert_eq!(alias.creation_date(), alias.last_updated_date());

    assert_eq!(code(client.list_aliases().limit(101).send().await), "ValidationException");
    assert_eq!(code(client.list_aliases().marker("x").send().await), "InvalidMarkerException");
    assert_eq!(code(client.list_aliases().key_id("x").send().await), "NotFoundException");
}
