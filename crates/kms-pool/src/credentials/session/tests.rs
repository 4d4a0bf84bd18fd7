//! The rules of a session, by scripted providers and times that are passed in.

use std::sync::LazyLock;
use std::sync::atomic::Ordering::SeqCst;
use std::time::SystemTime;

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use futures_util::future::{join_all, pending};
use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::renewal::REFUSALS;
use super::*;
use crate::background::Background;
use crate::connection::{ConnectionSettings, Connections};
use crate::error::KmsErrorKind;
use crate::time::monotonic;

const LEAD: u64 = 60;

/// A date that these tests pass in. It lies in a future that the watchers, who read the clock,
/// don't live to see.
fn date(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 200) + Duration::from_secs(seconds)
}

/// What both clocks show when this time has passed.
fn at(seconds: u64) -> Now {
    dated(date(seconds), seconds)
}

/// Another date, after so many seconds.
fn dated(date: SystemTime, seconds: u64) -> Now {
    static START: LazyLock<tokio::time::Instant> = LazyLock::new(monotonic);
    Now { date, instant: *START + Duration::from_secs(seconds) }
}

/// What the provider does when it is asked, in turn; then it repeats the last.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Keys of this number, good until that second.
    Keys(u64, Option<u64>),
    Failure,
    Panic,
    Silence,
}

/// A provider that answers by a script, once the gate lets it.
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

    /// From now on it repeats this.
    fn offer(&self, answer: Answer) {
        *self.0.answers.lock().unwrap() = vec![answer];
    }

    async fn answer(&self) -> provider::Result {
        let turn = usize::try_from(self.0.asked.fetch_add(1, SeqCst)).expect("few turns");
        self.0.gate.acquire().await.expect("never closed").forget();
        // Even an open gate lets others run in between.
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
    let renewals = Renewals {
        lead: Duration::from_secs(LEAD),
        jitter: Duration::ZERO,
        provider_timeout,
        files_every: Duration::from_secs(1),
    };
    let principal = Principal::new(provider.clone());
    let background = BACKGROUND.downgrade();
    let clock = Clock::of_this_machine();
    let http = Connections::new(ConnectionSettings::default(), Arc::default()).unwrap();
    let http = http.shared_client();
    Arc::new(Session::new(principal, renewals, http, Arc::default(), background, clock))
}

fn number_of(credentials: &Credentials) -> u64 {
    credentials.access_key_id().parse().expect("made by the script")
}

async fn number(session: &Arc<Session>, seconds: u64) -> u64 {
    number_of(&session.credentials(at(seconds)).await.unwrap())
}

/// Waits for the asking under way, if there is one.
async fn settle(session: &Arc<Session>) {
    let load = session.lock().load.clone();
    if let Some(load) = load {
        let _ = load.outcome.await;
    }
}

/// Waits for it as nobody does who does not need it: without looking at what comes of it.
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
async fn many_callers_ask_once() {
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
async fn a_failure_goes_to_all_who_wait_and_to_nobody_else() {
    let provider = Provider::shut(&[Answer::Failure, Answer::Keys(1, None)]);
    let session = session(&provider);
    let callers = join_all((0..64).map(|_| session.credentials(at(0))));
    let (results, ()) = tokio::join!(callers, async { provider.let_through(64) });
    for result in results {
        assert_eq!(result.unwrap_err().kind(), KmsErrorKind::CredentialsUnavailable);
    }
    assert_eq!(provider.asked(), 1);
    // Those who come at once are told the same, so that a provider that is down is not asked by
    // each.
    assert!(session.credentials(at(0)).now_or_never().unwrap().is_err());
    assert!(session.credentials(at(1)).await.is_ok());
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn a_renewal_that_nobody_waited_for_is_over_when_it_ends() {
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
    assert!(session.refused(two, at(960)).await, "the provider is asked anew");
    assert_eq!(session.renew_now(at(961)).await.unwrap().number, 4);
    assert_eq!(provider.asked(), 4);
}

#[tokio::test]
async fn a_failure_that_nobody_waited_for_is_not_told_much_later() {
    let provider =
        Provider::open(&[Answer::Keys(1, Some(1000)), Answer::Failure, Answer::Keys(3, None)]);
    let session = session(&provider);
    session.credentials(at(0)).await.unwrap();
    assert_eq!(number(&session, 950).now_or_never(), Some(1));
    settle_unseen(&session).await;
    assert_eq!(number(&session, 1100).await, 3);
}

#[tokio::test]
async fn who_waited_does_not_sign_as_the_one_before() {
    let alice = Provider::shut(&[Answer::Keys(1, None), Answer::Failure]);
    let session = session(&alice);
    alice.let_through(1);
    let one = Fingerprint::of(&session.credentials(at(0)).await.unwrap());
    let mut refused = Box::pin(session.refused(one, at(10)));
    assert!(refused.as_mut().now_or_never().is_none());
    let mut waits = Box::pin(session.credentials(at(10)));
    assert!(waits.as_mut().now_or_never().is_none());
    session.principal.replace(Provider::open(&[Answer::Failure]));
    alice.let_through(1);
    assert_eq!(waits.await.unwrap_err().kind(), KmsErrorKind::CredentialsUnavailable);
}

#[tokio::test]
async fn who_comes_after_a_replacement_does_not_wait_for_the_provider_before() {
    let (alice, bob) =
        (Provider::shut(&[Answer::Keys(1, None)]), Provider::open(&[Answer::Keys(2, None)]));
    let session = session(&alice);
    assert!(Box::pin(session.credentials(at(0))).as_mut().now_or_never().is_none());
    session.principal.replace(bob);
    assert_eq!(number(&session, 0).await, 2);
}

#[tokio::test]
async fn refusals_cause_few_renewals() {
    let answers: Vec<_> = (1..100).map(|number| Answer::Keys(number, None)).collect();
    let provider = Provider::open(&answers);
    let session = session(&provider);
    let refuse = async |seconds| {
        let of = Fingerprint::of(&session.credentials(at(seconds)).await.unwrap());
        session.refused(of, at(seconds)).await
    };
    for _ in 0..20 {
        refuse(0).await;
    }
    assert_eq!(provider.asked(), 1 + u64::from(REFUSALS));
    assert!(!refuse(9).await && refuse(10).await && !refuse(10).await);
}

#[tokio::test]
async fn the_asking_goes_on_when_all_who_wait_give_up() {
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
async fn silence_and_panic_are_errors_that_wedge_nobody() {
    let answers = [Answer::Silence, Answer::Panic, Answer::Keys(1, None)];
    let provider = Provider::shut(&answers);
    let session = session_with(&provider, Duration::from_millis(500));
    for (second, what) in [(0, "did not answer within 500ms"), (1, "panicked")] {
        let callers = join_all((0..8).map(|_| session.credentials(at(second))));
        let (results, ()) = tokio::join!(callers, async { provider.let_through(1) });
        for error in results.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), KmsErrorKind::CredentialsUnavailable);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
    provider.let_through(1);
    assert!(session.credentials(at(2)).await.is_ok());
    assert_eq!(session.counters.snapshot(0).failures, 2);
}

#[tokio::test]
async fn nobody_waits_for_a_renewal_while_the_old_credentials_are_good() {
    let answers = [Answer::Keys(1, Some(1000)), Answer::Keys(2, Some(2000))];
    let provider = Provider::shut(&answers);
    let session = session(&provider);
    provider.let_through(1);
    assert_eq!(number(&session, 0).await, 1);
    assert_eq!(
        number(&session, 940).now_or_never(),
        Some(1),
        "who finds it due does not wait either"
    );
    assert_eq!(number(&session, 999).now_or_never(), Some(1));
    provider.let_through(1);
    settle(&session).await;
    assert_eq!(number(&session, 940).now_or_never(), Some(2));
    assert_eq!((provider.asked(), generations(&session)), (2, 2));
}

#[tokio::test]
async fn expired_credentials_make_all_wait() {
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
async fn a_provider_with_nothing_new_is_asked_ever_less_often() {
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
    // At first, at half of what is left then (less than twice the lead), and after 1, 2, 4, …
    // seconds.
    assert_eq!(asked_at, [900, 950, 951, 953, 957, 965, 981]);
    assert_eq!(generations(&session), 1);
}

#[tokio::test]
async fn what_kms_refuses_is_renewed_once_for_all_and_signed_again() {
    let provider = Provider::shut(&[Answer::Keys(1, None), Answer::Keys(2, None)]);
    let session = session(&provider);
    provider.let_through(1);
    let refused = Fingerprint::of(&session.credentials(at(0)).await.unwrap());
    let requests = join_all((0..64).map(|_| session.refused(refused, at(0))));
    let newcomer = async {
        tokio::task::yield_now().await;
        // It waits for the renewal rather than sign with what is known to be refused.
        let credentials = session.credentials(at(0));
        provider.let_through(1);
        number_of(&credentials.await.unwrap())
    };
    let (again, newcomer) = tokio::join!(requests, newcomer);
    assert!(again.into_iter().all(|again| again));
    assert_eq!(newcomer, 2);
    assert_eq!(provider.asked(), 2);
    assert!(session.refused(refused, at(0)).await, "a latecomer signs again at once");
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn credentials_that_stay_refused_are_not_signed_again_and_asked_for_now_and_then() {
    let provider = Provider::open(&[Answer::Keys(1, None)]);
    let session = session(&provider);
    let refused = Fingerprint::of(&session.credentials(at(0)).await.unwrap());
    for _ in 0..10 {
        assert!(!session.refused(refused, at(0)).await);
        assert_eq!(number(&session, 0).now_or_never(), Some(1), "they serve: KMS decides");
    }
    assert_eq!(provider.asked(), 2);
    provider.offer(Answer::Keys(2, None));
    assert!(session.refused(refused, at(1)).await);
    assert_eq!(number(&session, 1).now_or_never(), Some(2));
}

#[tokio::test]
async fn a_rotation_by_hand_counts_at_once_until_its_end() {
    let provider = Provider::open(&[Answer::Keys(1, None)]);
    let session = session(&provider);
    assert_eq!(number(&session, 0).await, 1);
    session.principal.clone().rotate(keys(2, Some(100)));
    assert_eq!(number(&session, 0).now_or_never(), Some(2));
    assert_eq!(number(&session, 99).now_or_never(), Some(2));
    settle(&session).await;
    assert_eq!(provider.asked(), 1, "it is asked for what was not given by hand");
    assert_eq!(number(&session, 100).await, 1);
}

#[tokio::test]
async fn an_answer_from_before_a_replacement_is_not_used() {
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
    assert_eq!(generations(&session), 1, "the first answer was thrown away");
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
async fn a_date_that_jumps_ahead_and_back_blocks_no_renewal() {
    let provider =
        Provider::open(&[Answer::Keys(1, Some(1000)), Answer::Failure, Answer::Keys(3, None)]);
    let session = session(&provider);
    assert_eq!(number(&session, 0).await, 1);
    // Two hours ahead, for five seconds.
    let ahead = dated(date(7200), 10);
    assert!(session.credentials(ahead).await.is_err());
    assert_eq!(number(&session, 15).await, 1, "they are good after all");
    // The failure of then is neither told nor waited for.
    let of_three = session.credentials(at(1001)).await.unwrap();
    assert_eq!((number_of(&of_three), provider.asked()), (3, 3));
}

#[tokio::test]
async fn a_date_that_jumps_back_leaves_the_number_of_renewals_that_refusals_cause() {
    let answers: Vec<_> = (1..100).map(|number| Answer::Keys(number, None)).collect();
    let provider = Provider::open(&answers);
    let session = session(&provider);
    let refuse = async |now| {
        let of = Fingerprint::of(&session.credentials(now).await.unwrap());
        session.refused(of, now).await
    };
    for second in 0..REFUSALS {
        assert!(refuse(dated(date(7200), u64::from(second))).await);
    }
    assert!(!refuse(dated(date(9), 9)).await);
    assert!(refuse(dated(date(10), 10)).await, "one for each ten seconds, whatever the date");
}

#[tokio::test]
async fn credentials_that_always_look_expired_serve_and_are_renewed_ever_less_often() {
    let answers: Vec<_> = (1..100).map(|number| Answer::Keys(number, Some(100))).collect();
    let provider = Provider::open(&answers);
    let session = session(&provider);
    for second in 0..60 {
        // As seen by a clock that is far ahead.
        session.credentials(dated(date(1_000_000 + second), second)).await.unwrap();
        settle(&session).await;
    }
    // After 1, 2, 4, 8, 16, … seconds.
    assert_eq!(provider.asked(), 6);
}

#[tokio::test]
async fn credentials_that_are_accepted_after_all_serve_without_a_lock_again() {
    let provider = Provider::open(&[Answer::Keys(1, None)]);
    let session = session(&provider);
    let signer = Fingerprint::of(&session.credentials(at(0)).await.unwrap());
    assert!(!session.refused(signer, at(0)).await);
    assert!(session.current().unwrap().is_refused());
    session.accepted(Fingerprint::of(&keys(2, None)));
    assert!(session.current().unwrap().is_refused(), "those were others");
    session.accepted(signer);
    assert!(!session.current().unwrap().is_refused() && session.is_accepted());
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

#[derive(Clone, Debug)]
struct Step {
    wait: u64,
    /// The lifetime of the keys that the provider has to offer, if it works.
    offer: Option<u64>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![0_u64..8, 30_u64..90];
    let offer = proptest::option::of(0_u64..200);
    let step = (wait, offer).prop_map(|(wait, offer)| Step { wait, offer });
    proptest::collection::vec(step, 1..40)
}

/// The rules in their plainest form, for callers one after the other.
#[derive(Default)]
struct Model {
    /// Number, when due, and end of what is in use.
    held: Option<(u64, u64, u64)>,
    not_before: u64,
    fruitless: u32,
    answered: bool,
    failed_at: Option<u64>,
}

impl Model {
    /// Whether the provider is asked, and what the caller gets.
    fn call(&mut self, now: u64, offer: Option<(u64, u64)>) -> (bool, Option<u64>) {
        let held = self.held;
        let waits = now < self.not_before;
        let good = held.filter(|(_, _, end)| now < *end || (waits && self.answered));
        let due = held.is_none_or(|(_, due, _)| due <= now);
        if good.is_none() && self.failed_at == Some(now) {
            // Told for a moment, which is less than a second.
            return (false, None);
        }
        let asks = due && (good.is_none() || !waits);
        if asks {
            self.failed_at = offer.is_none().then_some(now);
            self.answered = offer.is_some();
            let is_good = offer.is_some_and(|(_, end)| now < end);
            self.fruitless = if is_good { 0 } else { self.fruitless + 1 };
            self.not_before = now + (1 << self.fruitless.saturating_sub(1).min(5)).min(30);
            if let Some((number, end)) = offer {
                let lead = LEAD.min((end - now) / 2);
                self.held = Some((number, end - lead, end));
            }
        }
        let number = |it: (u64, u64, u64)| it.0;
        (
            asks,
            good.map(number).or(if asks {
                self.held.filter(|_| offer.is_some()).map(number)
            } else {
                None
            }),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_session_follows_the_rules(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        runtime.block_on(async {
            let provider = Provider::open(&[Answer::Failure]);
            let (session, mut model) = (session(&provider), Model::default());
            let mut now = 0;
            for (serial, step) in (1..).zip(steps) {
                now += step.wait;
                // Lives of an even number of seconds, so that half of one is a whole number.
                let offer = step.offer.map(|lifetime| (serial, now + lifetime * 2));
                provider.offer(offer.map_or(Answer::Failure, |(number, end)| Answer::Keys(number, Some(end))));
                let before = provider.asked();
                let got = session.credentials(at(now)).await.ok().map(|it| number_of(&it));
                settle(&session).await;
                let asked = provider.asked() - before;
                let expected = model.call(now, offer);
                prop_assert_eq!((asked > 0, got), expected);
                prop_assert!(asked <= 1);
            }
            Ok(())
        })?;
    }
}
