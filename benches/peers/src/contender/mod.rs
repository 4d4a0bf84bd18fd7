//! Who is compared, of those that are written in Rust.

mod aws_esdk;
mod floor;
mod ours;
mod raw;
mod signature;

use std::{error::Error, mem::take};

pub(crate) use self::aws_esdk::AwsEsdk;

/// The wrapping key that all share, under the same namespace and name.
pub(crate) const WRAPPING_KEY: [u8; 32] = [7; 32];
pub(crate) const NAMESPACE: &str = "peers";
pub(crate) const NAME: &str = "key";
/// The encryption context that all use.
pub(crate) const CONTEXT: [(&str, &str); 1] = [("tenant", "42")];
pub(crate) const FRAME_LENGTH: u32 = 4096;

/// What all have in common. A failure is a panic: none is expected, and the driver sees the process
/// end.
pub(crate) trait Contender: Sync {
    /// Who it is, in which version.
    fn version(&self) -> String;
    /// Seals one message.
    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8>;
    /// Opens one message.
    fn decrypt(&self, message: &[u8]) -> Vec<u8>;

    /// Seals into a buffer that held the message before. Who has no such call makes a new one.
    fn encrypt_into(&self, plaintext: &[u8], message: &mut Vec<u8>) {
        drop(take(message));
        *message = self.encrypt(plaintext);
    }

    /// Opens into a buffer that held the plaintext before. Who has no such call makes a new one.
    fn decrypt_into(&self, message: &[u8], plaintext: &mut Vec<u8>) {
        drop(take(plaintext));
        *plaintext = self.decrypt(message);
    }
}

/// The contender of this name.
pub(crate) fn named(name: &str) -> Result<Box<dyn Contender>, Box<dyn Error>> {
    Ok(match name {
        "envelope" => Box::new(ours::Plain::new(0x0478)?),
        "envelope-signed" => Box::new(ours::Plain::new(0x0578)?),
        "envelope-prepared" => Box::new(ours::Prepared::new()?),
        "envelope-buffer" => Box::new(ours::Buffer::new()?),
        "envelope-uncached" => Box::new(ours::Uncached::new()?),
        "aws-esdk" => Box::new(AwsEsdk::new(false)?),
        "aws-esdk-signed" => Box::new(AwsEsdk::new(true)?),
        "aes-gcm" => Box::new(raw::AesGcm::new()),
        "aws-lc-rs" => Box::new(raw::AwsLc::new()?),
        "floor" => Box::new(floor::Floor),
        "signature" => Box::new(signature::Signature::new()?),
        "key-pair" => Box::new(signature::KeyPair),
        _ => return Err(format!("nobody is called {name}").into()),
    })
}

/// The version of a crate in the lock file; where there are several, the last, which is the newest.
pub(crate) fn version_of(name: &str) -> &'static str {
    let after = format!("name = \"{name}\"\nversion = \"");
    let found = include_str!("../../Cargo.lock").split(&after).last();
    found.and_then(|rest| rest.split('"').next()).unwrap_or("of unknown version")
}
