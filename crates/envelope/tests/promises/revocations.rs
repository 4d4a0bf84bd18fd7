//! How long a revoked key is used: never beyond the documented limit, and not at all after
//! `invalidate_key`.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use envelope::Envelope;
use futures_util::future::try_join_all;
use tokio::task::yield_now;

use crate::{
    MAX_AGE, REGION, Scene,
    support::{context, encrypted_data_keys},
};

const STALE: Duration = Duration::from_mins(2);

/// How a key is revoked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Revocation {
    Disabled,
    Denied,
    /// The key is disabled, and KMS cannot be reached from then on.
    Unseen,
}

impl Revocation {
    fn revoke(self, scene: &Scene) {
        match self {
            Self::Disabled => scene.server.disable_key(REGION, &scene.key).unwrap(),
            Self::Denied => scene.faults().deny_access(true),
            Self::Unseen => {
                scene.faults().connection_resets(1.0);
                scene.server.disable_key(REGION, &scene.key).unwrap();
            }
        }
    }

    /// What the documentation of `CachingMaterialsManager` promises. A refusal is not an outage.
    fn limit(self, stale: Duration) -> Duration {
        if self == Self::Unseen { MAX_AGE + stale } else { MAX_AGE }
    }
}

/// Revokes a key whose data keys are new, and uses it every second until after the limit.
async fn check(revocation: Revocation, refresh_ahead: bool, stale: Duration) {
    let setting = format!("{revocation:?}, refresh ahead {refresh_ahead}, stale for {stale:?}");
    let scene = Scene::new().await;
    let envelope =
        scene.client(|builder| builder.refresh_ahead(refresh_ahead).serve_stale_for(stale));
    let context = context("42");
    let message = envelope.encrypt(b"x", &context).await.unwrap();
    envelope.decrypt(&message, &context).await.unwrap();
    revocation.revoke(&scene);
    let limit = revocation.limit(stale);
    let step = Duration::from_secs(1);
    let mut age = Duration::ZERO;
    let mut last = [Duration::ZERO; 2];
    while age < limit + 5 * step {
        let encrypted = envelope.encrypt(b"x", &context).await.is_ok();
        let decrypted = envelope.decrypt(&message, &context).await.is_ok();
        for (last, succeeded) in last.iter_mut().zip([encrypted, decrypted]) {
            if succeeded {
                *last = age;
            }
        }
        scene.clock.advance(step);
        age += step;
    }
    println!("{setting}: last encrypt after {:?}, last decrypt after {:?}", last[0], last[1]);
    assert!(last[0] < limit && last[1] < limit, "{setting}: {last:?}, limit {limit:?}");
    // Without this, the test would pass if nothing was cached.
    let early = if refresh_ahead && revocation != Revocation::Unseen { limit / 2 } else { limit };
    assert!(last[0] + step >= early && last[1] + step >= early, "{setting}: {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_key_is_not_used_beyond_max_age() {
    for (refresh_ahead, stale) in SETTINGS {
        check(Revocation::Disabled, refresh_ahead, stale).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_key_is_not_used_beyond_max_age() {
    for (refresh_ahead, stale) in SETTINGS {
        check(Revocation::Denied, refresh_ahead, stale).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_unseen_is_not_used_beyond_the_time_for_outages() {
    for (refresh_ahead, stale) in SETTINGS {
        check(Revocation::Unseen, refresh_ahead, stale).await;
    }
}

/// Refresh ahead, and how long data keys serve during an outage.
const SETTINGS: [(bool, Duration); 4] =
    [(true, Duration::ZERO), (false, Duration::ZERO), (true, STALE), (false, STALE)];

/// How many invalidations were called, and how many have returned.
#[derive(Debug, Default)]
struct Progress {
    called: AtomicU64,
    returned: AtomicU64,
    is_over: AtomicBool,
}

/// For each data key: how many invalidations had returned before each of its messages, and how many
/// had been called after it.
type Uses = HashMap<Vec<u8>, Vec<(u64, u64)>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_message_begun_after_invalidate_key_uses_an_old_data_key() {
    const INVALIDATIONS: u64 = 100;
    let scene = Scene::new().await;
    // Data keys with few messages, so that invalidations also meet loads.
    let envelope = scene.client(|builder| builder.max_messages(100));
    let progress = Arc::new(Progress::default());
    let tasks = (0..8).map(|_| tokio::spawn(encrypt(envelope.clone(), Arc::clone(&progress))));
    let tasks: Vec<_> = tasks.collect();
    for number in 1..=INVALIDATIONS {
        let loads = scene.cache.stats().encryption.loads;
        while scene.cache.stats().encryption.loads == loads {
            yield_now().await;
        }
        progress.called.store(number, SeqCst);
        scene.cache.invalidate_key(&scene.key);
        progress.returned.store(number, SeqCst);
    }
    progress.is_over.store(true, SeqCst);
    let mut all = Uses::new();
    for (key, uses) in try_join_all(tasks).await.unwrap().into_iter().flatten() {
        all.entry(key).or_default().extend(uses);
    }
    assert!(all.len() as u64 > INVALIDATIONS / 2, "{}", all.len());
    for uses in all.into_values() {
        let first_use = uses.iter().map(|(_, called)| *called).min().unwrap();
        assert!(uses.iter().all(|(returned, _)| *returned <= first_use), "{first_use}: {uses:?}");
    }
}

async fn encrypt(envelope: Envelope, progress: Arc<Progress>) -> Uses {
    let mut uses = Uses::new();
    while !progress.is_over.load(SeqCst) {
        let returned = progress.returned.load(SeqCst);
        let message = envelope.encrypt(b"x", &context("42")).await.unwrap();
        let called = progress.called.load(SeqCst);
        uses.entry(encrypted_data_keys(&message).to_vec()).or_default().push((returned, called));
        yield_now().await;
    }
    uses
}
