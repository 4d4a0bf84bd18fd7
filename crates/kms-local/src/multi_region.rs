//! Multi-Region keys without a request.

use std::time::SystemTime;

use crate::{
    KmsLocal,
    error::{Refusal, Refused},
    operations::{
        CreateKey, PointAlias, ReplicateKey, check_alias_name, create_alias, create_key,
        replicate_key,
    },
    store::Place,
    time,
};

impl KmsLocal {
    /// Makes a multi-Region key with its primary in one region and a replica in each of the others,
    /// without a request, and returns the ARN of the primary. That of a replica differs in the
    /// region alone. Blocks for the disk when there is a data directory.
    ///
    /// # Panics
    ///
    /// When a region was not started or is named twice, or the data directory cannot be written.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().region("us-east-1").region("eu-west-1").start().await?;
    /// let key = kms.create_multi_region_key("us-east-1", &["eu-west-1"]);
    /// assert!(key.starts_with("arn:aws:kms:us-east-1:000000000000:key/mrk-"));
    /// kms.disable_key("eu-west-1", &key.replace("us-east-1", "eu-west-1"))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_multi_region_key(&self, primary_region: &str, replicas: &[&str]) -> String {
        let (place, now) = (self.place(primary_region), time::now());
        let create = || {
            let key = create(place, now)?;
            replicas.iter().try_for_each(|region| replicate(place, &key, region, now))?;
            Ok(key)
        };
        create().unwrap_or_else(|refusal: Refusal| {
            panic!("cannot create a multi-Region key: {refusal}")
        })
    }

    /// The ARNs of the multi-Region key of an alias in each of these regions. Missing ones are
    /// created: the primary in the first region, the replicas in the others, and the alias in all
    /// of them. Blocks for the disk if there is a data directory.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the alias has no proper name or stands for something else somewhere, when
    /// the key of the first region is not a primary, or the data directory cannot be written.
    ///
    /// # Panics
    ///
    /// When a region was not started, or none is named.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().region("us-east-1").region("eu-west-1").start().await?;
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
        let (primary, replicas) = regions.split_first().expect("a region is named");
        let (place, now) = (self.place(primary), time::now());
        check_alias_name(alias)?;
        let key = match place.find(alias, now) {
            Ok(key) => place.home.key_arn(key.id),
            Err(_) => create(place, now)?,
        };
        let id = key.rsplit('/').next().unwrap_or_default();
        let mut arns = Vec::new();
        for region in regions {
            if replicas.contains(region) {
                match replicate(place, &key, region, now) {
                    Ok(()) | Err(Refusal::AlreadyExists(_)) => {}
                    Err(refusal) => return Err(refusal.into()),
                }
            }
            let there = self.place(region);
            let found = there.find(id, now)?;
            if found.primary_region.as_deref() != Some(primary) {
                let what = format!(
                    "{} is not a key with its primary in {primary}",
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

    fn place(&self, region: &str) -> &Place {
        &self.started(region).region.keys
    }
}

fn create(place: &Place, now: SystemTime) -> Result<String, Refusal> {
    Ok(create_key(place, CreateKey::multi_region(), now)?.key_metadata.arn)
}

fn replicate(place: &Place, key: &str, region: &str, now: SystemTime) -> Result<(), Refusal> {
    let (key_id, replica_region) = (Some(key.to_owned()), Some(region.to_owned()));
    replicate_key(place, ReplicateKey { key_id, replica_region, ..ReplicateKey::default() }, now)
        .map(drop)
}
