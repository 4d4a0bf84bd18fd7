//! A KMS, and clients that record what they send to it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use branch_keys::{CreateBranchKey, Item, KeyStore, KeyStoreBuilder, KmsKeys, Storage};
use kms_local::KmsLocal;
use kms_pool::aws_sdk_kms::Client;
use kms_pool::aws_sdk_kms::config::interceptors::BeforeTransmitInterceptorContextRef;
use kms_pool::aws_sdk_kms::config::{ConfigBag, Intercept, RuntimeComponents};
use kms_pool::aws_sdk_kms::error::BoxError;
use kms_pool::aws_sdk_kms::primitives::Blob;
use kms_pool::{ClientFuture, ClientSupplier, KmsKeyArn, KmsPool, PooledClients, Principal};
use serde_json::Value;

pub(crate) const VIRGINIA: &str = "us-east-1";
pub(crate) const IRELAND: &str = "eu-west-1";

/// A KMS in two regions, and one principal's clients for it.
pub(crate) struct Kms {
    pub(crate) local: KmsLocal,
    pub(crate) clients: Recording,
}

impl Kms {
    pub(crate) async fn start() -> Self {
        let local = KmsLocal::builder().region(VIRGINIA).region(IRELAND).start().await.unwrap();
        let pool = KmsPool::builder()
            .endpoint_url_for(VIRGINIA, local.endpoint(VIRGINIA))
            .endpoint_url_for(IRELAND, local.endpoint(IRELAND))
            .trust_root_pem(local.ca_pem())
            .build()
            .unwrap();
        let clients = pool.clients(&Principal::new(local.issue_credentials()));
        Self { local, clients: Recording { clients, sent: Arc::default() } }
    }

    /// A new key in Virginia.
    pub(crate) fn key(&self) -> KmsKeyArn {
        self.local.create_key(VIRGINIA).parse().unwrap()
    }

    /// Related keys in Virginia and Ireland.
    pub(crate) fn related_keys(&self) -> (KmsKeyArn, KmsKeyArn) {
        let virginia = self.local.create_multi_region_key(VIRGINIA, &[IRELAND]);
        let virginia: KmsKeyArn = virginia.parse().unwrap();
        let ireland = virginia.in_region(&IRELAND.parse().unwrap());
        (virginia, ireland)
    }

    pub(crate) fn builder(
        &self,
        storage: impl Storage + 'static,
        keys: KmsKeys,
    ) -> KeyStoreBuilder {
        KeyStore::builder(storage, "logical name", keys, self.clients.clone())
    }

    pub(crate) fn store(&self, storage: impl Storage + 'static, key: &KmsKeyArn) -> KeyStore {
        self.builder(storage, KmsKeys::exact(key.clone())).build().unwrap()
    }

    /// Creates the root of [`store_under_root`](Self::store_under_root).
    pub(crate) async fn create_root(&self, storage: impl Storage + 'static, key: &KmsKeyArn) {
        let root = CreateBranchKey::new("root", [("purpose", "root")]);
        self.store(storage, key).create(root).await.unwrap();
    }

    pub(crate) fn store_under_root(
        &self,
        storage: impl Storage + 'static,
        key: &KmsKeyArn,
    ) -> KeyStore {
        self.store(storage, key).under_root("root", |cache| cache).unwrap()
    }

    /// An item as another client writes it, which may use the KMS key: with the secret of `from`.
    pub(crate) async fn re_encrypted(&self, from: &Item, change: impl FnOnce(&mut Item)) -> Item {
        let mut to = from.clone();
        change(&mut to);
        let client = self.clients.client(VIRGINIA).await.unwrap();
        let response = client
            .re_encrypt()
            .ciphertext_blob(Blob::new(from.ciphertext.as_slice()))
            .destination_key_id(&to.kms_key_arn)
            .set_source_encryption_context(Some(context(from)))
            .set_destination_encryption_context(Some(context(&to)))
            .send()
            .await
            .unwrap();
        to.ciphertext = response.ciphertext_blob.unwrap().into_inner();
        to
    }

    /// How many requests the servers have received.
    pub(crate) fn requests(&self) -> u64 {
        [VIRGINIA, IRELAND].map(|region| self.local.counters(region).total()).iter().sum()
    }

    /// The requests since the last call: operation and body.
    pub(crate) fn sent(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.clients.sent.lock().unwrap())
    }
}

/// The encryption context of an item, as AWS documents it.
pub(crate) fn context(item: &Item) -> HashMap<String, String> {
    let mut context: HashMap<String, String> = [
        ("branch-key-id", item.id.clone()),
        ("type", item.item_type.to_string()),
        ("create-time", item.create_time.clone()),
        ("hierarchy-version", "1".to_owned()),
        ("kms-arn", item.kms_key_arn.clone()),
        ("tablename", "logical name".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    context.extend(item.attributes.clone());
    context.extend(item.version.clone().map(|version| ("version".to_owned(), version)));
    context
}

/// Supplies clients that record their requests.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    clients: PooledClients,
    sent: Arc<Mutex<Vec<(String, Value)>>>,
}

impl ClientSupplier for Recording {
    fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a> {
        Box::pin(async move {
            let client = self.clients.client(region).await?;
            let config = client.config().to_builder().interceptor(self.clone());
            Ok(Client::from_conf(config.build()))
        })
    }
}

impl Intercept for Recording {
    fn name(&self) -> &'static str {
        "recording"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        let operation = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = operation.strip_prefix("TrentService.").unwrap_or(operation).to_owned();
        let body = serde_json::from_slice(request.body().bytes().unwrap_or_default())?;
        self.sent.lock().unwrap().push((operation, body));
        Ok(())
    }
}
