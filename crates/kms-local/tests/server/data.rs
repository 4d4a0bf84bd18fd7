use aws_sdk_kms::{
    Client,
    primitives::Blob,
    types::{DataKeySpec, EncryptionAlgorithmSpec},
};
use kms_local::KmsLocal;

use crate::support::{REGION, Setup, client, code, setup};

async fn encrypted(client: &Client, key: &str, context: &[(&str, &str)]) -> Blob {
    let mut encrypt = client.encrypt().key_id(key).plaintext(Blob::new("secret"));
    for (name, value) in context {
        encrypt = encrypt.encryption_context(*name, *value);
    }
    encrypt.send().await.unwrap().ciphertext_blob.unwrap()
}

#[tokio::test]
async fn all_four_names_encrypt_and_decrypt() {
    let Setup { kms, client, .. } = setup().await;
    let arn = kms.ensure_alias(REGION, "alias/app").unwrap();
    let id = arn.rsplit('/').next().unwrap();
    for name in [id, &arn, "alias/app", "arn:aws:kms:us-east-1:111122223333:alias/app"] {
        let encrypted =
            client.encrypt().key_id(name).plaintext(Blob::new("secret")).send().await.unwrap();
        assert_eq!(encrypted.key_id(), Some(&*arn));
        assert_eq!(
            encrypted.encryption_algorithm(),
            Some(&EncryptionAlgorithmSpec::SymmetricDefault)
        );
        let blob = encrypted.ciphertext_blob.unwrap();
        for decrypt in [client.decrypt(), client.decrypt().key_id(name)] {
            let decrypted = decrypt.ciphertext_blob(blob.clone()).send().await.unwrap();
            assert_eq!(decrypted.key_id(), Some(&*arn));
            assert_eq!(decrypted.plaintext().unwrap().as_ref(), b"secret");
        }
    }
}

#[tokio::test]
async fn plaintexts_have_1_to_4096_bytes() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let encrypt =
        |length| client.encrypt().key_id(&key).plaintext(Blob::new(vec![7; length])).send();
    for length in [1, 4096] {
        let blob = encrypt(length).await.unwrap().ciphertext_blob.unwrap();
        let decrypted = client.decrypt().ciphertext_blob(blob).send().await.unwrap();
        assert_eq!(decrypted.plaintext().unwrap().as_ref(), vec![7; length]);
    }
    for length in [0, 4097] {
        assert_eq!(code(encrypt(length).await), "ValidationException", "{length} bytes");
    }
}

#[tokio::test]
async fn another_context_does_not_decrypt() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let decrypt = async |blob: &Blob, context: &[(&str, &str)]| {
        let mut decrypt = client.decrypt().ciphertext_blob(blob.clone());
        for (name, value) in context {
            decrypt = decrypt.encryption_context(*name, *value);
        }
        decrypt.send().await
    };
    let blob = encrypted(&client, &key, &[("ab", "c"), ("x", "y")]).await;
    decrypt(&blob, &[("x", "y"), ("ab", "c")]).await.unwrap();
    for other in [
        &[][..],
        &[("ab", "c")],
        &[("a", "bc"), ("x", "y")],
        &[("ab", "c"), ("x", "Y")],
        &[("ab", "cx"), ("y", "")],
        &[("ab", "c"), ("x", "y"), ("", "")],
    ] {
        assert_eq!(code(decrypt(&blob, other).await), "InvalidCiphertextException", "{other:?}");
    }
}

#[tokio::test]
async fn a_changed_blob_does_not_decrypt() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let blob = encrypted(&client, &key, &[]).await.into_inner();
    let decrypt = |blob: Vec<u8>| client.decrypt().ciphertext_blob(Blob::new(blob)).send();
    for at in [0, 17, 29, blob.len() - 1] {
        let mut changed = blob.clone();
        changed[at] ^= 1;
        assert_eq!(code(decrypt(changed).await), "InvalidCiphertextException", "byte {at}");
    }
    for length in [1, 16, 44] {
        let short = blob[..length].to_vec();
        assert_eq!(code(decrypt(short).await), "InvalidCiphertextException", "{length} bytes");
    }
    assert_eq!(code(decrypt(Vec::new()).await), "ValidationException");
    assert_eq!(code(decrypt(vec![1; 6145]).await), "ValidationException");

    // No key in this region has this id. AWS does not reveal whether another region has one.
    let mut elsewhere = blob;
    elsewhere[5] ^= 1;
    assert_eq!(code(decrypt(elsewhere).await), "AccessDeniedException");
}

#[tokio::test]
async fn another_key_does_not_decrypt() {
    let Setup { kms, client, key } = setup().await;
    let other = kms.create_key(REGION);
    let blob = encrypted(&client, &key, &[]).await;
    let decrypt = |key: &str| client.decrypt().key_id(key).ciphertext_blob(blob.clone()).send();
    decrypt(&key).await.unwrap();
    assert_eq!(code(decrypt(&other).await), "IncorrectKeyException");
    assert_eq!(code(decrypt("alias/none").await), "NotFoundException");
}

#[tokio::test]
async fn each_region_has_its_own_keys() {
    let kms = KmsLocal::builder().region(REGION).region("eu-west-1").start().await.unwrap();
    let credentials = kms.issue_credentials();
    let here = client(&kms, REGION, credentials.clone());
    let there = client(&kms, "eu-west-1", credentials);
    let key = kms.create_key(REGION);
    let blob = encrypted(&here, &key, &[]).await;
    let refused = there.decrypt().ciphertext_blob(blob.clone()).send().await;
    assert_eq!(code(refused), "AccessDeniedException");
    let refused = there.decrypt().key_id(&key).ciphertext_blob(blob).send().await;
    assert_eq!(code(refused), "NotFoundException");
    assert_eq!(there.list_keys().send().await.unwrap().keys().len(), 0);
}

#[tokio::test]
async fn data_keys_decrypt_to_their_plaintext() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let generate = || client.generate_data_key().key_id(&key).encryption_context("a", "b");
    for (request, length) in [
        (generate().key_spec(DataKeySpec::Aes256), 32),
        (generate().key_spec(DataKeySpec::Aes128), 16),
        (generate().number_of_bytes(1), 1),
        (generate().number_of_bytes(1024), 1024),
    ] {
        let generated = request.send().await.unwrap();
        assert_eq!(generated.key_id(), Some(&*key));
        let plaintext = generated.plaintext().unwrap().as_ref();
        assert_eq!(plaintext.len(), length);
        let decrypt = client.decrypt().encryption_context("a", "b");
        let decrypted =
            decrypt.ciphertext_blob(generated.ciphertext_blob.clone().unwrap()).send().await;
        assert_eq!(decrypted.unwrap().plaintext().unwrap().as_ref(), plaintext);
    }

    let hidden = client.generate_data_key_without_plaintext().key_id(&key);
    let generated = hidden.key_spec(DataKeySpec::Aes256).send().await.unwrap();
    let decrypted =
        client.decrypt().ciphertext_blob(generated.ciphertext_blob.unwrap()).send().await;
    assert_eq!(decrypted.unwrap().plaintext().unwrap().as_ref().len(), 32);
}

#[tokio::test]
async fn data_keys_have_one_length_within_bounds() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let generate = || client.generate_data_key().key_id(&key);
    let hidden = || client.generate_data_key_without_plaintext().key_id(&key);
    let validation = "ValidationException";
    assert_eq!(code(generate().send().await), validation);
    assert_eq!(code(hidden().send().await), validation);
    for bytes in [-1, 0, 1025] {
        assert_eq!(code(generate().number_of_bytes(bytes).send().await), validation);
        assert_eq!(code(hidden().number_of_bytes(bytes).send().await), validation);
    }
    let both = generate().number_of_bytes(32).key_spec(DataKeySpec::Aes256);
    assert_eq!(code(both.send().await), validation);
    assert_eq!(code(generate().key_spec("AES_512".into()).send().await), validation);
    let unknown = client.generate_data_key().key_id("alias/none").number_of_bytes(32);
    assert_eq!(code(unknown.send().await), "NotFoundException");
}

#[tokio::test]
async fn re_encryption_changes_key_and_context() {
    let Setup { kms, client, key } = setup().await;
    let other = kms.create_key(REGION);
    let blob = encrypted(&client, &key, &[("old", "1")]).await;
    let request = || {
        client
            .re_encrypt()
            .ciphertext_blob(blob.clone())
            .destination_key_id(&other)
            .destination_encryption_context("new", "2")
    };
    let moved = request().source_encryption_context("old", "1").send().await.unwrap();
    assert_eq!(moved.source_key_id(), Some(&*key));
    assert_eq!(moved.key_id(), Some(&*other));
    let symmetric = Some(&EncryptionAlgorithmSpec::SymmetricDefault);
    assert_eq!(moved.source_encryption_algorithm(), symmetric);
    assert_eq!(moved.destination_encryption_algorithm(), symmetric);
    let decrypt = client.decrypt().encryption_context("new", "2").key_id(&other);
    let decrypted = decrypt.ciphertext_blob(moved.ciphertext_blob.unwrap()).send().await.unwrap();
    assert_eq!(decrypted.plaintext().unwrap().as_ref(), b"secret");

    assert_eq!(code(request().send().await), "InvalidCiphertextException");
    let wrong = request().source_encryption_context("old", "1").source_key_id(&other);
    assert_eq!(code(wrong.send().await), "IncorrectKeyException");
    let unknown = request().source_encryption_context("old", "1").destination_key_id("alias/none");
    assert_eq!(code(unknown.send().await), "NotFoundException");
}

#[tokio::test]
async fn random_bytes_have_the_requested_length() {
    let Setup { kms: _kms, client, .. } = setup().await;
    let generate = |bytes| client.generate_random().number_of_bytes(bytes).send();
    for bytes in [1, 1024] {
        let random = generate(bytes).await.unwrap();
        assert_eq!(i32::try_from(random.plaintext().unwrap().as_ref().len()), Ok(bytes));
    }
    for bytes in [0, 1025] {
        assert_eq!(code(generate(bytes).await), "ValidationException");
    }
    assert_eq!(code(client.generate_random().send().await), "ValidationException");
}

#[tokio::test]
async fn a_dry_run_returns_the_error_of_a_real_run() {
    let Setup { kms, client, key } = setup().await;
    let blob = encrypted(&client, &key, &[]).await;
    let dry = "DryRunOperationException";
    let encrypt = client.encrypt().key_id(&key).plaintext(Blob::new("x")).dry_run(true);
    assert_eq!(code(encrypt.send().await), dry);
    let decrypt = || client.decrypt().ciphertext_blob(blob.clone()).dry_run(true).send();
    assert_eq!(code(decrypt().await), dry);
    let generate = client.generate_data_key().key_id(&key).number_of_bytes(32).dry_run(true);
    assert_eq!(code(generate.send().await), dry);
    let re_encrypt =
        client.re_encrypt().ciphertext_blob(blob.clone()).destination_key_id(&key).dry_run(true);
    assert_eq!(code(re_encrypt.send().await), dry);

    kms.disable_key(REGION, &key).unwrap();
    assert_eq!(code(decrypt().await), "DisabledException");
}

#[tokio::test]
async fn another_algorithm_is_refused() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let encrypt = |algorithm: EncryptionAlgorithmSpec| {
        let encrypt = client.encrypt().key_id(&key).plaintext(Blob::new("x"));
        encrypt.encryption_algorithm(algorithm).send()
    };
    encrypt(EncryptionAlgorithmSpec::SymmetricDefault).await.unwrap();
    let refused = encrypt(EncryptionAlgorithmSpec::RsaesOaepSha256).await;
    assert_eq!(code(refused), "InvalidKeyUsageException");
    assert_eq!(code(encrypt("ROT13".into()).await), "ValidationException");
}
