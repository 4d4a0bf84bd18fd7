use aws_sdk_kms::{primitives::Blob, types::KeyState};
use kms_local::{KmsLocal, StartError};

use crate::support::{REGION, client};

#[tokio::test]
async fn keys_states_and_aliases_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let builder = KmsLocal::builder().region(REGION).region("eu-west-1");
        builder.data_dir(directory.path()).start()
    };
    let kms = start().await.unwrap();
    let old = client(&kms, REGION, kms.issue_credentials());
    let key = kms.ensure_alias(REGION, "alias/app").unwrap();
    let [disabled, pending] = [kms.create_key(REGION), kms.create_key(REGION)];
    let elsewhere = kms.create_key("eu-west-1");
    old.disable_key().key_id(&disabled).send().await.unwrap();
    let scheduled = old.schedule_key_deletion().key_id(&pending).send().await.unwrap();
    old.create_alias().alias_name("alias/gone").target_key_id(&key).send().await.unwrap();
    old.delete_alias().alias_name("alias/gone").send().await.unwrap();
    let encrypt = old.encrypt().key_id(&key).plaintext(Blob::new("x"));
    let blob = encrypt.send().await.unwrap().ciphertext_blob.unwrap();
    let described = old.describe_key().key_id(&key).send().await.unwrap().key_metadata;
    let aliases = old.list_aliases().send().await.unwrap().aliases;
    kms.shutdown().await;

    let kms = start().await.unwrap();
    let new = client(&kms, REGION, kms.issue_credentials());
    let decrypted = new.decrypt().ciphertext_blob(blob).send().await.unwrap();
    assert_eq!(decrypted.plaintext().unwrap().as_ref(), b"x");
    let again = new.describe_key().key_id("alias/app").send().await.unwrap().key_metadata;
    assert_eq!(again, described);
    assert_eq!(new.list_aliases().send().await.unwrap().aliases, aliases);
    let state = async |key: &str| {
        let described = new.describe_key().key_id(key).send().await.unwrap();
        described.key_metadata.unwrap()
    };
    assert_eq!(state(&disabled).await.key_state(), Some(&KeyState::Disabled));
    let pending = state(&pending).await;
    assert_eq!(pending.key_state(), Some(&KeyState::PendingDeletion));
    assert_eq!(pending.deletion_date(), scheduled.deletion_date());
    assert_eq!(new.list_keys().send().await.unwrap().keys().len(), 3);
    let there = client(&kms, "eu-west-1", kms.issue_credentials());
    there.describe_key().key_id(elsewhere).send().await.unwrap();
}

#[tokio::test]
async fn a_data_directory_has_one_server_and_one_account() {
    let directory = tempfile::tempdir().unwrap();
    let builder = || KmsLocal::builder().data_dir(directory.path());
    let kms = builder().start().await.unwrap();
    let error = builder().start().await.unwrap_err();
    assert!(matches!(error, StartError::DataDirectoryInUse(_)), "{error:?}");
    drop(kms);
    let error = builder().account("111122223333").start().await.unwrap_err();
    assert!(matches!(error, StartError::AccountMismatch { .. }), "{error:?}");
    let _kms = builder().start().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_file_with_the_keys() {
    use std::{os::unix::fs::PermissionsExt as _, path::Path};

    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("a/b");
    let _kms = KmsLocal::builder().data_dir(&data).start().await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("kms-local.redb")), 0o600);
}
