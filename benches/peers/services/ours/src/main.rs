//! The smallest service over AWS KMS with `envelope`: what it takes to build one.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{env, error::Error};

use envelope::{EncryptionContext, Envelope, keyring::AwsKmsKeyring};
use kms_pool::{KmsPool, Principal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let key = env::args().nth(1).ok_or("the ARN of a key")?.parse()?;
    let clients = KmsPool::builder().build()?.clients(&Principal::from_default_chain());
    let envelope = Envelope::new(AwsKmsKeyring::new(clients, key))?;
    let context = EncryptionContext::new([("tenant", "42")])?;
    let message = envelope.encrypt(b"4111 1111 1111 1111", &context).await?;
    let opened = envelope.decrypt(&message, &context).await?;
    println!("{}", String::from_utf8_lossy(opened.plaintext()));
    Ok(())
}
