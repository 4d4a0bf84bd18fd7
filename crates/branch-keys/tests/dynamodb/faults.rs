//! What becomes of requests when DynamoDB or the network fails.

use std::sync::Arc;
use std::time::Duration;

use branch_keys::{DynamoDbStorage, ItemType, Storage as _, StorageError, StorageErrorKind};
use kms_local::KmsLocal;
use kms_pool::provider::{ProvideCredentials, future};
use kms_pool::{KmsPool, Principal};
use tokio::sync::Barrier;

use crate::items::{generation, item};
use crate::server::{Fault, REGION, Server, TABLE};

const ID: &str = "tenant-1";
const TRANSACTION: &str = "TransactWriteItems";
/// More than the attempts for one transaction.
const ALWAYS: usize = 20;

async fn create(storage: &DynamoDbStorage) -> Result<(), StorageError> {
    let (active, version) = generation(ID, 1);
    storage.create(&active, &version, &item(ID, ItemType::Beacon, 1)).await
}

/// Rotates from generation 1 to generation `number`.
async fn rotate(storage: &DynamoDbStorage, number: u8) -> Result<(), StorageError> {
    let (active, version) = generation(ID, number);
    storage.rotate(&active, &version, &generation(ID, 1).0.ciphertext).await
}

async fn active(storage: &DynamoDbStorage) -> Option<Vec<u8>> {
    let item = storage.read(ID, ItemType::Active, true).await.unwrap();
    item.map(|item| item.ciphertext)
}

fn kind<T: std::fmt::Debug>(result: Result<T, StorageError>) -> StorageErrorKind {
    result.unwrap_err().kind()
}

/// The first attempt is committed and its response is lost, so the condition of the second fails.
#[tokio::test]
async fn a_transaction_whose_response_was_lost_is_not_a_lost_race() {
    for forgets in [false, true] {
        let server = Server::with_table().await;
        let storage = server.storage();
        let again = || forgets.then_some(Fault::ForgetToken);
        server.fail(TRANSACTION, [Fault::LoseResponse].into_iter().chain(again()));
        create(&storage).await.unwrap();
        assert_eq!(server.count(TRANSACTION), 2);
        assert_eq!(active(&storage).await, Some(generation(ID, 1).0.ciphertext));
        server.fail(TRANSACTION, [Fault::LoseResponse].into_iter().chain(again()));
        rotate(&storage, 2).await.unwrap();
        assert_eq!(server.count(TRANSACTION), 4);
        assert_eq!(active(&storage).await, Some(generation(ID, 2).0.ciphertext));
    }
}

#[tokio::test]
async fn conflicts_and_throttling_are_retried() {
    let server = Server::with_table().await;
    let storage = server.storage();
    let refuse = |code| Fault::Refuse { status: 400, code };
    server.fail(
        TRANSACTION,
        [
            Fault::Cancel(&["None", "TransactionConflict", "None", "None"]),
            Fault::Cancel(&["ThrottlingError", "None", "None", "None"]),
            refuse("TransactionInProgressException"),
            refuse("ProvisionedThroughputExceededException"),
            Fault::Refuse { status: 500, code: "InternalServerError" },
        ],
    );
    create(&storage).await.unwrap();
    assert_eq!(server.count(TRANSACTION), 6);
    server.fail("GetItem", [refuse("ThrottlingException"), refuse("RequestLimitExceeded")]);
    assert!(active(&storage).await.is_some());
    assert_eq!(server.count("GetItem"), 3);
    server.fail("PutItem", [refuse("TransactionConflictException")]);
    server.fail("DeleteItem", vec![refuse("TransactionConflictException"); 2]);
    assert_eq!(storage.shred(&item(ID, ItemType::Tombstone, 1)).await.unwrap(), 3);
}

#[tokio::test]
async fn a_lasting_failure_has_its_kind() {
    use StorageErrorKind as Kind;
    let server = Server::with_table().await;
    let storage = server.storage();
    let refuse = |status, code| vec![Fault::Refuse { status, code }; ALWAYS];
    for (faults, read, write) in [
        (refuse(400, "ThrottlingException"), Kind::Throttled, Kind::Throttled),
        (refuse(400, "ProvisionedThroughputExceededException"), Kind::Throttled, Kind::Throttled),
        (refuse(400, "AccessDeniedException"), Kind::Denied, Kind::Denied),
        (refuse(500, "InternalServerError"), Kind::Unavailable, Kind::UnknownOutcome),
        (vec![Fault::Lose; ALWAYS], Kind::Unavailable, Kind::UnknownOutcome),
        (refuse(400, "ValidationException"), Kind::Other, Kind::Other),
        (refuse(400, "ResourceNotFoundException"), Kind::Other, Kind::Other),
    ] {
        server.fail("GetItem", faults.clone());
        assert_eq!(kind(storage.read(ID, ItemType::Active, true).await), read, "{faults:?}");
        server.fail("GetItem", []);
        server.fail(TRANSACTION, faults.clone());
        assert_eq!(kind(create(&storage).await), write, "{faults:?}");
    }
    let conflict = Fault::Cancel(&["TransactionConflict", "None", "None", "None"]);
    server.fail(TRANSACTION, vec![conflict; ALWAYS]);
    assert_eq!(kind(create(&storage).await), Kind::Throttled);
    server.fail(TRANSACTION, [Fault::Cancel(&["None", "ValidationError", "None", "None"])]);
    assert_eq!(kind(create(&storage).await), Kind::Other);
}

/// DynamoDB commits, and no response arrives.
#[tokio::test]
async fn an_unknown_outcome_is_decided_by_reading_again() {
    let server = Server::with_table().await;
    let storage = server.storage();
    create(&storage).await.unwrap();

    server.fail(TRANSACTION, vec![Fault::LoseResponse; ALWAYS]);
    rotate(&storage, 2).await.unwrap();

    // The transaction arrives nowhere, and may still be on its way.
    server.fail(TRANSACTION, vec![Fault::Lose; ALWAYS]);
    let (next, version) = generation(ID, 3);
    let old = generation(ID, 2).0.ciphertext;
    assert_eq!(kind(storage.rotate(&next, &version, &old).await), StorageErrorKind::UnknownOutcome);

    // Reading again fails as well.
    server.fail(TRANSACTION, vec![Fault::LoseResponse; ALWAYS]);
    server.fail("GetItem", vec![Fault::Lose; ALWAYS]);
    assert_eq!(kind(storage.rotate(&next, &version, &old).await), StorageErrorKind::UnknownOutcome);
    server.fail("GetItem", []);
    assert_eq!(active(&storage).await, Some(next.ciphertext));
}

#[tokio::test]
async fn a_server_that_hangs_costs_no_more_than_the_timeouts() {
    let server = Server::with_table().await;
    create(&server.storage()).await.unwrap();
    let hasty = server.pool().attempt_timeout(Duration::from_millis(50)).max_attempts(2);
    let storage = server.storage_of(hasty);
    server.fail("GetItem", vec![Fault::Hang; ALWAYS]);
    let read = storage.read(ID, ItemType::Active, true).await;
    assert_eq!(kind(read), StorageErrorKind::Unavailable);
    assert_eq!(server.count("GetItem"), 2);
    server.release();
}

#[tokio::test]
async fn of_two_rotations_at_once_one_wins() {
    let server = Server::with_table().await;
    let storage = server.storage();
    create(&storage).await.unwrap();
    let mut old = generation(ID, 1).0.ciphertext;
    for round in 1..=50 {
        let barrier = Arc::new(Barrier::new(2));
        server.fail(TRANSACTION, [Fault::Meet(Arc::clone(&barrier)), Fault::Meet(barrier)]);
        let attempt = async |number| {
            let (active, version) = generation(ID, number);
            (storage.rotate(&active, &version, &old).await, active.ciphertext)
        };
        let outcomes = tokio::join!(attempt(2 * round), attempt(2 * round + 1));
        let (winner, loser) = match outcomes {
            ((Ok(()), winner), (Err(loser), _)) | ((Err(loser), _), (Ok(()), winner)) => {
                (winner, loser)
            }
            both => panic!("both won or both lost: {both:?}"),
        };
        assert_eq!(loser.kind(), StorageErrorKind::Race, "{loser}");
        assert_eq!(active(&storage).await.as_ref(), Some(&winner));
        old = winner;
    }
}

#[tokio::test]
async fn credentials_that_are_rotated_or_refused_do_not_fail_requests() {
    let server = Server::with_table().await;
    let first = server.kms.issue_credentials();
    let second = server.kms.issue_credentials();
    let principal = Principal::new(first.clone());
    let pool: KmsPool = server.pool().build().unwrap();
    let storage = DynamoDbStorage::new(pool, principal.clone(), REGION, TABLE);
    create(&storage).await.unwrap();
    principal.rotate(second.clone());
    rotate(&storage, 2).await.unwrap();
    assert_eq!(server.signers()[1..], [first.access_key_id(), second.access_key_id()]);

    principal.replace(Sessions(Arc::clone(&server.kms)));
    assert_eq!(storage.tenure(), 1);
    let expired = || Fault::Refuse { status: 400, code: "ExpiredTokenException" };
    server.fail("GetItem", [expired()]);
    server.fail(TRANSACTION, [expired()]);
    let (active, version) = generation(ID, 3);
    storage.rotate(&active, &version, &generation(ID, 2).0.ciphertext).await.unwrap();
    assert_eq!(server.signers().len(), 5, "two sessions signed the transaction");
    assert!(storage.read(ID, ItemType::Active, true).await.unwrap().is_some());
    assert_eq!(server.signers().len(), 6, "one more session signed the read");
}

/// Returns a new session on each call.
#[derive(Debug)]
struct Sessions(Arc<KmsLocal>);

impl ProvideCredentials for Sessions {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Ok(self.0.issue_session(Duration::from_hours(1))))
    }
}
