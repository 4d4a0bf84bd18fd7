//! Seals 100,000 payment records through AWS KMS under one cached data key, and opens them again.
//!
//! Needs nothing: it starts a KMS of its own in this process and talks to it over HTTPS with the
//! real `aws-sdk-kms`. Against real AWS, with the default credential chain: `cargo run --release
//! --example quickstart -- --kms aws --key-id arn:aws:kms:REGION:ACCOUNT:key/ID`
//!
//! Expected output, times aside:
//!
//! ```text
//! 100000 messages, 4200000 bytes, sealed and opened in 1.21 s: 82645 messages/s
//! cache: encryption: 99999 hits, 1 misses; decryption: 99999 hits, 1 misses; 2 requests sent, …
//! KMS requests, as the server counted them: 1 GenerateDataKey, 1 Decrypt
//! ```
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use clap::Parser;
use envelope::keyring::AwsKmsKeyring;
use envelope::materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache};
use envelope::{EncryptionContext, Envelope};
use kms_local::KmsLocal;
use kms_pool::{KmsPool, Principal};

#[derive(Parser)]
#[command(about = "Seals and opens payment records through AWS KMS, and prints what that cost")]
#[rustfmt::skip]
struct Args {
    #[arg(long, default_value = "local", value_parser = ["local", "aws"], help = "`local` for a KMS in this process")]
    kms: String,
    #[arg(long, default_value = "", hide_default_value = true, required_if_eq("kms", "aws"), help = "The KMS key's ARN")]
    key_id: String,
    #[arg(long, default_value_t = 100_000, help = "How many messages to seal and open")]
    messages: u32,
    #[arg(long, help = "Ask KMS for every message, twice: AWS bills that")]
    no_cache: bool,
    #[arg(long, value_name = "FILE", help = "Keep the last sealed message")]
    save: Option<std::path::PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), examples::Report> {
    let Args { kms, key_id, messages, no_cache, save } = Args::parse();

    // Which KMS, and as whom.
    let local = if kms == "local" { Some(KmsLocal::builder().start().await?) } else { None };
    let (pool, principal, key_id) = if let Some(kms) = &local {
        let pool =
            KmsPool::builder().endpoint_url(kms.endpoint("us-east-1")).trust_root_pem(kms.ca_pem());
        (pool, Principal::new(kms.issue_credentials()), kms.create_key("us-east-1"))
    } else {
        (KmsPool::builder().with_environment()?, Principal::from_default_chain(), key_id)
    };

    // Data keys come from KMS, and are cached on the way.
    let clients = pool.build()?.clients(&principal);
    let source = DefaultMaterialsManager::new(AwsKmsKeyring::new(clients, key_id.parse()?));
    let cache = MaterialsCache::default();
    let caching = CachingMaterialsManager::builder(source.clone()).cache(&cache).build()?;
    let envelope =
        if no_cache { Envelope::builder(source) } else { Envelope::builder(caching) }.build()?;

    // The context is authenticated with each message, and stored in it in the clear.
    let context = EncryptionContext::new([("purpose", "card number"), ("tenant", "42")])?;
    let record = |number| format!("card 4111 1111 1111 1111, payment {number:08}");
    let records: Vec<String> = (0..messages).map(record).collect();
    let (started, mut sealed, mut bytes) = (tokio::time::Instant::now(), Vec::new(), 0);
    for record in &records {
        sealed.push(envelope.encrypt(record.as_bytes(), &context).await?);
    }
    for (record, message) in records.iter().zip(&sealed) {
        let opened = envelope.decrypt(message, &context).await?;
        assert_eq!(opened.plaintext(), record.as_bytes(), "a message came back changed");
        bytes += record.len();
    }

    // What it cost.
    let seconds = started.elapsed().as_secs_f64();
    let rate = f64::from(messages) / seconds;
    println!(
        "{messages} messages, {bytes} bytes, sealed and opened in {seconds:.2} s: {rate:.0} messages/s"
    );
    println!("cache: {}", cache.stats());
    if let Some(requests) = local.map(|kms| kms.counters("us-east-1")) {
        let (generated, decrypted) =
            (requests.requests("GenerateDataKey"), requests.requests("Decrypt"));
        println!(
            "KMS requests, as the server counted them: {generated} GenerateDataKey, {decrypted} Decrypt"
        );
    }
    save.iter().zip(sealed.last()).try_for_each(|(file, message)| std::fs::write(file, message))?;
    Ok(())
}
