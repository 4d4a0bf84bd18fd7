//! The AWS KMS keyrings that meet keys of many regions and accounts, against real servers over real
//! sockets, through the real `aws-sdk-kms` (specification: `framework/aws-kms/`).

mod cached;
mod discovery;
mod failover;
mod multi_region;
mod requests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Error,
    keyring::{
        AwsKmsDiscoveryKeyring, AwsKmsKeyring, Keyring, KeyringError, KeyringRequest, MultiKeyring,
    },
    materials::EncryptedDataKey,
};
use kms_local::KmsLocal;
use kms_pool::aws_sdk_kms::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::BeforeSerializationInterceptorContextRef,
    },
    error::BoxError,
    operation::{
        decrypt::DecryptInput, encrypt::EncryptInput, generate_data_key::GenerateDataKeyInput,
    },
};
use kms_pool::{ClientFuture, ClientSupplier, KmsPool, PooledClients, Principal};

const REGIONS: [&str; 4] = ["us-east-1", "eu-west-1", "ap-southeast-2", "sa-east-1"];
const VIRGINIA: &str = REGIONS[0];
const IRELAND: &str = REGIONS[1];
const SYDNEY: &str = REGIONS[2];
const ACCOUNT: &str = "111122223333";

/// A KMS of four regions, and clients for them.
struct Kms {
    local: KmsLocal,
    pool: KmsPool,
    principal: Principal,
}

impl Kms {
    async fn start() -> Self {
        let builder = REGIONS
            .iter()
            .fold(KmsLocal::builder().account(ACCOUNT), |builder, region| builder.region(*region));
        let local = builder.start().await.unwrap();
        let pool = KmsPool::builder().trust_root_pem(local.ca_pem());
        let pool = REGIONS
            .iter()
            .fold(pool, |pool, region| pool.endpoint_url_for(*region, local.endpoint(region)));
        let principal = Principal::new(local.issue_credentials());
        Self { pool: pool.build().unwrap(), principal, local }
    }

    fn clients(&self) -> PooledClients {
        self.pool.clients(&self.principal)
    }

    fn strict(&self, key: &str) -> AwsKmsKeyring {
        AwsKmsKeyring::new(self.clients(), key.parse().unwrap())
    }

    fn discovery(&self) -> AwsKmsDiscoveryKeyring {
        AwsKmsDiscoveryKeyring::new(self.clients())
    }

    fn mrk_discovery(&self, region: &str) -> AwsKmsDiscoveryKeyring {
        AwsKmsDiscoveryKeyring::mrk_aware(self.clients(), region.parse().unwrap())
    }

    /// A data key under a new single-Region key of this region.
    async fn sealed_in(&self, region: &str) -> Sealed {
        self.sealed_under(&self.local.create_key(region)).await
    }

    async fn sealed_under(&self, key: &str) -> Sealed {
        let generated = self.strict(key).generate(request(&context())).await.unwrap();
        let [wrapped] = <[_; 1]>::try_from(generated.encrypted_data_keys).unwrap();
        Sealed { key: key.to_owned(), data_key: generated.data_key, wrapped }
    }

    /// How many requests each region has answered.
    fn asked(&self) -> [u64; 4] {
        REGIONS.map(|region| self.local.counters(region).total())
    }

    fn forget(&self) {
        for region in REGIONS {
            self.local.reset_counters(region);
        }
    }
}

/// A data key, and how a KMS key wrapped it.
struct Sealed {
    key: String,
    data_key: DataKey,
    wrapped: EncryptedDataKey,
}

impl Sealed {
    /// The same ciphertext under another name.
    fn named(&self, name: impl Into<Vec<u8>>) -> EncryptedDataKey {
        EncryptedDataKey { key_provider_information: name.into(), ..self.wrapped.clone() }
    }
}

fn context() -> EncryptionContext {
    EncryptionContext::new([("tenant", "42")]).unwrap()
}

fn request(context: &EncryptionContext) -> KeyringRequest<'_> {
    KeyringRequest::new(AlgorithmSuite::default(), context)
}

fn not_unwrapped(failures: Vec<KeyringError>) -> Error {
    Error::DataKeyNotUnwrapped {
        failures,
        wrapping_keys: vec![],
        keyring: None,
        not_stored: vec![],
    }
}

async fn unwrap(keyring: &impl Keyring, keys: &[EncryptedDataKey]) -> Result<DataKey, Error> {
    let unwrapped = keyring.unwrap(request(&context()), keys).await;
    unwrapped.map_err(not_unwrapped)
}

async fn opens(keyring: &impl Keyring, sealed: &Sealed) -> bool {
    match unwrap(keyring, std::slice::from_ref(&sealed.wrapped)).await {
        Ok(data_key) => data_key.expose_secret() == sealed.data_key.expose_secret(),
        Err(_) => false,
    }
}

/// Asserts that no encrypted data key was this keyring's.
#[track_caller]
fn assert_no_match(outcome: Result<DataKey, Error>) {
    match outcome {
        Err(Error::DataKeyNotUnwrapped { failures, .. }) if failures.is_empty() => {}
        other => panic!("{other:?}"),
    }
}

/// A multi-keyring of the same discovery keyring in each of these regions.
fn in_each(keyring: &AwsKmsDiscoveryKeyring, regions: &[&str]) -> MultiKeyring {
    let in_region = |region: &&str| keyring.clone().in_region(region.parse().unwrap());
    let mut children = regions.iter().map(in_region);
    let first = MultiKeyring::without_generator(children.next().unwrap());
    children.try_fold(first, MultiKeyring::with_child).unwrap()
}

/// What was asked.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// Which region the client was for.
    region: String,
    operation: &'static str,
    key: String,
    grant_tokens: Vec<String>,
    /// Whether it was just that of [`context`].
    has_context: bool,
}

/// Clients that write down what they are asked for.
#[derive(Debug, Clone)]
struct Watched {
    clients: PooledClients,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Watched {
    fn new(clients: PooledClients) -> Self {
        Self { clients, asked: Arc::default() }
    }

    /// Each request since the last look.
    fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl ClientSupplier for Watched {
    fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a> {
        Box::pin(async move {
            let client = self.clients.client(region).await?;
            let watch = Watch { region: region.to_owned(), asked: Arc::clone(&self.asked) };
            let config = client.config().to_builder().interceptor(watch).build();
            Ok(kms_pool::aws_sdk_kms::Client::from_conf(config))
        })
    }
}

#[derive(Debug)]
struct Watch {
    region: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "Watch"
    }

    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let expected = HashMap::from([("tenant".to_owned(), "42".to_owned())]);
        macro_rules! asked {
            ($($operation:literal: $input:ty),*) => {
                $(if let Some(input) = context.input().downcast_ref::<$input>() {
                    Asked {
                        region: self.region.clone(),
                        operation: $operation,
                        key: input.key_id().unwrap_or_default().to_owned(),
                        grant_tokens: input.grant_tokens().to_vec(),
                        has_context: input.encryption_context() == Some(&expected),
                    }
                } else)* { panic!("{:?}", context.input()) }
            };
        }
        let asked = asked!(
            "GenerateDataKey": GenerateDataKeyInput,
            "Encrypt": EncryptInput,
            "Decrypt": DecryptInput
        );
        self.asked.lock().unwrap().push(asked);
        Ok(())
    }
}
