//! AWS's own client for Rust. It has no cache of data keys: each message gets one of its own.

use std::{collections::HashMap, error::Error};

use aws_esdk::{
    client::Client,
    material_providers::{
        self,
        types::{
            AesWrappingAlg, EsdkAlgorithmSuiteId, keyring::KeyringRef,
            material_providers_config::MaterialProvidersConfig,
        },
    },
    types::aws_encryption_sdk_config::AwsEncryptionSdkConfig,
};
use tokio::runtime::{self, Runtime};

use super::{CONTEXT, Contender, FRAME_LENGTH, NAME, NAMESPACE, WRAPPING_KEY, version_of};

/// A client over one keyring.
pub(crate) struct AwsEsdk {
    client: Client,
    keyring: KeyringRef,
    suite: EsdkAlgorithmSuiteId,
    context: HashMap<String, String>,
    runtime: Runtime,
}

impl AwsEsdk {
    /// Over a raw AES key, with suite 0x0578 or 0x0478.
    pub(super) fn new(signed: bool) -> Result<Self, Box<dyn Error>> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).build()?;
        let keyring = providers()?
            .create_raw_aes_keyring()
            .key_namespace(NAMESPACE)
            .key_name(NAME)
            .wrapping_key(WRAPPING_KEY.to_vec())
            .wrapping_alg(AesWrappingAlg::AlgAes256GcmIv12Tag16);
        let keyring = runtime.block_on(keyring.send())?;
        let suite = if signed {
            EsdkAlgorithmSuiteId::AlgAes256GcmHkdfSha512CommitKeyEcdsaP384
        } else {
            EsdkAlgorithmSuiteId::AlgAes256GcmHkdfSha512CommitKey
        };
        Ok(Self { client: client()?, keyring, suite, context: context(CONTEXT[0].1), runtime })
    }

    /// Seals and opens a message of 1 KiB for each of the tenants, under an AWS KMS key.
    pub(crate) async fn seal_and_open(
        kms: &aws_sdk_kms::Client,
        key: &str,
        tenants: impl IntoIterator<Item = String>,
    ) -> Result<(), Box<dyn Error>> {
        let keyring = providers()?
            .create_aws_kms_keyring()
            .kms_client(kms.clone())
            .kms_key_id(key)
            .send()
            .await?;
        let client = client()?;
        for tenant in tenants {
            let context = context(&tenant);
            let encrypt = client
                .encrypt()
                .plaintext([0; 1024].as_slice())
                .keyring(keyring.clone())
                .encryption_context(context.clone());
            let suite = EsdkAlgorithmSuiteId::AlgAes256GcmHkdfSha512CommitKey;
            let message =
                encrypt.algorithm_suite_id(suite).send().await?.ciphertext.ok_or("a message")?;
            client
                .decrypt()
                .ciphertext(message)
                .keyring(keyring.clone())
                .encryption_context(context)
                .send()
                .await?;
        }
        Ok(())
    }
}

impl Contender for AwsEsdk {
    fn version(&self) -> String {
        format!("aws-esdk {}", version_of("aws-esdk"))
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        let encrypt = self
            .client
            .encrypt()
            .plaintext(plaintext)
            .keyring(self.keyring.clone())
            .encryption_context(self.context.clone())
            .algorithm_suite_id(self.suite)
            .frame_length(i64::from(FRAME_LENGTH));
        let output = self.runtime.block_on(encrypt.send()).expect("the key is at hand");
        output.ciphertext.expect("a message").into_inner()
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        let decrypt = self
            .client
            .decrypt()
            .ciphertext(message)
            .keyring(self.keyring.clone())
            .encryption_context(self.context.clone());
        let output =
            self.runtime.block_on(decrypt.send()).expect("it was sealed under the same key");
        output.plaintext.expect("a plaintext").into_inner()
    }
}

fn client() -> Result<Client, Box<dyn Error>> {
    Ok(Client::from_conf(AwsEncryptionSdkConfig::builder().build()?)?)
}

fn providers() -> Result<material_providers::client::Client, Box<dyn Error>> {
    Ok(material_providers::client::Client::from_conf(MaterialProvidersConfig::builder().build()?)?)
}

fn context(tenant: &str) -> HashMap<String, String> {
    HashMap::from([(CONTEXT[0].0.to_owned(), tenant.to_owned())])
}
