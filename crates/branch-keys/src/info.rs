//! Facts about a branch key.

use std::collections::BTreeMap;

/// Facts about the active version of a branch key. It contains no secrets.
///
/// ```no_run
/// # async fn example(store: branch_keys::KeyStore) -> Result<(), branch_keys::Error> {
/// let info = store.info("tenant-42").await?;
/// println!("active since {}", info.create_time);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchKeyInfo {
    /// The id.
    pub id: String,
    /// The bytes of the UUID of the active version.
    pub version: [u8; 16],
    /// The ARN of the KMS key, as it is stored. Under a root it is `envelope:root:` and its id.
    pub kms_key_arn: String,
    /// When the active version was created, as it is stored: `2026-11-27T20:41:20.856881Z`.
    pub create_time: String,
    /// The custom encryption context, without the prefix `aws-crypto-ec:`.
    pub context: BTreeMap<String, String>,
}
