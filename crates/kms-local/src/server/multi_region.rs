//! Creates multi-Region keys without a request.

use std::time::SystemTime;

use super::KmsLocal;
use crate::{
    error::{Refusal, Refused},
    operations::{
        CreateKey, PointAlias, ReplicateKey, check_alias_name, create_alias, create_key,
        replicate_key,
    },
    store::StoreHandle,
    time,
};

impl KmsLocal {
    /// Creates a multi-Region key, without a request, and returns the ARN of its primary key.
    ///
    /// There is a replica in each region of `replicas`. Its ARN differs only in the region. Blocks
    /// for the disk if there is a data directory.
    ///
    /// # Panics
    ///
    /// Panics if a region was not started or is given twice, or if the data directory cannot be
    /// written.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = kms_local::KmsLocal::builder().region("us-east-1").region("eu-west-1");
    /// let kms = builder.start().await?;
    /// let key = kms.create_multi_region_key("us-east-1", &["eu-west-1"]);
    /// assert!(key.starts_with("arn:aws:kms:us-east-1:000000000000:key/mrk-"));
    /// kms.disable_key("eu-west-1", &key.replace("us-east-1", "eu-west-1"))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_multi_region_key(&self, primary_region: &str, replicas: &[&str]) -> String {
        let store = self.store(primary_region);
        let now = time::now();
        let create = || {
            let key = create(store, now)?;
            replicas.iter().try_for_each(|region| replicate(store, &key, region, now))?;
            Ok(key)
        };
        create().unwrap_or_else(|refusal: Refusal| {
            panic!("could not create a multi-Region key: {refusal}")
        })
    }

    /// Returns the ARNs of the multi-Region key with this alias, one for each region.
    ///
    /// Creates missing keys and aliases: the primary key in the first region, replicas in the
    /// others, and the alias in all of them. Blocks for the disk if there is a data directory.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the name of the alias is invalid, if the alias belongs to another key in any
    /// of the regions, if the key in the first region is not a primary key, or if the data
    /// directory cannot be written.
    ///
    /// # Panics
    ///
    /// Panics if `regions` is empty, or if a region was not started.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = kms_local::KmsLocal::builder().region("us-east-1").region("eu-west-1");
    /// let kms = builder.start().await?;
    /// let keys = kms.ensure_multi_region_alias(&["us-east-1", "eu-west-1"], "alias/app")?;
    /// assert_eq!(keys[0].replace("us-east-1", "eu-west-1"), keys[1]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn ensure_multi_region_alias(
        &self,
        regions: &[&str],
        alias: &str,
    ) -> Result<Vec<String>, Refused> {
        let (primary, replicas) = regions.split_first().expect("`regions` is not empty");
        let store = self.store(primary);
        let now = time::now();
        check_alias_name(alias)?;
        let key = match store.find(alias, now) {
            Ok(key) => store.home.key_arn(key.id),
            Err(_) => create(store, now)?,
        };
        let id = key.rsplit('/').next().unwrap_or_default();
        let mut arns = Vec::new();
        for region in regions {
            if replicas.contains(region) {
                match replicate(store, &key, region, now) {
                    Ok(()) | Err(Refusal::AlreadyExists(_)) => {}
                    Err(refusal) => return Err(refusal.into()),
                }
            }
            let there = self.store(region);
            let found = there.find(id, now)?;
            if found.primary_region.as_deref() != Some(primary) {
                let what = format!(
                    "{} is not a multi-Region key with its primary key in {primary}",
                    there.home.key_arn(found.id)
                );
                return Err(Refusal::Unsupported(what).into());
            }
            if there.find(alias, now).map(|key| key.id).ok() != Some(found.id) {
                let point = PointAlias {
                    alias_name: Some(alias.to_owned()),
                    target_key_id: Some(id.to_owned()),
                };
                create_alias(there, point, now)?;
            }
            arns.push(there.home.key_arn(found.id));
        }
        Ok(arns)
    }

    fn store(&self, region: &str) -> &StoreHandle {
        &self.started(region).region.store
    }
}

fn create(store: &StoreHandle, now: SystemTime) -> Result<String, Refusal> {
    Ok(create_key(store, CreateKey::multi_region(), now)?.key_metadata.arn)
}

fn replicate(store: &StoreHandle, key: &str, region: &str, now: SystemTime) -> Result<(), Refusal> {
    let request = ReplicateKey {
        key_id: Some(key.to_owned()),
        replica_region: Some(region.to_owned()),
        ..ReplicateKey::default()
    };
    replicate_key(store, request, now).map(drop)
}
