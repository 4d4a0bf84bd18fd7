//! The command `envelope keys shred`.

use std::io::{self, IsTerminal as _, Write as _};

use branch_keys::ItemType;

use crate::{
    arguments::keys::{SURVIVES, Shred},
    failure::Failure,
    kms::Aws,
    output::{change_begins, print},
    store::{Table, key_store_without_kms, storage},
};

/// How many branch keys are searched for one that is under the deleted one. In a store with a root,
/// all others are under it, but during a migration.
const SEARCHED: usize = 100;

pub(super) async fn run(arguments: &Shred) -> Result<(), Failure> {
    let id = &arguments.id;
    if !arguments.yes {
        confirm(id)?;
    }
    let aws = Aws::new(&arguments.kms);
    if !arguments.with_all_under_it {
        refuse_root(arguments, &aws).await?;
    }
    change_begins();
    let store = key_store_without_kms(&arguments.store, &aws).await?;
    let deleted = store.shred(id).await.map_err(|error| Failure::branch_keys(&error))?;
    print(
        format!("branch key {id:?} was shredded, items deleted: {deleted}\n{SURVIVES}\n")
            .as_bytes(),
    )
}

/// Refuses a branch key that others are under.
async fn refuse_root(arguments: &Shred, aws: &Aws<'_>) -> Result<(), Failure> {
    let storage = storage(&arguments.store, aws, Table::Expect).await?;
    let ids = storage.ids(None, SEARCHED).await.map_err(|error| Failure::storage(&error))?;
    let root = format!("envelope:root:{}", arguments.id);
    for id in ids {
        // `shred` works although other items are damaged.
        let Ok(Some(active)) = storage.read(&id, ItemType::Active, true).await else { continue };
        if active.kms_key_arn == root {
            return Err(Failure::new(format!(
                "branch key {:?} is the root of others, such as {id:?}: nothing was deleted; to \
                 lose them all, pass --with-all-under-it",
                arguments.id
            )));
        }
    }
    Ok(())
}

/// Asks the user to type the id.
fn confirm(id: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(
            "refusing to shred a branch key without confirmation: there is no terminal, so pass \
             --yes",
        ));
    }
    let failed = |error: io::Error| Failure::new(format!("terminal: {error}"));
    let mut stderr = io::stderr();
    write!(
        stderr,
        "This deletes branch key {id:?} for good. What it protects can no longer be decrypted, and \
         its id\ncannot be used again. If it is the root of others, they are lost, too.\n\
         {SURVIVES}\nType the id to confirm: "
    )
    .map_err(failed)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(failed)?;
    if line.trim_end_matches(['\r', '\n']) == id {
        return Ok(());
    }
    Err(Failure::new("the typed id differs: nothing was deleted"))
}
