use aws_sdk_kms::{
    Client,
    primitives::Blob,
    types::{KeyMetadata, KeyState, MultiRegionKeyType},
};
use kms_local::KmsLocal;

use crate::support::{client, code};

const HERE: &str = "us-east-1";
const THERE: &str = "eu-west-1";
const CHINA: &str = "cn-north-1";

/// A server with three regions, and clients for the first two.
struct Regions {
    kms: KmsLocal,
    here: Client,
    there: Client,
}

async fn regions() -> Regions {
    let kms = KmsLocal::builder().region(HERE).region(THERE).region(CHINA).start().await.unwrap();
    let [here, there] = [HERE, THERE].map(|region| client(&kms, region, kms.issue_credentials()));
    Regions { kms, here, there }
}

fn elsewhere(arn: &str) -> String {
    arn.replace(HERE, THERE)
}

async fn create(client: &Client) -> KeyMetadata {
    client.create_key().multi_region(true).send().await.unwrap().key_metadata.unwrap()
}

async fn describe(client: &Client, key: &str) -> KeyMetadata {
    client.describe_key().key_id(key).send().await.unwrap().key_metadata.unwrap()
}

async fn encrypt(client: &Client, key: &str) -> Blob {
    let encrypted = client.encrypt().key_id(key).plaintext(Blob::new("text")).send().await.unwrap();
    encrypted.ciphertext_blob.unwrap()
}

#[tokio::test]
async fn a_primary_is_replicated_and_each_is_described() {
    let Regions { kms: _kms, here, there } = regions().await;
    let primary = create(&here).await;
    let (id, arn) = (primary.key_id(), primary.arn().unwrap());
    assert!(id.len() == 36 && id.starts_with("mrk-"), "{id}");
    assert_eq!(arn, format!("arn:aws:kms:us-east-1:000000000000:key/{id}"));
    let alone = primary.multi_region_configuration().unwrap();
    assert_eq!((primary.multi_region(), alone.replica_keys().len()), (Some(true), 0));

    let request = here.replicate_key().key_id(id).replica_region(THERE).description("a copy");
    let replica = request.send().await.unwrap().replica_key_metadata.unwrap();
    assert_eq!((replica.key_id(), replica.arn().unwrap()), (id, &*elsewhere(arn)));
    assert_eq!((replica.description(), primary.description()), (Some("a copy"), Some("")));
    assert_eq!(describe(&there, id).await, replica);

    let described = [describe(&here, arn).await, replica];
    let kinds = [MultiRegionKeyType::Primary, MultiRegionKeyType::Replica];
    for (key, kind) in described.iter().zip(kinds) {
        let related = key.multi_region_configuration().unwrap();
        assert_eq!(related.multi_region_key_type(), Some(&kind));
        let primary = related.primary_key().unwrap();
        assert_eq!((primary.arn(), primary.region()), (Some(arn), Some(HERE)));
        let [replica] = related.replica_keys() else { panic!("{related:?}") };
        assert_eq!((replica.arn(), replica.region()), (Some(&*elsewhere(arn)), Some(THERE)));
    }
    assert_eq!(there.list_keys().send().await.unwrap().keys()[0].key_id(), Some(id));
}

#[tokio::test]
async fn related_keys_decrypt_the_ciphertexts_of_each_other() {
    let Regions { kms, here, there } = regions().await;
    let key = kms.create_multi_region_key(HERE, &[THERE]);
    let replica = elsewhere(&key);
    for (encrypting, name, decrypting, decrypts_under) in
        [(&here, &key, &there, &replica), (&there, &replica, &here, &key)]
    {
        let blob = encrypt(encrypting, name).await;
        for named in [None, Some(decrypts_under.clone())] {
            let decrypted = decrypting
                .decrypt()
                .ciphertext_blob(blob.clone())
                .set_key_id(named)
                .send()
                .await
                .unwrap();
            assert_eq!(decrypted.plaintext().unwrap().as_ref(), b"text");
            assert_eq!(decrypted.key_id(), Some(&**decrypts_under));
        }
        let re_encrypted = decrypting
            .re_encrypt()
            .ciphertext_blob(blob.clone())
            .destination_key_id(decrypts_under)
            .send()
            .await;
        assert_eq!(re_encrypted.unwrap().source_key_id(), Some(&**decrypts_under));
        // Each region knows only its own ARNs.
        let refused = decrypting.decrypt().ciphertext_blob(blob).key_id(name).send().await;
        assert_eq!(code(refused), "NotFoundException");
    }

    // Unrelated keys cannot decrypt it.
    let blob = encrypt(&here, &key).await;
    let other = kms.create_multi_region_key(THERE, &[]);
    let refused = there.decrypt().ciphertext_blob(blob).key_id(other).send().await;
    assert_eq!(code(refused), "IncorrectKeyException");
    let blob = encrypt(&here, &kms.create_key(HERE)).await;
    assert_eq!(code(there.decrypt().ciphertext_blob(blob).send().await), "AccessDeniedException");
}

#[tokio::test]
async fn the_two_formats_of_an_id_name_two_keys() {
    let Regions { kms, here, .. } = regions().await;
    let multi = kms.create_multi_region_key(HERE, &[]);
    let single = kms.create_key(HERE);
    let [multi, single] = [multi, single].map(|arn| arn.rsplit('/').next().unwrap().to_owned());
    let digits = &multi["mrk-".len()..];
    let hyphenated =
        [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
    let upper = format!("mrk-{}", digits.to_uppercase());
    for name in [
        digits,
        &hyphenated,
        &upper,
        &format!("mrk-{single}"),
        &format!("mrk-{}", single.replace('-', "")),
    ] {
        assert_eq!(
            code(here.describe_key().key_id(name).send().await),
            "NotFoundException",
            "{name}"
        );
    }
    describe(&here, &multi).await;
    describe(&here, &single).await;
}

#[tokio::test]
async fn related_keys_have_separate_states() {
    let Regions { kms, here, there } = regions().await;
    let key = kms.create_multi_region_key(HERE, &[THERE]);
    let blob = encrypt(&here, &key).await;
    here.disable_key().key_id(&key).send().await.unwrap();
    assert_eq!(
        code(here.decrypt().ciphertext_blob(blob.clone()).send().await),
        "DisabledException"
    );
    there.decrypt().ciphertext_blob(blob.clone()).send().await.unwrap();
    kms.disable_key(THERE, &elsewhere(&key)).unwrap();
    here.enable_key().key_id(&key).send().await.unwrap();
    here.decrypt().ciphertext_blob(blob.clone()).send().await.unwrap();
    assert_eq!(code(there.decrypt().ciphertext_blob(blob).send().await), "DisabledException");
}

#[tokio::test]
async fn invalid_replications_are_refused() {
    let Regions { kms, here, there } = regions().await;
    let replicate = async |client: &Client, key: &str, region: &str| {
        code(client.replicate_key().key_id(key).replica_region(region).send().await)
    };
    let key = kms.create_multi_region_key(HERE, &[THERE]);
    assert_eq!(replicate(&here, &key, THERE).await, "AlreadyExistsException");
    assert_eq!(replicate(&here, &key, HERE).await, "ValidationException");
    assert_eq!(replicate(&here, &key, "mars-1").await, "ValidationException");
    assert_eq!(replicate(&here, &key, CHINA).await, "ValidationException");
    assert_eq!(replicate(&there, &elsewhere(&key), CHINA).await, "UnsupportedOperationException");
    assert_eq!(
        replicate(&here, &kms.create_key(HERE), THERE).await,
        "UnsupportedOperationException"
    );
    assert_eq!(replicate(&here, "alias/none", THERE).await, "NotFoundException");

    let single = kms.create_multi_region_key(HERE, &[]);
    kms.disable_key(HERE, &single).unwrap();
    assert_eq!(replicate(&here, &single, THERE).await, "DisabledException");
    here.schedule_key_deletion().key_id(&single).send().await.unwrap();
    assert_eq!(replicate(&here, &single, THERE).await, "KMSInvalidStateException");
}

#[tokio::test]
async fn a_primary_key_waits_for_the_deletion_of_its_replicas() {
    let Regions { kms, here, there } = regions().await;
    let key = kms.create_multi_region_key(HERE, &[THERE]);
    let scheduled =
        here.schedule_key_deletion().key_id(&key).pending_window_in_days(9).send().await.unwrap();
    assert_eq!(scheduled.key_state(), Some(&KeyState::PendingReplicaDeletion));
    assert_eq!((scheduled.deletion_date(), scheduled.pending_window_in_days()), (None, Some(9)));
    let described = describe(&here, &key).await;
    assert_eq!(described.key_state(), Some(&KeyState::PendingReplicaDeletion));
    assert_eq!(
        (described.deletion_date(), described.pending_deletion_window_in_days()),
        (None, Some(9))
    );
    let invalid_state = "KMSInvalidStateException";
    let encrypt_here = here.encrypt().key_id(&key).plaintext(Blob::new("text"));
    assert_eq!(code(encrypt_here.send().await), invalid_state);
    assert_eq!(code(here.enable_key().key_id(&key).send().await), invalid_state);
    assert_eq!(code(here.schedule_key_deletion().key_id(&key).send().await), invalid_state);
    let create_alias = here.create_alias().alias_name("alias/a").target_key_id(&key);
    assert_eq!(code(create_alias.send().await), invalid_state);
    assert_eq!(
        code(here.replicate_key().key_id(&key).replica_region(CHINA).send().await),
        invalid_state
    );

    // A replica has a waiting period like any other key.
    encrypt(&there, &elsewhere(&key)).await;
    let scheduled = there.schedule_key_deletion().key_id(elsewhere(&key)).send().await.unwrap();
    assert_eq!(scheduled.key_state(), Some(&KeyState::PendingDeletion));
    here.cancel_key_deletion().key_id(&key).send().await.unwrap();
    assert_eq!(describe(&here, &key).await.key_state(), Some(&KeyState::Disabled));
}

#[tokio::test]
async fn related_keys_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let start =
        || KmsLocal::builder().region(HERE).region(THERE).data_dir(directory.path()).start();
    let kms = start().await.unwrap();
    let arns = kms.ensure_multi_region_alias(&[HERE, THERE], "alias/app").unwrap();
    let waiting = kms.create_multi_region_key(HERE, &[THERE]);
    let before = client(&kms, HERE, kms.issue_credentials());
    before.schedule_key_deletion().key_id(&waiting).send().await.unwrap();
    let blob = encrypt(&before, "alias/app").await;
    let described = [describe(&before, &arns[0]).await, describe(&before, &waiting).await];
    kms.shutdown().await;

    let kms = start().await.unwrap();
    assert_eq!(kms.ensure_multi_region_alias(&[HERE, THERE], "alias/app").unwrap(), arns);
    let [here, there] = [HERE, THERE].map(|region| client(&kms, region, kms.issue_credentials()));
    assert_eq!([describe(&here, &arns[0]).await, describe(&here, &waiting).await], described);
    let decrypted = there.decrypt().ciphertext_blob(blob).key_id("alias/app").send().await.unwrap();
    assert_eq!(
        (decrypted.plaintext().unwrap().as_ref(), decrypted.key_id()),
        (&b"text"[..], Some(&*arns[1]))
    );
}

#[tokio::test]
async fn an_alias_of_another_key_is_not_changed() {
    let Regions { kms, .. } = regions().await;
    let ensure = |regions: &[&str], alias| {
        kms.ensure_multi_region_alias(regions, alias).map_err(|refused| refused.code)
    };
    kms.ensure_alias(HERE, "alias/single").unwrap();
    assert_eq!(ensure(&[HERE], "alias/single"), Err("UnsupportedOperationException"));
    assert_eq!(ensure(&[HERE, THERE], "alias/single"), Err("UnsupportedOperationException"));
    kms.ensure_alias(THERE, "alias/taken").unwrap();
    assert_eq!(ensure(&[HERE, THERE], "alias/taken"), Err("AlreadyExistsException"));
    assert_eq!(ensure(&[HERE], "nonsense"), Err("ValidationException"));
    let arns = ensure(&[HERE, THERE], "alias/app").unwrap();
    assert_eq!(ensure(&[THERE, HERE], "alias/app"), Err("UnsupportedOperationException"));
    assert_eq!(ensure(&[HERE, THERE], "alias/app").unwrap(), arns);
}
