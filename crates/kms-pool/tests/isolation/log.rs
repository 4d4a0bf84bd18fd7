//! No secret appears in the log.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::Credentials;
use kms_local::KmsLocal;
use kms_pool::{KmsErrorKind, Principal};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::{REGION, builder, random, server};

/// Collects the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The beginnings and ends of the secret parts of a key, which a log might contain.
fn secrets(keys: &Credentials) -> Vec<String> {
    let token = keys.session_token().unwrap_or("no token, and nothing printed it");
    [keys.secret_access_key(), token]
        .into_iter()
        .flat_map(|it| [it[..12].to_owned(), it[it.len() - 12..].to_owned()])
        .collect()
}

/// Causes each event that a pool logs: first credentials, rotations, rejections, failures,
/// connections, circuits.
async fn eventful_life(kms: &Arc<KmsLocal>) -> Vec<Credentials> {
    let pool = builder(kms).circuit_opens_after(2).build().unwrap();
    let mut used = vec![kms.issue_session(Duration::from_hours(1))];
    let principal = Principal::new(used[0].clone()).with_label("tenant-42");
    let client = pool.client(REGION, &principal).await.unwrap();
    for _ in 0..3 {
        random(&client).await.unwrap();
        let next = kms.issue_session(Duration::from_hours(1));
        principal.rotate(next.clone());
        used.push(next);
    }
    kms.expire_sessions();
    assert_eq!(random(&client).await.unwrap_err().kind(), KmsErrorKind::CredentialsExpired);
    let last = used.last().unwrap();
    let token = last.session_token().map(Into::into);
    let forged = Credentials::new(last.access_key_id(), "forged+secret+key", token, None, "test");
    principal.replace(forged.clone());
    used.push(forged);
    random(&client).await.unwrap_err();
    used.push(kms.issue_session(Duration::from_hours(1)));
    principal.rotate(used[used.len() - 1].clone());
    kms.faults(REGION).internal_errors(1.0);
    for _ in 0..4 {
        random(&client).await.unwrap_err();
    }
    kms.faults(REGION).clear();
    pool.shutdown(Duration::from_secs(1)).await;
    used
}

#[tokio::test]
async fn no_log_entry_contains_a_secret() {
    let log = Log::default();
    let writer = tracing_subscriber::fmt::layer().with_writer(log.clone()).with_ansi(false);
    // For the whole process, because tasks of the pool refresh credentials.
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(writer)).unwrap();
    let used = eventful_life(&server().await).await;
    // Without the SDK, which logs whole requests at this level.
    let text: String = log
        .text()
        .lines()
        .filter(|line| line.contains(" kms_pool: "))
        .flat_map(|line| [line, "\n"])
        .collect();
    for expected in [
        "kms_request{operation=\"GenerateRandom\"",
        "outcome=\"ok\"",
        "request_id=",
        "milliseconds=",
        "credentials rotated",
        "credentials_rejected",
        "circuit opened",
        "tenant-42",
        "attempt=1",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    for secret in used.iter().flat_map(secrets) {
        assert!(!text.contains(&secret), "{secret}: {text}");
    }
}
