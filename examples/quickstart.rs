//! Encrypts 100,000 payment records under one data key from AWS KMS, and decrypts them again.
//!
//! You need no AWS account: the example starts an in-process KMS, and sends HTTPS requests to it
//! with the real `aws-sdk-kms`. Output, except times:
//!
//! ```text
//! 100000 messages, 4200000 bytes, encrypted and decrypted in 1.21 s: 82645 messages/s
//! cache: encryption: 99999 hits, 1 misses; decryption: 99999 hits, 1 misses; 2 requests sent, …
//! KMS requests, as the server counted them: 1 GenerateDataKey, 1 Decrypt
//! ```
//!
//! To use AWS KMS instead, with credentials from the default chain:
//!
//! ```console
//! $ cargo run --release --example quickstart -- --key-id arn:aws:kms:REGION:ACCOUNT:key/ID
//! ```
//!
//! | option | effect |
//! | --- | --- |
//! | `--key-id ARN` | uses this KMS key in AWS |
//! | `--messages N` | sets the number of records. Default: 100000 |
//! | `--no-cache` | sends two KMS requests for each record. AWS charges for them |
//! | `--save FILE` | writes the last message to a file |
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use envelope::keyring::AwsKmsKeyring;
use envelope::materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache};
use envelope::{EncryptionContext, Envelope};
use kms_local::KmsLocal;
use kms_pool::{KmsPool, Principal};
use tokio::time::Instant;

const REGION: &str = "us-east-1";

#[tokio::main]
async fn main() -> Result<(), examples::Report> {
    let Options { key_id, messages, no_cache, save } = Options::parse()?;

    // One pool of KMS clients per process, and one principal for each set of AWS credentials.
    let local = if key_id.is_none() { Some(KmsLocal::builder().start().await?) } else { None };
    let (pool, principal) = match &local {
        Some(kms) => (
            KmsPool::builder().endpoint_url(kms.endpoint(REGION)).trust_root_pem(kms.ca_pem()),
            Principal::new(kms.issue_credentials()),
        ),
        None => (KmsPool::builder().with_environment()?, Principal::from_default_chain()),
    };
    let key_id = key_id.or_else(|| Some(local.as_ref()?.create_key(REGION))).unwrap_or_default();
    let clients = pool.build()?.clients(&principal);
    let keyring = AwsKmsKeyring::new(clients, key_id.parse()?);

    // Data keys come from KMS. The cache keeps them for reuse.
    let cache = MaterialsCache::default();
    let uncached = DefaultMaterialsManager::new(keyring);
    let envelope = if no_cache {
        Envelope::builder(uncached).build()?
    } else {
        let caching = CachingMaterialsManager::builder(uncached).cache(&cache).build()?;
        Envelope::builder(caching).build()?
    };

    // The encryption context is authenticated with each message, and stored in it in the clear.
    let context = EncryptionContext::new([("purpose", "card number"), ("tenant", "42")])?;
    let record = |number| format!("card 4111 1111 1111 1111, payment {number:08}").into_bytes();
    let records: Vec<Vec<u8>> = (0..messages).map(record).collect();
    let start = Instant::now();
    let mut encrypted = Vec::new();
    for record in &records {
        encrypted.push(envelope.encrypt(record, &context).await?);
    }
    for (record, message) in records.iter().zip(&encrypted) {
        let decrypted = envelope.decrypt(message, &context).await?;
        assert_eq!(decrypted.plaintext(), record, "decryption changed a record");
    }
    let seconds = start.elapsed().as_secs_f64();

    let bytes: usize = records.iter().map(Vec::len).sum();
    let rate = f64::from(messages) / seconds;
    println!(
        "{messages} messages, {bytes} bytes, encrypted and decrypted in {seconds:.2} s: \
         {rate:.0} messages/s"
    );
    println!("cache: {}", cache.stats());
    if let Some(kms) = local {
        let counters = kms.counters(REGION);
        let generated = counters.requests("GenerateDataKey");
        let decrypted = counters.requests("Decrypt");
        println!(
            "KMS requests, as the server counted them: {generated} GenerateDataKey, \
             {decrypted} Decrypt"
        );
    }
    if let (Some(file), Some(message)) = (save, encrypted.last()) {
        std::fs::write(file, message)?;
    }
    Ok(())
}

/// The command line.
struct Options {
    key_id: Option<String>,
    messages: u32,
    no_cache: bool,
    save: Option<String>,
}

impl Options {
    fn parse() -> Result<Self, examples::Report> {
        let mut options = Self { key_id: None, messages: 100_000, no_cache: false, save: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(option) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{option} needs a value"));
            match &*option {
                "--key-id" => options.key_id = Some(value()?),
                "--messages" => options.messages = value()?.parse()?,
                "--no-cache" => options.no_cache = true,
                "--save" => options.save = Some(value()?),
                _ => {
                    return Err(format!("unknown option {option}: see the example's source").into());
                }
            }
        }
        Ok(options)
    }
}
