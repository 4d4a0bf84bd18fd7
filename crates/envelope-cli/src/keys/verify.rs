//! The command `envelope keys verify`.

use branch_keys::{Error, KeyStore, StorageErrorKind, Verification};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    arguments::keys::Verify,
    failure::{Failure, branch_key_text, print_line, with_causes},
    kms::Aws,
    output::print,
    store::{PAGE, key_store_of_root, under_root},
};

/// How many branch keys are verified at once.
const CONCURRENT: usize = 8;

/// The counts of branch keys.
#[derive(Debug, Default)]
struct Found {
    all: u64,
    bad: u64,
}

pub(super) async fn run(arguments: &Verify) -> Result<(), Failure> {
    let aws = Aws::new(&arguments.kms);
    let of_root = key_store_of_root(&arguments.store, &arguments.branch_keys, &aws).await?;
    let store = under_root(of_root.clone(), &arguments.branch_keys)?;
    let stores = [&store, &of_root];
    let mut found = Found::default();
    if arguments.ids.is_empty() {
        // The list of the other key store leaves out the root.
        let mut page = page(&of_root, None).await?;
        while let Some(last) = page.last().cloned() {
            // A branch key can be shredded while this runs.
            found.verify(stores, page, true).await?;
            page = self::page(&of_root, Some(&last)).await?;
        }
    } else {
        found.verify(stores, arguments.ids.clone(), false).await?;
    }
    let Found { all, bad } = found;
    if bad > 0 {
        return Err(Failure::new(format!("{bad} of {all} branch keys have problems")));
    }
    Ok(())
}

async fn page(store: &KeyStore, after: Option<&str>) -> Result<Vec<String>, Failure> {
    store.list(after, PAGE).await.map_err(|error| Failure::branch_keys(&error))
}

impl Found {
    /// Verifies branch keys, and prints the results in the order of the ids.
    async fn verify(
        &mut self,
        [store, of_root]: [&KeyStore; 2],
        ids: Vec<String>,
        may_be_shredded: bool,
    ) -> Result<(), Failure> {
        let verified = stream::iter(ids).map(|id| async {
            let verification = match store.verify(&id).await {
                Err(Error::RootBranchKey { .. }) => of_root.verify(&id).await,
                verification => verification,
            };
            (id, verification)
        });
        let mut verified = verified.buffered(CONCURRENT).map(Ok::<_, Failure>);
        while let Some((id, verification)) = verified.try_next().await? {
            match verification {
                Err(Error::Shredded { .. }) if may_be_shredded => {}
                verification => self.add(&id, verification)?,
            }
        }
        Ok(())
    }

    fn add(&mut self, id: &str, verification: Result<Verification, Error>) -> Result<(), Failure> {
        self.all += 1;
        let problems = match verification {
            Ok(verification) if verification.is_ok() => {
                let items = verification.authentic;
                return print(format!("{id:?}: {items} items are authentic\n").as_bytes());
            }
            Ok(verification) => verification.problems,
            // This concerns one branch key. Other failures of the storage concern all.
            Err(Error::Storage(error)) if error.kind() == StorageErrorKind::Invalid => {
                self.bad += 1;
                print_line(&format!("branch key {id:?}: {}", with_causes(&error)));
                return Ok(());
            }
            Err(error @ (Error::NotFound { .. } | Error::Shredded { .. })) => {
                self.bad += 1;
                print_line(&error.to_string());
                return Ok(());
            }
            Err(error) => return Err(Failure::branch_keys(&error)),
        };
        self.bad += 1;
        for problem in problems {
            let item_type = problem.item_type;
            let reason = branch_key_text(&problem.error);
            print_line(&format!("branch key {id:?}, {item_type}: {reason}"));
        }
        Ok(())
    }
}
