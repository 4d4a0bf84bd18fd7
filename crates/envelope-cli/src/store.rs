//! Opens the key store of the command line.

use std::{path::Path, sync::Arc};

use branch_keys::{ItemType, KeyStore, KmsKeys, Storage};

use crate::{
    failure::Failure,
    kms::Aws,
    options::{BranchKeyOptions, StoreOptions, StoreUrl},
};

/// How many ids one request lists.
pub(crate) const PAGE: usize = 1_000;

/// Whether the table of a key store must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Expect,
    Create,
}

/// Opens the key store, for commands that call AWS KMS.
pub(crate) async fn key_store(
    store: &StoreOptions,
    branch_keys: &BranchKeyOptions,
    aws: &Aws<'_>,
) -> Result<KeyStore, Failure> {
    under_root(key_store_of_root(store, branch_keys, aws).await?, branch_keys)
}

/// Returns the key store whose branch keys are under the root, if the command line names one.
pub(crate) fn under_root(
    store: KeyStore,
    branch_keys: &BranchKeyOptions,
) -> Result<KeyStore, Failure> {
    let Some(root) = branch_keys.root.as_deref().filter(|id| !id.is_empty()) else {
        return Ok(store);
    };
    let store = store.under_root(root, |cache| cache);
    store.map_err(|error| Failure::usage(format!("--root: {error}")))
}

/// Opens the key store in which the root is an ordinary branch key.
pub(crate) async fn key_store_of_root(
    store: &StoreOptions,
    branch_keys: &BranchKeyOptions,
    aws: &Aws<'_>,
) -> Result<KeyStore, Failure> {
    let missing = |option: &str, variable: &str| {
        Failure::usage(format!("branch keys need {option}: pass it, or set {variable}"))
    };
    let name = branch_keys.logical_name.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| missing("--logical-name", "ENVELOPE_LOGICAL_NAME"))?;
    let kms_keys = branch_keys.kms_key.clone();
    let kms_keys = kms_keys.ok_or_else(|| missing("--kms-key", "ENVELOPE_KMS_KEY"))?;
    open(store, name, kms_keys, aws).await
}

/// Opens the key store, for commands that call no KMS key.
pub(crate) async fn key_store_without_kms(
    store: &StoreOptions,
    aws: &Aws<'_>,
) -> Result<KeyStore, Failure> {
    // The logical name is only for AWS KMS.
    open(store, "none", KmsKeys::none(), aws).await
}

async fn open(
    store: &StoreOptions,
    name: &str,
    kms_keys: KmsKeys,
    aws: &Aws<'_>,
) -> Result<KeyStore, Failure> {
    let storage = storage(store, aws, Table::Expect).await?;
    let mut builder = KeyStore::builder(storage, name, kms_keys, aws.clients()?);
    if let Some(region) = &store.home_region {
        builder = builder.home_region(region.clone());
    }
    builder.build().map_err(|error| Failure::usage(error.to_string()))
}

/// Opens the storage. With [`Table::Create`], it creates or updates the table.
pub(crate) async fn storage(
    store: &StoreOptions,
    aws: &Aws<'_>,
    table: Table,
) -> Result<Arc<dyn Storage>, Failure> {
    let url = url(store).ok_or_else(|| {
        Failure::usage("no key store: pass --store, or set ENVELOPE_STORE".to_owned())
    })?;
    // Messages must not contain the URL, which can contain a password.
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    let (feature, is_built) = match scheme {
        "dynamodb" => ("dynamodb", cfg!(feature = "dynamodb")),
        "sqlite" => ("sqlite", cfg!(feature = "sqlite")),
        "postgres" | "postgresql" => ("postgres", cfg!(feature = "postgres")),
        "mysql" | "mariadb" => ("mysql", cfg!(feature = "mysql")),
        _ => {
            return Err(Failure::usage(
                "--store: unknown kind: expected dynamodb:TABLE, sqlite:FILE, postgres://... or \
                 mysql://...",
            ));
        }
    };
    if !is_built {
        return Err(Failure::new(format!(
            "--store: this program was built without {feature}: build it with `--features \
             {feature}`"
        )));
    }
    if rest.is_empty() {
        return Err(Failure::usage(format!("--store: expected more after `{scheme}:`")));
    }
    if let Some(file) = file(store).filter(|file| table == Table::Expect && !file.exists()) {
        return Err(Failure::new(format!(
            "{}: no such key store: create it with `envelope keys create-store`",
            file.display()
        )));
    }
    if feature == "dynamodb" {
        dynamodb(store, rest, aws, table).await
    } else {
        sql(url, table).await
    }
}

/// Returns the file with the key store, if it is in one.
pub(crate) fn file(store: &StoreOptions) -> Option<&Path> {
    let path = url(store)?.strip_prefix("sqlite:")?;
    Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
}

fn url(store: &StoreOptions) -> Option<&str> {
    store.store.as_ref().map(StoreUrl::as_str).filter(|url| !url.is_empty())
}

/// Returns the UUID of a version as text.
pub(crate) fn version_text(version: [u8; 16]) -> String {
    let item_type = ItemType::Version(version).to_string();
    item_type.trim_start_matches("branch:version:").to_owned()
}

#[cfg(feature = "dynamodb")]
async fn dynamodb(
    store: &StoreOptions,
    name: &str,
    aws: &Aws<'_>,
    table: Table,
) -> Result<Arc<dyn Storage>, Failure> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    // arn:PARTITION:dynamodb:REGION:ACCOUNT:table/NAME
    let of_arn = || name.starts_with("arn:").then(|| name.split(':').nth(3)).flatten();
    let region = store.region.as_ref().map(ToString::to_string);
    let region = region
        .or_else(|| of_arn().map(str::to_owned))
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .ok_or_else(|| {
            Failure::usage("no region for DynamoDB: pass --region, or set AWS_REGION")
        })?;
    let (pool, principal) = aws.built()?;
    let storage = branch_keys::DynamoDbStorage::new(pool.clone(), principal.clone(), region, name);
    if table == Table::Create {
        storage.create_table().await.map_err(|error| Failure::storage(&error))?;
    }
    Ok(Arc::new(storage))
}

#[cfg(not(feature = "dynamodb"))]
#[expect(clippy::unused_async, reason = "the signature that it has with the feature")]
async fn dynamodb(
    _: &StoreOptions,
    _: &str,
    _: &Aws<'_>,
    _: Table,
) -> Result<Arc<dyn Storage>, Failure> {
    unreachable!("the feature was checked")
}

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
async fn sql(url: &str, table: Table) -> Result<Arc<dyn Storage>, Failure> {
    let builder = branch_keys::SqlStorage::builder(url).migrate(table == Table::Create);
    let storage = builder.connect().await.map_err(|error| Failure::storage(&error))?;
    Ok(Arc::new(storage))
}

#[cfg(not(any(feature = "mysql", feature = "postgres", feature = "sqlite")))]
#[expect(clippy::unused_async, reason = "the signature that it has with the features")]
async fn sql(_: &str, _: Table) -> Result<Arc<dyn Storage>, Failure> {
    unreachable!("the features were checked")
}
