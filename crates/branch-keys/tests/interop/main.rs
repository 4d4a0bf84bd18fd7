//! Branch keys that AWS's clients and ours create, rotate and use in one table.
//!
//! Needs a Python with `tests/interop/requirements.txt` installed, named by `ENVELOPE_PYTHON`, and
//! an installed `tests/interop/javascript/client.mjs`, named by `ENVELOPE_JAVASCRIPT`. Without them
//! it passes, and says so. With `ENVELOPE_TEST_MOTO`, the URL of a moto server, that is a second
//! AWS. `tests/interop/run` sets all three.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it did"
)]

mod peer;
#[path = "../dynamodb/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use branch_keys::{CreateBranchKey, DynamoDbStorage, KeyStore, KmsKeys};
use envelope::branch_key::BranchKeys;
use envelope::keyring::HierarchicalKeyring;
use envelope::{EncryptionContext, Envelope};
use kms_pool::{Credentials, KmsPool, KmsPoolBuilder, Principal};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::peer::Peer;
use self::server::{REGION, Server};

const LOGICAL_NAME: &str = "logical name";
const PLAINTEXT: &[u8] = b"4111 1111 1111 1111";
const OURS: &str = "Rust";

/// One key store in one table.
struct Site {
    engine: &'static str,
    runtime: Runtime,
    pool: KmsPool,
    principal: Principal,
    /// The key store, as described to the peers.
    described: Value,
    store: KeyStore,
    peers: Vec<Peer>,
    /// How many times a client did what it had to.
    done: BTreeMap<String, u32>,
}

/// A message, and who wrote it under which branch key.
struct Message {
    id: String,
    writer: &'static str,
    bytes: Vec<u8>,
}

/// Two pairs whose keys sort differently by UTF-8 and by UTF-16.
fn context() -> Vec<(&'static str, &'static str)> {
    vec![("tenant", "42"), ("\u{1d518}", "2"), ("\u{ff5e}", "1")]
}

impl Site {
    fn new(
        engine: &'static str,
        runtime: Runtime,
        pool: KmsPoolBuilder,
        credentials: Credentials,
        described: Value,
        environment: &[(&str, &str)],
    ) -> Self {
        let principal = Principal::new(credentials);
        let pool = pool.build().unwrap();
        let text = |name: &str| described[name].as_str().unwrap();
        let storage = DynamoDbStorage::new(pool.clone(), principal.clone(), REGION, text("table"));
        let keys = KmsKeys::exact(text("kms_key").parse().unwrap());
        let store = KeyStore::builder(storage, LOGICAL_NAME, keys, pool.clients(&principal));
        let store = store.build().unwrap();
        let peers = Peer::start_all(environment);
        Self { engine, runtime, pool, principal, described, store, peers, done: BTreeMap::new() }
    }

    /// Every client, by its place among the peers; ours has none.
    fn clients(&self) -> Vec<(&'static str, Option<usize>)> {
        let peers = self.peers.iter().enumerate().map(|(place, peer)| (peer.name, Some(place)));
        peers.chain([(OURS, None)]).collect()
    }

    fn count(&mut self, what: String) {
        *self.done.entry(what).or_default() += 1;
    }

    fn create_table(&mut self, with: Option<usize>) {
        if let Some(place) = with {
            let request = json!({ "operation": "create_table", "store": self.described });
            self.peers[place].ask(&request).unwrap();
            return;
        }
        let table = self.described["table"].as_str().unwrap();
        let storage =
            DynamoDbStorage::new(self.pool.clone(), self.principal.clone(), REGION, table);
        self.runtime.block_on(storage.create_table()).unwrap();
    }

    fn create(&mut self, id: &str, (name, place): (&'static str, Option<usize>)) {
        if let Some(place) = place {
            let request = json!({
                "operation": "create_key", "store": self.described, "id": id,
                "context": { "tenant": id, "\u{fc}": "\u{1d518}" },
            });
            self.peers[place].ask(&request).unwrap();
        } else {
            let new = CreateBranchKey::new(id, [("tenant", id), ("\u{fc}", "\u{1d518}")]);
            self.runtime.block_on(self.store.create(new)).unwrap();
        }
        self.count(format!("{name} creates"));
    }

    fn rotate(&mut self, id: &str, (name, place): (&'static str, Option<usize>)) {
        if let Some(place) = place {
            let request = json!({ "operation": "rotate", "store": self.described, "id": id });
            self.peers[place].ask(&request).unwrap();
        } else {
            self.runtime.block_on(self.store.rotate(id)).unwrap();
        }
        self.count(format!("{name} rotates"));
    }

    fn envelope(&self, id: &str) -> Envelope {
        let keys = BranchKeys::builder(self.store.clone());
        let keys = keys.remember_failures_for(Duration::ZERO).build().unwrap();
        Envelope::new(HierarchicalKeyring::new(keys, id).unwrap()).unwrap()
    }

    fn request(&self, operation: &str, id: &str, data: &[u8], pairs: &[(&str, &str)]) -> Value {
        let pairs: BTreeMap<_, _> = pairs.iter().copied().collect();
        json!({
            "operation": operation,
            "keyring": { "hierarchical": id, "store": self.described },
            "context": pairs, "frame_length": 128, "data": BASE64_STANDARD.encode(data),
        })
    }

    /// The result of a client for a message or a plaintext.
    fn crypt(
        &mut self,
        operation: &str,
        id: &str,
        data: &[u8],
        pairs: &[(&str, &str)],
        place: Option<usize>,
    ) -> Result<Vec<u8>, String> {
        if let Some(place) = place {
            let request = self.request(operation, id, data, pairs);
            return self.peers[place].crypt(&request);
        }
        let envelope = self.envelope(id);
        let context = EncryptionContext::new(pairs.iter().copied()).unwrap();
        self.runtime.block_on(async {
            match operation {
                "encrypt" => envelope.encrypt(data, &context).await.map_err(|it| it.to_string()),
                _ => match envelope.decrypt(data, &context).await {
                    Ok(opened) => Ok(opened.into_plaintext()),
                    Err(error) => Err(error.to_string()),
                },
            }
        })
    }

    /// Every client encrypts under the active version.
    fn encrypt(&mut self, id: &str) -> Vec<Message> {
        let mut messages = vec![];
        for (writer, place) in self.clients() {
            let bytes = self.crypt("encrypt", id, PLAINTEXT, &context(), place).unwrap();
            messages.push(Message { id: id.to_owned(), writer, bytes });
        }
        messages
    }

    /// Every client decrypts every message, and none under another branch key or context.
    fn decrypt(&mut self, messages: &[Message], other: &str) {
        for Message { id, writer, bytes } in messages {
            for (reader, place) in self.clients() {
                let opened = self.crypt("decrypt", id, bytes, &context(), place);
                let opened = opened.unwrap_or_else(|error| {
                    panic!("{}: {writer} → {reader}, {id}: {error}", self.engine)
                });
                assert_eq!(opened, PLAINTEXT);
                self.count(format!("{writer} → {reader} opens"));
                let refused = self.crypt("decrypt", other, bytes, &context(), place);
                assert!(refused.is_err(), "{reader} used another branch key");
                self.count(format!("{writer} → {reader} refuses another branch key"));
                // JavaScript leaves it to the caller to compare the encryption context.
                if reader != "JavaScript" {
                    let pairs = [("tenant", "43")];
                    assert!(self.crypt("decrypt", id, bytes, &pairs, place).is_err());
                    self.count(format!("{writer} → {reader} refuses another context"));
                }
            }
        }
    }

    /// By default, the JavaScript client authenticates the encryption context in the order of
    /// UTF-16, which no other client uses. Tells which clients open such a message.
    fn try_javascripts_order(&mut self, id: &str) {
        let Some(javascript) = self.peers.iter().position(|it| it.name == "JavaScript") else {
            return;
        };
        let mut request = self.request("encrypt", id, PLAINTEXT, &context());
        request["keyring"]["utf8_sorting"] = json!(false);
        let message = self.peers[javascript].crypt(&request).unwrap();
        for (reader, place) in self.clients() {
            let opened = self.crypt("decrypt", id, &message, &context(), place);
            let outcome = if opened.is_ok() { "opens" } else { "refuses" };
            self.count(format!("JavaScript, in the order of UTF-16 → {reader} {outcome}"));
        }
    }

    /// Somebody changes an attribute in the table: KMS refuses the item to all clients.
    fn refuse_changed_items(&mut self, id: &str) {
        let client = self.runtime.block_on(async {
            let config = self.pool.service_config("dynamodb", REGION, &self.principal).await;
            aws_sdk_dynamodb::Client::new(config.unwrap().sdk_config())
        });
        let set = |value: &str| {
            let update = client
                .update_item()
                .table_name(self.described["table"].as_str().unwrap())
                .key("branch-key-id", AttributeValue::S(id.to_owned()))
                .key("type", AttributeValue::S("branch:ACTIVE".to_owned()))
                .update_expression("SET #name = :value")
                .expression_attribute_names("#name", "aws-crypto-ec:tenant")
                .expression_attribute_values(":value", AttributeValue::S(value.to_owned()));
            self.runtime.block_on(update.send()).unwrap();
        };
        set("another");
        for (name, place) in self.clients() {
            let refused = self.crypt("encrypt", id, PLAINTEXT, &context(), place);
            assert!(refused.is_err(), "{name} used a changed item");
            *self.done.entry(format!("{name} refuses a changed item")).or_default() += 1;
        }
    }

    fn run(&mut self) {
        let clients = self.clients();
        let mut messages = vec![];
        let mut last = None;
        for creator in &clients {
            let id = format!("created by {}", creator.0);
            self.create(&id, *creator);
            messages.extend(self.encrypt(&id));
            for rotator in &clients {
                self.rotate(&id, *rotator);
                messages.extend(self.encrypt(&id));
            }
            let verified = self.runtime.block_on(self.store.verify(&id)).unwrap();
            assert!(verified.is_ok(), "{verified:?}");
            last = Some(id);
        }
        self.create("another", (OURS, None));
        self.decrypt(&messages, "another");
        self.try_javascripts_order("another");
        self.refuse_changed_items(&last.unwrap());
        println!("\n{}, table {}:", self.engine, self.described["table"]);
        for (what, times) in &self.done {
            println!("  {times:>4} {what}");
        }
    }
}

fn described(table: &str, dynamodb: &str, kms_key: &str, kms: &str) -> Value {
    json!({
        "table": table, "logical_name": LOGICAL_NAME, "dynamodb": dynamodb, "kms_key": kms_key,
        "endpoint": kms,
    })
}

#[test]
fn clients_share_branch_keys() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Server::start());
    let ca =
        format!("{}/branch-keys-interop-{}.pem", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    std::fs::write(&ca, server.kms.ca_pem()).unwrap();
    let credentials = server.kms.issue_credentials();
    let environment = [
        ("AWS_ACCESS_KEY_ID", credentials.access_key_id()),
        ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key()),
        ("AWS_CA_BUNDLE", &ca),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    if std::env::var("ENVELOPE_PYTHON").is_err() {
        println!("ENVELOPE_PYTHON is not set: without the Python client");
    }
    if std::env::var("ENVELOPE_JAVASCRIPT").is_err() {
        println!("ENVELOPE_JAVASCRIPT is not set: without the JavaScript client");
    }
    let key = server.kms.create_key(REGION);
    for (table, by) in [("made-by-python", "Python"), ("made-by-rust", OURS)] {
        let described = described(table, server.endpoint(), &key, server.kms.endpoint(REGION));
        let runtime = Runtime::new().unwrap();
        let pool = server.pool();
        let mut site =
            Site::new("dynoxide", runtime, pool, credentials.clone(), described, &environment);
        let Some((_, place)) = site.clients().into_iter().find(|(name, _)| *name == by) else {
            continue;
        };
        site.create_table(place);
        site.run();
    }
    std::fs::remove_file(ca).unwrap();
}

#[test]
fn clients_share_branch_keys_on_moto() {
    let Ok(url) = std::env::var("ENVELOPE_TEST_MOTO") else {
        println!("ENVELOPE_TEST_MOTO is not set: without moto");
        return;
    };
    let credentials = Credentials::new("test", "test", None, None, "test");
    let environment = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let runtime = Runtime::new().unwrap();
    let builder = KmsPool::builder()
        .endpoint_url(&url)
        .service_endpoint_url("dynamodb", &url)
        .attempt_timeout(Duration::from_secs(30))
        .operation_timeout(Duration::from_mins(1));
    let pool = builder.clone().build().unwrap();
    let key = runtime.block_on(async {
        let client = pool.client(REGION, &Principal::new(credentials.clone())).await.unwrap();
        client.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap()
    });
    let described = described("interop-on-moto", &url, &key, &url);
    let mut site = Site::new("moto", runtime, builder, credentials, described, &environment);
    site.create_table(None);
    site.run();
}
