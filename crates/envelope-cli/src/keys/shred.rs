//! The command `envelope keys shred`.

use std::io::{self, IsTerminal as _, Write as _};

use crate::{
    arguments::keys::{SURVIVES, Shred},
    failure::Failure,
    kms::Aws,
    output::print,
    store::key_store_without_kms,
};

pub(super) async fn run(arguments: &Shred) -> Result<(), Failure> {
    let id = &arguments.id;
    if !arguments.yes {
        confirm(id)?;
    }
    let aws = Aws::new(&arguments.kms);
    let store = key_store_without_kms(&arguments.store, &aws).await?;
    let deleted = store.shred(id).await.map_err(|error| Failure::branch_keys(&error))?;
    print(
        format!("branch key {id:?} was shredded, items deleted: {deleted}\n{SURVIVES}\n")
            .as_bytes(),
    )
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
         its id\ncannot be used again.\n{SURVIVES}\nType the id to confirm: "
    )
    .map_err(failed)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(failed)?;
    if line.trim_end_matches(['\r', '\n']) == id {
        return Ok(());
    }
    Err(Failure::new("the typed id differs: nothing was deleted"))
}
