//! What a failure of the table or of AWS KMS costs: with no branch key in the cache, with a fresh
//! one, and with one past its age.

use std::time::Duration;

use branch_keys::{CreateBranchKey, KeyStore, KmsKeys};
use envelope::Clock;
use envelope::branch_key::BranchKeys;
use envelope::keyring::KeyringErrorKind;
use futures_util::FutureExt as _;
use kms_pool::Principal;

use crate::server::{Fault, REGION, Server};

const ID: &str = "tenant-1";
/// More than the attempts of all requests of one cell.
const ALWAYS: usize = 50;
const MAX_AGE: Duration = Duration::from_mins(5);

#[derive(Clone, Copy, Debug)]
enum Failing {
    Table,
    Kms,
}

#[derive(Clone, Copy, Debug)]
enum How {
    HangsUp,
    DoesNotRespond,
    Throttles,
    Denies,
    IsGone,
}

struct Scene {
    server: Server,
    key: String,
    store: KeyStore,
}

impl Scene {
    async fn set() -> Self {
        let server = Server::with_table().await;
        let key = server.kms.create_key(REGION);
        let pool = server.pool().attempt_timeout(Duration::from_millis(500)).max_attempts(2);
        let clients = pool.clone().build().unwrap();
        let clients = clients.clients(&Principal::new(server.kms.issue_credentials()));
        let keys = KmsKeys::exact(key.parse().unwrap());
        let store = KeyStore::builder(server.storage_of(pool), "logical name", keys, clients);
        let store = store.build().unwrap();
        store.create(CreateBranchKey::new(ID, [("tenant", "1")])).await.unwrap();
        Self { server, key, store }
    }

    fn fail(&self, failing: Failing, how: How) {
        let refuse = |code| Fault::Refuse { status: 400, code };
        let kms = self.server.kms.faults(REGION);
        let fault = match (failing, how) {
            (Failing::Table, How::HangsUp) => Fault::Lose,
            (Failing::Table, How::DoesNotRespond) => Fault::Hang,
            (Failing::Table, How::Throttles) => refuse("ThrottlingException"),
            (Failing::Table, How::Denies) => refuse("AccessDeniedException"),
            (Failing::Table, How::IsGone) => refuse("ResourceNotFoundException"),
            (Failing::Kms, How::HangsUp) => return kms.connection_resets(1.0),
            (Failing::Kms, How::DoesNotRespond) => return kms.hang(true),
            (Failing::Kms, How::Throttles) => return kms.throttle_above(0),
            (Failing::Kms, How::Denies) => return kms.deny_access(true),
            (Failing::Kms, How::IsGone) => {
                return self.server.kms.disable_key(REGION, &self.key).unwrap();
            }
        };
        self.server.fail("GetItem", vec![fault; ALWAYS]);
    }

    fn recover(&self) {
        self.server.fail("GetItem", []);
        self.server.release();
        self.server.kms.faults(REGION).clear();
    }

    fn keys(&self, clock: &Clock) -> BranchKeys {
        let builder = BranchKeys::builder(self.store.clone()).clock(clock).max_age(MAX_AGE);
        builder.serve_stale_for(Duration::from_hours(1)).build().unwrap()
    }
}

/// An outage fails a caller without a branch key. A refusal also fails a caller with an old one.
async fn cell(failing: Failing, how: How, kind: KeyringErrorKind) {
    let scene = Scene::set().await;
    let clock = Clock::manual();

    let warm = scene.keys(&clock);
    warm.active(ID).await.unwrap();
    let cold = scene.keys(&clock);
    scene.fail(failing, how);
    let error = cold.active(ID).await.unwrap_err();
    assert_eq!(error.keyring_errors()[0].kind(), kind, "{error:?}");
    assert_eq!(error.is_retryable(), kind.is_retryable());

    let key = warm.active(ID).now_or_never().expect("it is in the cache").unwrap();
    assert_eq!(key.id(), ID);

    clock.advance(MAX_AGE);
    let expired = warm.active(ID).await;
    assert_eq!(expired.is_ok(), kind.is_retryable(), "past its age: {expired:?}");
    assert_eq!(warm.stats().active.stale, u64::from(kind.is_retryable()));

    if matches!((failing, how), (Failing::Kms, How::IsGone)) {
        // A disabled key stays disabled.
        return;
    }
    scene.recover();
    clock.advance(Duration::from_mins(1));
    for keys in [cold, warm] {
        keys.active(ID).await.unwrap();
    }
}

macro_rules! cells {
    ($($name:ident: $failing:ident $how:ident, $kind:ident;)*) => { $(
        #[tokio::test]
        async fn $name() {
            cell(Failing::$failing, How::$how, KeyringErrorKind::$kind).await;
        }
    )* };
}

cells! {
    a_table_that_hangs_up: Table HangsUp, Unavailable;
    a_table_that_does_not_respond: Table DoesNotRespond, Unavailable;
    a_table_that_throttles: Table Throttles, Throttled;
    a_table_that_denies: Table Denies, Denied;
    a_table_that_is_gone: Table IsGone, Other;
    a_kms_that_hangs_up: Kms HangsUp, Unavailable;
    a_kms_that_does_not_respond: Kms DoesNotRespond, TimedOut;
    a_kms_that_throttles: Kms Throttles, Throttled;
    a_kms_that_denies: Kms Denies, Denied;
    a_kms_key_that_is_disabled: Kms IsGone, Unusable;
}
