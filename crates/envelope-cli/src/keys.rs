//! The commands `envelope keys ...`.

mod show;
mod shred;
mod verify;

use branch_keys::CreateBranchKey;

use crate::{
    arguments::keys::{Create, CreateStore, Keys, List, Rotate},
    encrypt::{context, runtime},
    failure::{Failure, is_plain, print_line},
    json,
    kms::Aws,
    output::{change_begins, print},
    store::{PAGE, Table, key_store, storage, version_text},
};

pub(crate) fn run(command: &Keys) -> Result<(), Failure> {
    runtime()?.block_on(async {
        match command {
            Keys::CreateStore(arguments) => create_store(arguments).await,
            Keys::Create(arguments) => create(arguments).await,
            Keys::Rotate(arguments) => rotate(arguments).await,
            Keys::List(arguments) => list(arguments).await,
            Keys::Show(arguments) => show::run(arguments).await,
            Keys::Verify(arguments) => verify::run(arguments).await,
            Keys::Shred(arguments) => shred::run(arguments).await,
        }
    })
}

async fn create_store(arguments: &CreateStore) -> Result<(), Failure> {
    storage(&arguments.store, &Aws::new(&arguments.kms), Table::Create).await.map(drop)
}

async fn create(arguments: &Create) -> Result<(), Failure> {
    // Refuses duplicate keys.
    context(&arguments.encryption_context)?;
    let pairs = arguments.encryption_context.iter().cloned();
    let branch_key = match &arguments.id {
        Some(id) => CreateBranchKey::new(id, pairs),
        None => CreateBranchKey::with_random_id().context(pairs),
    };
    let aws = Aws::new(&arguments.kms);
    let store = key_store(&arguments.store, &arguments.branch_keys, &aws).await?;
    change_begins();
    let created = store.create(branch_key).await.map_err(|error| Failure::branch_keys(&error))?;
    print(format!("{}\n", created.id).as_bytes())
}

async fn rotate(arguments: &Rotate) -> Result<(), Failure> {
    let aws = Aws::new(&arguments.kms);
    let store = key_store(&arguments.store, &arguments.branch_keys, &aws).await?;
    change_begins();
    let rotated = store.rotate(&arguments.id).await;
    let rotated = rotated.map_err(|error| Failure::branch_keys(&error))?;
    print(format!("{}\n", version_text(rotated.version)).as_bytes())
}

/// Prints each page when it arrives.
async fn list(arguments: &List) -> Result<(), Failure> {
    let storage = storage(&arguments.store, &Aws::new(&arguments.kms), Table::Expect).await?;
    let mut refused = 0_u64;
    let mut last: Option<String> = None;
    loop {
        let page = storage.ids(last.as_deref(), PAGE).await;
        let mut page = page.map_err(|error| Failure::storage(&error))?;
        let mut text = String::new();
        for id in &page {
            if arguments.json {
                text += &json::line(id);
            } else if id.chars().all(is_plain) {
                text += id;
                text.push('\n');
            } else {
                refused += 1;
                print_line(&format!("left out the id {id:?}, which has control characters"));
            }
        }
        print(text.as_bytes())?;
        let Some(id) = page.pop() else { break };
        last = Some(id);
    }
    if refused > 0 {
        return Err(Failure::new(format!("left out {refused} ids: use --json")));
    }
    Ok(())
}
