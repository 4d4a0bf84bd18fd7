//! The command line of `envelope keys`.

use clap::{Args, Subcommand};

use crate::options::{BranchKeyOptions, Kms, StoreOptions, pair};

const CREATE_STORE: &str = "\
Examples:
  envelope keys create-store --store sqlite:keys.db
  envelope keys create-store --store dynamodb:branch-keys --region eu-west-1
  ENVELOPE_STORE=postgres://admin:PASSWORD@db.internal/keys envelope keys create-store

The DynamoDB table is that of the AWS Encryption SDKs, billed per request. Turn on its point-in-time
recovery and deletion protection yourself. Set its endpoint with AWS_ENDPOINT_URL_DYNAMODB.
PostgreSQL and MySQL need a build with the feature `postgres` or `mysql`.";

const CREATE: &str = "\
Examples:
  export ENVELOPE_STORE=sqlite:keys.db ENVELOPE_LOGICAL_NAME=payments
  export ENVELOPE_KMS_KEY=arn:aws:kms:eu-west-1:111122223333:key/ID
  envelope keys create tenant-42 --encryption-context tenant=42
  id=$(envelope keys create)
  envelope encrypt --wrapping-key hierarchical:tenant-42 -i report.pdf -o report.pdf.enc";

/// What a deleted branch key is still in.
pub(crate) const SURVIVES: &str = "\
The branch key survives in the caches of running processes until it expires there, and in backups,
point-in-time recovery, replicas and logs of the store. Anyone who restores them and may use the KMS
key, or the root, can decrypt again. To end this, schedule the deletion of the KMS key, but only if
no other branch key needs it.";

const LIST: &str = "\
Example, rotates all branch keys:
  envelope keys list | xargs -d '\\n' -n 1 envelope keys rotate --";

/// Create, rotate, list, verify and delete branch keys
///
/// A branch key is one key per tenant, or per purpose, that hosts share: AWS KMS protects it, and a
/// key store keeps it. `encrypt` and `decrypt` use it as --wrapping-key hierarchical:ID.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    CreateStore(CreateStore),
    Create(Create),
    Rotate(Rotate),
    List(List),
    Show(Show),
    Verify(Verify),
    Shred(Shred),
}

/// Create the table of a key store, or verify that an existing one can be used
#[derive(Debug, Args)]
#[command(after_help = CREATE_STORE)]
pub(crate) struct CreateStore {
    #[command(flatten)]
    pub(crate) store: StoreOptions,

    #[command(flatten)]
    pub(crate) kms: Kms,
}

/// Create a branch key and print its id
#[derive(Debug, Args)]
#[command(after_help = CREATE)]
pub(crate) struct Create {
    /// Id, which needs at least one pair of encryption context [default: a random UUID]
    pub(crate) id: Option<String>,

    /// Encryption context pair (repeatable) that AWS KMS authenticates with each use of the branch
    /// key, stored in the clear
    #[arg(long = "encryption-context", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) encryption_context: Vec<(String, String)>,

    #[command(flatten)]
    pub(crate) store: StoreOptions,

    #[command(flatten)]
    pub(crate) branch_keys: BranchKeyOptions,

    #[command(flatten)]
    pub(crate) kms: Kms,
}

/// Replace the active version of a branch key, and print the new version
///
/// Messages under earlier versions still decrypt. Running processes encrypt under the previous
/// version until their cached branch key expires. If another rotation is faster, the command fails
/// and names the version of the other one.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Id of the branch key
    pub(crate) id: String,

    #[command(flatten)]
    pub(crate) store: StoreOptions,

    #[command(flatten)]
    pub(crate) branch_keys: BranchKeyOptions,

    #[command(flatten)]
    pub(crate) kms: Kms,
}

/// Print the ids of all branch keys, one per line
#[derive(Debug, Args)]
#[command(after_help = LIST)]
pub(crate) struct List {
    /// Print a JSON string per line. Without it, ids with control characters are an error
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) store: StoreOptions,

    #[command(flatten)]
    pub(crate) kms: Kms,
}

/// Show the versions and the encryption context of a branch key, without verification
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Id of the branch key
    pub(crate) id: String,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) store: StoreOptions,

    #[command(flatten)]
    pub(crate) kms: Kms,
}

/// Authenticate all items of branch keys, with one KMS request for each item
///
/// Prints the branch keys without problems. Each bad item is named on standard error, and the exit
/// status is then 1.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Ids of the branch keys [default: all in the key store]
    pub(crate) ids: Vec<String>,

    #[command(flatten)]
    pub(crate) store: StoreOptions,

    #[command(flatten)]
    pub(crate) branch_keys: BranchKeyOptions,

    #[command(flatten)]
    pub(crate) kms: Kms,
}

/// Delete a branch key for good: what it protects can no longer be decrypted
///
/// On a terminal, you confirm by typing the id. If the command fails, repeat it until it succeeds.
#[derive(Debug, Args)]
#[command(after_help = SURVIVES)]
pub(crate) struct Shred {
    /// Id of the branch key
    pub(crate) id: String,

    /// Do not ask. Required if there is no terminal
    #[arg(long)]
    pub(crate) yes: bool,

    /// Delete it even if it is the root of other branch keys, which are lost with it
    #[arg(long)]
    pub(crate) with_all_under_it: bool,

    #[command(flatten)]
    pub(crate) store: StoreOptions,

    #[command(flatten)]
    pub(crate) kms: Kms,
}
