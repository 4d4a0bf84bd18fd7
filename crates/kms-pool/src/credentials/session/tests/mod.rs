//! Tests of a session with scripted providers and times that are passed in.

mod dates;
mod model;

use std::sync::LazyLock;
use std::sync::atomic::Ordering::SeqCst;
use std::time::SystemTime;

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use futures_util::future::{join_all, pending};
use tokio::sync::Semaphore;

use super::refresh::MAX_REJECTIONS;
use super::*;
use crate::background::Background;
use crate::connection::{ConnectionSettings, Connections};
use crate::error::KmsErrorKind;
use crate::time::monotonic;

const LEAD: u64 = 60;

/// A date for these tests. It is so far in the future that the watchers, which read the real clock,
/// never reach it.
fn date(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 200) + Duration::from_secs(seconds)
}

/// The reading of both clocks after this many seconds.
fn at(seconds: u64) -> Now {
    dated(date(seconds), seconds)
}

/// The reading of the clocks with another date, after this many seconds.
fn dated(date: SystemTime, seconds: u64) -> Now {
    static START: LazyLock<tokio::time::Instant> = LazyLock::new(monotonic);
    Now { date, instant: *START + Duration::from_secs(seconds) }
}

/// The action of the provider on a call. The last one repeats.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Returns keys with this number, which are valid until that second.
    Keys(u64, Option<u64>),
    Failure,
    Panic,
    Silence,
}

/// A provider that follows a script, and waits for the gate.
#[derive(Debug)]
struct Scripted {
    answers: Mutex<Vec<Answer>>,
    asked: AtomicU64,
    gate: Semaphore,
}

#[derive(Clone, Debug)]
struct Provider(Arc<Scripted>);

impl Provider {
    fn open(answers: &[Answer]) -> Self {
        let provider = Self::shut(answers);
        provider.let_through(Semaphore::MAX_PERMITS);
        provider
    }

    fn shut(answers: &[Answer]) -> Self {
        let (answers, asked, gate) =
            (Mutex::new(answers.to_vec()), AtomicU64::new(0), Semaphore::new(0));
        Self(Arc::new(Scripted { answers, asked, gate }))
    }

    fn let_through(&self, times: usize) {
        self.0.gate.add_permits(times);
    }

    fn asked(&self) -> u64 {
        self.0.asked.load(SeqCst)
    }

    /// From now on, repeats this action.
    fn offer(&self, answer: Answer) {
        *self.0.answers.lock().unwrap() = vec![answer];
    }

    async fn answer(&self) -> provider::Result {
        let turn = usize::try_from(self.0.asked.fetch_add(1, SeqCst)).expect("few turns");
        self.0.gate.acquire().await.expect("never closed").forget();
        // Lets other tasks run even if the gate is open.
        tokio::task::yield_now().await;
        let answer = {
            let answers = self.0.answers.lock().unwrap();
            answers[turn.min(answers.len() - 1)]
        };
        match answer {
            Answer::Keys(number, expiry) => Ok(keys(number, expiry)),
            Answer::Failure => Err(CredentialsError::provider_error("out of order")),
            Answer::Panic => panic!("scripted"),
            Answer::Silence => pending().await,
        }
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.answer())
    }
}

fn keys(number: u64, expiry: Option<u64>) -> Credentials {
    let token = Some("token".to_owned());
    Credentials::new(number.to_string(), "secret", token, expiry.map(date), "test")
}

fn session(provider: &Provider) -> Arc<Session> {
    session_with(provider, Duration::from_secs(5))
}

fn session_with(provider: &Provider, provider_timeout: Duration) -> Arc<Session> {
    static BACKGROUND: LazyLock<Background> = LazyLock::new(|| Background::with_workers(2));
    let refresh = RefreshSettings {
        lead: Duration::from_secs(LEAD),
        jitter: Duration::ZERO,
        provider_timeout,
        files_every: Duration::from_secs(1),
    };
    let principal = Principal::new(provider.clone());
    let http = Connections::new(ConnectionSettings::default(), Arc::default()).unwrap();
    let http = http.shared_client();
    let clock = Clock::of_this_machine();
    let background = BACKGROUND.downgrade();
    let sessions = Sessions::new(refresh, http, Arc::default(), background, clock);
    Arc::new(sessions).of(&principal)
}

fn number_of(credentials: &Credentials) -> u64 {
    credentials.access_key_id().parse().expect("made by the script")
}

async fn number(session: &Arc<Session>, seconds: u64) -> u64 {
    number_of(&session.credentials(at(seconds)).await.unwrap())
}

/// Waits for the load in progress, if any.
async fn settle(session: &Arc<Session>) {
    let load = session.lock().load.clone();
    if let Some(load) = load {
        let _ = load.outcome.await;
    }
}

/// Waits until the load has ended, without polling its outcome.
async fn settle_unseen(session: &Arc<Session>) {
    let task = session.lock().load.as_ref().and_then(|load| load.task.clone());
    while task.as_ref().is_some_and(|task| !task.is_finished()) {
        tokio::task::yield_now().await;
    }
}

fn generations(session: &Session) -> u64 {
    session.lock().generations
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_callers_share_one_load() {
    for _ in 0..20 {
        let provider = Provider::open(&[Answer::Keys(1, None)]);
        let session = session(&provider);
        let callers = (0..64).map(|_| {
            let session = Arc::clone(&session);
            tokio::spawn(async move { session.credentials(at(0)).await })
        });
        for credentials in join_all(callers).await {
            credentials.unwrap().unwrap();
        }
        assert_eq!((provider.asked(), generations(&session)), (1, 1));
    }
}

#[tokio::test]
async fn a_failure_is_returned_to_waiting_callers_only() {
    let provider = Provider::shut(&[Answer::Failure, Answer::Keys(1, None)]);
    let session = session(&provider);
    let callers = join_all((0..64).map(|_| session.credentials(at(0))));
    let (results, ()) = tokio::join!(callers, async { provider.let_through(64) });
    for result in results {
        assert_eq!(result.unwrap_err().kind(), KmsErrorKind::CredentialsUnavailable);
    }
    assert_eq!(provider.asked(), 1);
    // Callers that come right after get the same error, so that not every caller calls a provider
    // that is down.
    assert!(session.credentials(at(0)).now_or_never().unwrap().is_err());
    assert!(session.credentials(at(1)).await.is_ok());
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn a_load_without_waiters_still_ends() {
    let answers = [
        Answer::Keys(1, Some(1000)),
        Answer::Keys(2, None),
        Answer::Keys(3, None),
        Answer::Keys(4, None),
    ];
    let provider = Provider::open(&answers);
    let session = session(&provider);
    session.credentials(at(0)).await.unwrap();
    assert_eq!(number(&session, 950).now_or_never(), Some(1));
    settle_unseen(&session).await;
    let two = Fingerprint::of(&session.credentials(at(951)).await.unwrap());
    assert!(session.rejected(two, at(960)).await, "the provider is called again");
    assert_eq!(session.refresh_now(at(961)).await.unwrap().number, 4);
    assert_eq!(provider.asked(), 4);
}

#[tokio::test]
async fn an_old_failure_without_waiters_is_not_returned_later() {
    let provider =
        Provider::open(&[Answer::Keys(1, Some(1000)), Answer::Failure, Answer::Keys(3, None)]);
    let session = session(&provider);
    session.credentials(at(0)).await.unwrap();
    assert_eq!(number(&session, 950).now_or_never(), Some(1));
    settle_unseen(&session).await;
    assert_eq!(number(&session, 1100).await, 3);
}

#[tokio::test]
async fn a_waiter_does_not_sign_as_the_replaced_identity() {
    let alice = Provider::shut(&[Answer::Keys(1, None), Answer::Failure]);
    let session = session(&alice);
    alice.let_through(1);
    let one = Fingerprint::of(&session.credentials(at(0)).await.unwrap());
    let mut refused = Box::pin(session.rejected(one, at(10)));
    assert!(refused.as_mut().now_or_never().is_none());
    let mut waits = Box::pin(session.credentials(at(10)));
    assert!(waits.as_mut().now_or_never().is_none());
    session.principal.replace(Provider::open(&[Answer::Failure]));
    alice.let_through(1);
    assert_eq!(waits.await.unwrap_err().kind(), KmsErrorKind::CredentialsUnavailable);
}

#[tokio::test]
async fn after_a_replacement_callers_do_not_wait_for_the_old_provider() {
    let (alice, bob) =
        (Provider::shut(&[Answer::Keys(1, None)]), Provider::open(&[Answer::Keys(2, None)]));
    let session = session(&alice);
    assert!(Box::pin(session.credentials(at(0))).as_mut().now_or_never().is_none());
    session.principal.replace(bob);
    assert_eq!(number(&session, 0).await, 2);
}

#[tokio::test]
async fn rejections_cause_few_refreshes() {
    let answers: Vec<_> = (1..100).map(|number| Answer::Keys(number, None)).collect();
    let provider = Provider::open(&answers);
    let session = session(&provider);
    let refuse = async |seconds| {
        let of = Fingerprint::of(&session.credentials(at(seconds)).await.unwrap());
        session.rejected(of, at(seconds)).await
    };
    for _ in 0..20 {
        refuse(0).await;
    }
    assert_eq!(provider.asked(), 1 + u64::from(MAX_REJECTIONS));
    assert!(!refuse(9).await && refuse(10).await && !refuse(10).await);
}

#[tokio::test]
async fn a_load_continues_when_all_waiters_are_cancelled() {
    let provider = Provider::shut(&[Answer::Keys(1, None)]);
    let session = session(&provider);
    let mut first = Box::pin(session.credentials(at(0)));
    assert!(first.as_mut().now_or_never().is_none());
    drop(first);
    provider.let_through(1);
    settle(&session).await;
    assert_eq!(number(&session, 0).now_or_never(), Some(1));
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn a_provider_that_hangs_or_panics_is_an_error() {
    let answers = [Answer::Silence, Answer::Panic, Answer::Keys(1, None)];
    let provider = Provider::shut(&answers);
    let session = session_with(&provider, Duration::from_millis(500));
    for (second, what) in [(0, "did not respond within 500ms"), (1, "panicked")] {
        let callers = join_all((0..8).map(|_| session.credentials(at(second))));
        let (results, ()) = tokio::join!(callers, async { provider.let_through(1) });
        for error in results.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), KmsErrorKind::CredentialsUnavailable);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
    provider.let_through(1);
    assert!(session.credentials(at(2)).await.is_ok());
    assert_eq!(session.sessions.counters.snapshot(0).failures, 2);
}

#[tokio::test]
async fn callers_do_not_wait_while_the_credentials_are_valid() {
    let answers = [Answer::Keys(1, Some(1000)), Answer::Keys(2, Some(2000))];
    let provider = Provider::shut(&answers);
    let session = session(&provider);
    provider.let_through(1);
    assert_eq!(number(&session, 0).await, 1);
    assert_eq!(
        number(&session, 940).now_or_never(),
        Some(1),
        "the caller that starts the refresh does not wait either"
    );
    assert_eq!(number(&session, 999).now_or_never(), Some(1));
    provider.let_through(1);
    settle(&session).await;
    assert_eq!(number(&session, 940).now_or_never(), Some(2));
    assert_eq!((provider.asked(), generations(&session)), (2, 2));
}

#[tokio::test]
async fn all_callers_wait_when_the_credentials_have_expired() {
    let answers = [Answer::Keys(1, Some(100)), Answer::Keys(2, Some(2000))];
    let provider = Provider::shut(&answers);
    let session = session(&provider);
    provider.let_through(1);
    session.credentials(at(0)).await.unwrap();
    let callers = join_all((0..8).map(|_| number(&session, 100)));
    let (numbers, ()) = tokio::join!(callers, async { provider.let_through(1) });
    assert_eq!(numbers, [2; 8]);
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn a_provider_with_nothing_new_is_called_less_and_less_often() {
    let provider = Provider::open(&[Answer::Keys(1, Some(1000))]);
    let session = session(&provider);
    let mut asked_at = vec![];
    for second in 900..1000 {
        let before = provider.asked();
        assert_eq!(number(&session, second).await, 1);
        settle(&session).await;
        if provider.asked() > before {
            asked_at.push(second);
        }
    }
    // The first call is at half of the remaining lifetime (which is less than twice the lead), and
    // the next ones after 1, 2, 4, … seconds.
    assert_eq!(asked_at, [900, 950, 951, 953, 957, 965, 981]);
    assert_eq!(generations(&session), 1);
}

#[tokio::test]
async fn rejected_credentials_are_refreshed_once_and_requests_signed_again() {
    let provider = Provider::shut(&[Answer::Keys(1, None), Answer::Keys(2, None)]);
    let session = session(&provider);
    provider.let_through(1);
    let refused = Fingerprint::of(&session.credentials(at(0)).await.unwrap());
    let requests = join_all((0..64).map(|_| session.rejected(refused, at(0))));
    let new_caller = async {
        tokio::task::yield_now().await;
        // Waits for the refresh, because KMS has rejected the current credentials.
        let credentials = session.credentials(at(0));
        provider.let_through(1);
        number_of(&credentials.await.unwrap())
    };
    let (again, new_caller) = tokio::join!(requests, new_caller);
    assert!(again.into_iter().all(|again| again));
    assert_eq!(new_caller, 2);
    assert_eq!(provider.asked(), 2);
    assert!(session.rejected(refused, at(0)).await, "a later request signs again at once");
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn credentials_that_stay_rejected_are_not_retried_and_rarely_refreshed() {
    let provider = Provider::open(&[Answer::Keys(1, None)]);
    let session = session(&provider);
    let refused = Fingerprint::of(&session.credentials(at(0)).await.unwrap());
    for _ in 0..10 {
        assert!(!session.rejected(refused, at(0)).await);
        assert_eq!(number(&session, 0).now_or_never(), Some(1), "they are still used: KMS decides");
    }
    assert_eq!(provider.asked(), 2);
    provider.offer(Answer::Keys(2, None));
    assert!(session.rejected(refused, at(1)).await);
    assert_eq!(number(&session, 1).now_or_never(), Some(2));
}

#[tokio::test]
async fn rotated_credentials_are_used_at_once_until_they_expire() {
    let provider = Provider::open(&[Answer::Keys(1, None)]);
    let session = session(&provider);
    assert_eq!(number(&session, 0).await, 1);
    session.principal.clone().rotate(keys(2, Some(100)));
    assert_eq!(number(&session, 0).now_or_never(), Some(2));
    assert_eq!(number(&session, 99).now_or_never(), Some(2));
    settle(&session).await;
    assert_eq!(provider.asked(), 1, "called only after the rotated credentials expired");
    assert_eq!(number(&session, 100).await, 1);
}

#[tokio::test]
async fn credentials_loaded_before_a_replacement_are_not_used() {
    let (alice, bob) =
        (Provider::shut(&[Answer::Keys(1, None)]), Provider::open(&[Answer::Keys(2, None)]));
    let session = session(&alice);
    let mut first = Box::pin(number(&session, 0));
    assert!(first.as_mut().now_or_never().is_none());
    while alice.asked() == 0 {
        tokio::task::yield_now().await;
    }
    session.principal.replace(bob.clone());
    alice.let_through(1);
    assert_eq!(first.await, 2);
    assert_eq!(generations(&session), 1, "the first response was discarded");
    session.principal.replace(alice.clone());
    alice.let_through(1);
    assert_eq!(number(&session, 0).await, 1);
    assert_eq!(session.principal.tenure(), 2);
}

#[tokio::test]
async fn credentials_of_another_account_are_another_identity() {
    let in_account = |number: u64, account: &str| {
        Credentials::builder()
            .access_key_id(number.to_string())
            .secret_access_key("secret")
            .account_id(account)
            .provider_name("test")
            .build()
    };
    let session = session(&Provider::open(&[Answer::Failure]));
    for (number, account, tenure) in [(1, "a", 0), (2, "a", 0), (3, "b", 1)] {
        session.principal.rotate(in_account(number, account));
        session.credentials(at(0)).await.unwrap();
        assert_eq!(session.principal.tenure(), tenure);
    }
}

#[tokio::test]
async fn credentials_that_are_accepted_after_all_need_no_lock_again() {
    let provider = Provider::open(&[Answer::Keys(1, None)]);
    let session = session(&provider);
    let signer = Fingerprint::of(&session.credentials(at(0)).await.unwrap());
    assert!(!session.rejected(signer, at(0)).await);
    assert!(session.current().unwrap().is_rejected());
    session.accepted(Fingerprint::of(&keys(2, None)));
    assert!(session.current().unwrap().is_rejected(), "other credentials were accepted");
    session.accepted(signer);
    assert!(!session.current().unwrap().is_rejected() && session.is_accepted());
}

#[tokio::test]
async fn the_watcher_ends_with_the_session() {
    let session = session(&Provider::open(&[Answer::Keys(1, Some(1000))]));
    session.credentials(at(0)).await.unwrap();
    settle(&session).await;
    let watcher = session.lock().watcher.clone().unwrap();
    assert!(!watcher.is_finished());
    let weak = Arc::downgrade(&session);
    session.lock().load = None;
    drop(session);
    assert!(weak.upgrade().is_none());
    while !watcher.is_finished() {
        tokio::task::yield_now().await;
    }
}
