//! Branch keys in memory.

use std::collections::BTreeMap;

use super::{BranchKey, BranchKeySource, MissingBranchKey, key::Uuid};
use crate::{
    crypto::kdf,
    data_key::DataKey,
    error::{Error, KeyringError, ResultFuture},
};

/// Branch keys in memory, for tests and test vectors: nothing stores or protects them.
///
/// ```
/// use envelope::{DataKey, branch_key::{BranchKeySource, StaticBranchKeys}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
/// let keys = StaticBranchKeys::new()
///     .with_active("tenant-42", [2; 16], DataKey::generate(32)?)?
///     .with_version("tenant-42", [1; 16], DataKey::generate(32)?)?;
/// assert_eq!(keys.active("tenant-42", false).await.unwrap().version(), [2; 16]);
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct StaticBranchKeys(BTreeMap<String, Versions>);

#[derive(Debug, Default)]
struct Versions {
    active: Option<[u8; 16]>,
    secrets: BTreeMap<[u8; 16], DataKey>,
}

impl StaticBranchKeys {
    /// Returns a source without branch keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a version of a branch key, and makes it the active one.
    ///
    /// # Errors
    ///
    /// The errors of [`BranchKey::new`].
    pub fn with_active(
        mut self,
        id: &str,
        version: [u8; 16],
        secret: DataKey,
    ) -> Result<Self, Error> {
        self.add(id, version, secret)?.active = Some(version);
        Ok(self)
    }

    /// Adds a version of a branch key that only unwraps.
    ///
    /// # Errors
    ///
    /// The errors of [`BranchKey::new`].
    pub fn with_version(
        mut self,
        id: &str,
        version: [u8; 16],
        secret: DataKey,
    ) -> Result<Self, Error> {
        self.add(id, version, secret)?;
        Ok(self)
    }

    fn add(
        &mut self,
        id: &str,
        version: [u8; 16],
        secret: DataKey,
    ) -> Result<&mut Versions, Error> {
        BranchKey::new(id, version, &secret)?;
        let versions = self.0.entry(id.to_owned()).or_default();
        versions.secrets.insert(version, secret);
        Ok(versions)
    }

    fn find(&self, id: &str, version: Option<[u8; 16]>) -> Result<BranchKey, MissingBranchKey> {
        let versions = self.0.get(id).ok_or(MissingBranchKey::NotFound)?;
        let version = version.or(versions.active).ok_or(MissingBranchKey::NotFound)?;
        let missing = MissingBranchKey::VersionNotFound { version };
        let secret = versions.secrets.get(&version).ok_or(missing)?;
        Ok(BranchKey::new(id, version, secret).expect("was checked when it was added"))
    }
}

impl BranchKeySource for StaticBranchKeys {
    fn active<'a>(&'a self, id: &'a str, _: bool) -> ResultFuture<'a, BranchKey, KeyringError> {
        Box::pin(async move { self.find(id, None).map_err(|missing| missing.of(id)) })
    }

    fn version<'a>(
        &'a self,
        id: &'a str,
        version: [u8; 16],
        _: bool,
    ) -> ResultFuture<'a, BranchKey, KeyringError> {
        Box::pin(async move { self.find(id, Some(version)).map_err(|missing| missing.of(id)) })
    }

    fn versions<'a>(
        &'a self,
        id: &'a str,
    ) -> ResultFuture<'a, Option<Vec<[u8; 16]>>, KeyringError> {
        Box::pin(async move {
            let versions = self.0.get(id).ok_or_else(|| MissingBranchKey::NotFound.of(id))?;
            Ok(Some(versions.secrets.keys().copied().collect()))
        })
    }

    fn identity(&self) -> String {
        let versions = self.0.iter().flat_map(|(id, versions)| {
            versions.secrets.iter().map(move |(version, secret)| {
                let active = if versions.active == Some(*version) { " active" } else { "" };
                let fingerprint = kdf::fingerprint(secret.expose_secret());
                format!("{id:?} {}{active} {fingerprint:016x}", Uuid(*version))
            })
        });
        format!("static branch keys [{}]", versions.collect::<Vec<_>>().join(", "))
    }
}
