//! One branch key for each tenant: AWS KMS protects it, and the hosts share it in a SQLite file.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use branch_keys::{CreateBranchKey, KeyStore, KmsKeys, SqlStorage};
use envelope::{EncryptionContext, branch_key::BranchKeys, branch_key::MissingBranchKey};
use envelope::{Envelope, Error, keyring::HierarchicalKeyring, materials::DefaultMaterialsManager};
use kms_pool::{KmsPool, Principal};

#[tokio::main]
async fn main() -> Result<(), examples::Report> {
    // A KMS in this process. For AWS: `KmsPool::builder()`, `Principal::from_default_chain()`.
    let kms = kms_local::KmsLocal::builder().region("us-east-1").start().await?;
    let url = kms.endpoint("us-east-1");
    let pool = KmsPool::builder().endpoint_url(url).trust_root_pem(kms.ca_pem()).build()?;
    let clients = pool.clients(&Principal::new(kms.issue_credentials()));
    let folder = tempfile::tempdir()?;
    let file = format!("sqlite:{}/keys.db", folder.path().display());
    let storage = SqlStorage::connect(file).await?;
    let kms_keys = KmsKeys::exact(kms.create_key("us-east-1").parse()?);
    let store = KeyStore::builder(storage, "payments", kms_keys, clients).build()?;
    for tenant in ["acme", "globex"] {
        store.ensure(CreateBranchKey::new(tenant, [("tenant", tenant)])).await?;
    }

    // The tenant in the encryption context names the branch key.
    let keys = BranchKeys::new(store.clone());
    let keyring = HierarchicalKeyring::with_supplier(keys.clone(), |context| {
        let missing = Error::InvalidEncryptionContext { problem: "no pair `tenant`" };
        context.get("tenant").map(Into::into).ok_or(missing)
    });
    let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).build()?;
    let row = |tenant: &str, row: u32| {
        EncryptionContext::new([("tenant", tenant.to_owned()), ("row", row.to_string())])
    };
    let (acme, globex) = (row("acme", 1)?, row("globex", 2)?);
    let first = envelope.encrypt(b"4111 1111 1111 1111", &acme).await?;
    let other = envelope.encrypt(b"5555 5555 5555 4444", &globex).await?;
    for number in 3..=1000 {
        envelope.try_encrypt(b"4242 4242 4242 4242", &row("acme", number)?)?;
    }
    let requests = kms.counters("us-east-1").requests("Decrypt");
    println!("1000 rows, each with a data key of its own, cost {requests} Decrypt requests");

    // After a rotation, messages of earlier versions still decrypt.
    store.rotate("acme").await?;
    keys.invalidate("acme"); // other processes notice within the maximum age, 5 minutes
    let second = envelope.encrypt(b"4111 1111 1111 1111", &acme).await?;
    for (message, row) in [(&first, &acme), (&second, &acme), (&other, &globex)] {
        println!("{}", envelope.decrypt(message, row).await?.plaintext().escape_ascii());
    }

    // A tenant's messages no longer decrypt without its branch key. Those of others still do.
    store.shred("globex").await?;
    keys.invalidate("globex");
    let error = envelope.decrypt(&other, &globex).await.expect_err("it was shredded");
    let why = error.keyring_errors().iter().find_map(MissingBranchKey::in_error).ok_or(error)?;
    println!("globex: {why}");
    envelope.decrypt(&first, &acme).await?;
    Ok(())
}
