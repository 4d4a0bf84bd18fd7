//! A condition on the encryption context denies one tenant, next to a thousand others under the
//! same KMS key.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{error::Error, time::Duration};

use envelope::{EncryptionContext, Error as EnvelopeError, keyring::KeyringErrorKind};
use kms_local::{Counters, KmsLocal};
use kms_pool::Principal;
use tokio::{runtime::Runtime, time::sleep};

use crate::{
    Lines,
    kms::{Kms, cache},
    trials::{Trial, count, new_runtime, tenant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const DENIALS: u64 = 10;
/// How long a denial is remembered.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Runs the trial.
///
/// # Errors
///
/// If the server cannot start, or a tenant has no data key before the denial.
pub fn run(quick: bool) -> Trial {
    let others = if quick { 200 } else { 1_000 };
    let (runtime, mut lines) = (new_runtime()?, Lines::default());
    println!("{DENIALS} denials of one tenant beside {others} others, {BACK_OFF:?} apart:\n");
    for (operation, opens) in [("encrypt", false), ("decrypt", true)] {
        let tenants = Tenants::start(&runtime, others)?;
        let counts = runtime.block_on(tenants.deny_one(opens))?;
        println!("{operation}: {counts:?}");
        let Counts { denials, requests, others_failed } = counts;
        lines.at_least(format!("{operation}: denials"), count(denials), count(DENIALS));
        lines.at_most(format!("{operation}: requests caused"), count(requests), 20.0);
        lines.at_most(format!("{operation}: failures of other tenants"), count(others_failed), 0.0);
    }
    let tenants = Tenants::start(&runtime, others)?;
    let left = runtime.block_on(tenants.deny_all())?;
    println!("all denied: {left} of {others} still use a cached data key\n");
    lines.at_most("all denied: still served", count(left), 0.0);
    Ok(lines.verdict())
}

/// A client with many tenants whose data keys are cached, and one tenant that is denied.
struct Tenants {
    kms: Kms,
    others: Vec<(EncryptionContext, Vec<u8>)>,
    one: EncryptionContext,
    /// Messages of the denied tenant, each under its own data key, that were never decrypted here.
    messages: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Counts {
    denials: u64,
    /// Requests to KMS, including denied ones.
    requests: u64,
    others_failed: u64,
}

impl Tenants {
    fn start(runtime: &Runtime, others: u64) -> Outcome<Self> {
        let principal = |server: &KmsLocal| Principal::new(server.issue_credentials());
        let start = Kms::start_with(
            principal,
            |pool| pool,
            cache(10_000, 16),
            |builder| builder.remember_failures_for(BACK_OFF),
        );
        let kms = runtime.block_on(start)?;
        let (one, mut all, mut messages) = (tenant("the one"), vec![], vec![]);
        runtime.block_on(async {
            for number in 0..others {
                let context = tenant(&format!("other {number}"));
                let message = kms.envelope.encrypt(b"x", &context).await?;
                kms.envelope.decrypt(&message, &context).await?;
                all.push((context, message));
            }
            for _ in 0..DENIALS {
                let elsewhere = kms.client(&cache(1, 16), |builder| builder)?;
                messages.push(elsewhere.encrypt(b"x", &one).await?);
            }
            Outcome::Ok(())
        })?;
        Ok(Self { kms, others: all, one, messages })
    }

    /// Denies the tenant again and again while the others continue.
    async fn deny_one(&self, opens: bool) -> Outcome<Counts> {
        self.kms.faults().deny_contexts([("tenant", "the one")]);
        self.kms.reset_counters();
        let mut counts = Counts { denials: 0, requests: 0, others_failed: 0 };
        for message in &self.messages {
            let outcome = if opens {
                self.kms.envelope.decrypt(message, &self.one).await.map(drop)
            } else {
                self.kms.envelope.encrypt(b"x", &self.one).await.map(drop)
            };
            counts.denials += u64::from(outcome.is_err_and(|error| is_denied(&error)));
            counts.others_failed += self.others_fail().await;
            sleep(BACK_OFF + Duration::from_millis(20)).await;
        }
        counts.others_failed += self.others_fail().await;
        counts.requests = requests(&self.kms.counters());
        Ok(counts)
    }

    /// How many operations of the other tenants fail, with one encrypt and one decrypt for each.
    async fn others_fail(&self) -> u64 {
        let mut failed = 0;
        for (context, message) in &self.others {
            failed += u64::from(self.kms.envelope.encrypt(b"x", context).await.is_err());
            failed += u64::from(self.kms.envelope.decrypt(message, context).await.is_err());
        }
        failed
    }

    /// Denies all tenants, and runs two operations of new tenants. Returns how many tenants still
    /// work.
    async fn deny_all(&self) -> Outcome<u64> {
        self.kms.faults().deny_access(true);
        for name in ["new", "newer", "newest"] {
            if self.kms.envelope.encrypt(b"x", &tenant(name)).await.is_ok() {
                return Err("KMS denied no request".into());
            }
            sleep(BACK_OFF + Duration::from_millis(20)).await;
        }
        let serves = |(context, message): &&(EncryptionContext, Vec<u8>)| {
            self.kms.envelope.try_encrypt(b"x", context).is_ok()
                || self.kms.envelope.try_decrypt(message, context).is_ok()
        };
        Ok(self.others.iter().filter(serves).count() as u64)
    }
}

/// The number of requests that have ended, with any outcome.
fn requests(counters: &Counters) -> u64 {
    counters.requests("GenerateDataKey") + counters.requests("Decrypt")
}

fn is_denied(error: &EnvelopeError) -> bool {
    error.keyring_errors().iter().any(|error| error.kind() == KeyringErrorKind::Denied)
}
