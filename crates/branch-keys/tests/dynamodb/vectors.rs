//! Branch keys and messages that the Python and JavaScript clients wrote.
//!
//! `tests/interop/make_branch_key_vectors` has them written again. `kms-local.redb` has the KMS key
//! that protects the branch keys, in the format of kms-local.

use std::collections::HashMap;
use std::fs;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use branch_keys::{KeyStore, KmsKeys};
use envelope::branch_key::BranchKeys;
use envelope::keyring::HierarchicalKeyring;
use envelope::{EncryptionContext, Envelope};
use kms_local::KmsLocal;
use kms_pool::{KmsPool, Principal};
use serde_json::Value;

use crate::server::{REGION, Server, TABLE};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");
const PLAINTEXT: &[u8] = b"4111 1111 1111 1111";

struct Vectors {
    manifest: Value,
    server: Server,
    _kms: KmsLocal,
    store: KeyStore,
}

impl Vectors {
    /// Opens the key store over the items, after `change`.
    async fn open(name: &str, change: impl Fn(&mut HashMap<String, AttributeValue>)) -> Self {
        let manifest = fs::read(format!("{FOLDER}/manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let keys = format!("{}/vectors-{name}-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        fs::create_dir_all(&keys).unwrap();
        fs::copy(format!("{FOLDER}/kms-local.redb"), format!("{keys}/kms-local.redb")).unwrap();
        let kms = KmsLocal::builder().region(REGION).data_dir(&keys).start().await.unwrap();
        let server = Server::with_table().await;
        let client = server.client().await;
        for row in manifest["items"].as_array().unwrap() {
            let mut item = attributes(row);
            change(&mut item);
            client.put_item().table_name(TABLE).set_item(Some(item)).send().await.unwrap();
        }
        let pool = KmsPool::builder()
            .trust_root_pem(kms.ca_pem())
            .endpoint_url(kms.endpoint(REGION))
            .build()
            .unwrap();
        let clients = pool.clients(&Principal::new(kms.issue_credentials()));
        let key = KmsKeys::exact(manifest["kms_key"].as_str().unwrap().parse().unwrap());
        let logical_name = manifest["logical_name"].as_str().unwrap();
        let store = KeyStore::builder(server.storage(), logical_name, key, clients);
        let store = store.build().unwrap();
        fs::remove_dir_all(keys).unwrap();
        Self { manifest, server, _kms: kms, store }
    }

    fn envelope(&self, id: &str) -> Envelope {
        let keys = BranchKeys::new(self.store.clone());
        Envelope::new(HierarchicalKeyring::new(keys, id).unwrap()).unwrap()
    }
}

/// Reads attributes in the format of DynamoDB, but with bytes in hexadecimal.
fn attributes(row: &Value) -> HashMap<String, AttributeValue> {
    let attribute = |typed: &Value| {
        let (kind, value) = typed.as_object().unwrap().iter().next().unwrap();
        let value = value.as_str().unwrap();
        match kind.as_str() {
            "S" => AttributeValue::S(value.to_owned()),
            "N" => AttributeValue::N(value.to_owned()),
            _ => {
                let byte = |at| u8::from_str_radix(&value[at..at + 2], 16).unwrap();
                let bytes: Vec<_> = (0..value.len()).step_by(2).map(byte).collect();
                AttributeValue::B(bytes.into())
            }
        }
    };
    let row = row.as_object().unwrap().iter();
    row.map(|(name, typed)| (name.clone(), attribute(typed))).collect()
}

#[tokio::test]
async fn messages_and_items_of_other_clients_open() {
    let vectors = Vectors::open("intact", |_| {}).await;
    let mut opened = 0;
    for message in vectors.manifest["messages"].as_array().unwrap() {
        let envelope = vectors.envelope(message["id"].as_str().unwrap());
        let pairs = message["context"].as_object().unwrap().iter();
        let pairs = pairs.map(|(key, value)| (key.as_str(), value.as_str().unwrap()));
        let context = EncryptionContext::new(pairs).unwrap();
        let bytes = BASE64_STANDARD.decode(message["message"].as_str().unwrap()).unwrap();
        let plaintext = envelope.decrypt(&bytes, &context).await.unwrap();
        assert_eq!(plaintext.plaintext(), PLAINTEXT, "{message}");
        let other = EncryptionContext::new([("tenant", "another")]).unwrap();
        envelope.decrypt(&bytes, &other).await.unwrap_err();
        opened += 1;
    }
    assert_eq!(opened, 36);
    for writer in ["python", "javascript"] {
        let id = format!("created by {writer}");
        let verification = vectors.store.verify(&id).await.unwrap();
        assert!(verification.is_ok(), "{verification:?}");
        vectors.store.rotate(&id).await.unwrap();
        vectors.store.beacon(&id).await.unwrap();
    }
    assert_eq!(vectors.store.list(None, 10).await.unwrap().len(), 2);
    assert_eq!(vectors.server.count("CreateTable"), 1);
}

#[tokio::test]
async fn an_item_with_another_or_a_further_attribute_is_refused() {
    for name in ["aws-crypto-ec:tenant", "create-time", "version", "further"] {
        let vectors = Vectors::open(name, |item| {
            let value = match name {
                "create-time" => "2027-01-01T00:00:00.000000Z",
                "version" => "branch:version:01010101-0101-4f01-8f01-010101010101",
                _ => "another",
            };
            item.insert(name.to_owned(), AttributeValue::S(value.to_owned()));
        })
        .await;
        let id = "created by python";
        vectors.store.active(id).await.unwrap_err();
        let message = &vectors.manifest["messages"][0];
        let bytes = BASE64_STANDARD.decode(message["message"].as_str().unwrap()).unwrap();
        let envelope = vectors.envelope(id);
        envelope.decrypt(&bytes, &EncryptionContext::empty()).await.unwrap_err();
        envelope.encrypt(PLAINTEXT, &EncryptionContext::empty()).await.unwrap_err();
    }
}
