//! The smallest service over AWS KMS with `aws-esdk`: what it takes to build one.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{collections::HashMap, env, error::Error};

use aws_config::BehaviorVersion;
use aws_esdk::{
    client::Client,
    material_providers::{
        client::Client as Providers, types::material_providers_config::MaterialProvidersConfig,
    },
    types::aws_encryption_sdk_config::AwsEncryptionSdkConfig,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let key = env::args().nth(1).ok_or("the ARN of a key")?;
    let kms = aws_sdk_kms::Client::new(&aws_config::load_defaults(BehaviorVersion::latest()).await);
    let providers = Providers::from_conf(MaterialProvidersConfig::builder().build()?)?;
    let keyring = providers.create_aws_kms_keyring().kms_client(kms).kms_key_id(key).send().await?;
    let client = Client::from_conf(AwsEncryptionSdkConfig::builder().build()?)?;
    let context = HashMap::from([("tenant".to_owned(), "42".to_owned())]);
    let text = b"4111 1111 1111 1111".as_slice();
    let encrypt = client
        .encrypt()
        .plaintext(text)
        .keyring(keyring.clone())
        .encryption_context(context.clone());
    let message = encrypt.send().await?.ciphertext.ok_or("a message")?;
    let opened = client
        .decrypt()
        .ciphertext(message)
        .keyring(keyring)
        .encryption_context(context)
        .send()
        .await?;
    println!("{}", String::from_utf8_lossy(opened.plaintext.ok_or("a plaintext")?.as_ref()));
    Ok(())
}
