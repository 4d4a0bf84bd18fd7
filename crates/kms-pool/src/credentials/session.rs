//! A principal's session: the credentials in use, and the renewal under way, if any.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_credential_types::Credentials;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::task::AbortHandle;

use super::fingerprint::Fingerprint;
use super::generation::Generation;
use super::principal::Principal;
use super::watcher;
use crate::error::{KmsError, KmsErrorKind};
use crate::sight;
use crate::stats::Counters;

/// How a pool renews credentials.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewals {
    /// How long before their end.
    pub(crate) lead: Duration,
    /// By how much earlier at most, drawn anew each time.
    pub(crate) jitter: Duration,
    /// How long a provider may take.
    pub(crate) provider_timeout: Duration,
    /// How often the files of a principal are looked at.
    pub(crate) files_every: Duration,
}

/// When the provider fails, or has nothing new, it is asked again after this at the earliest; each
/// time in a row twice as long, up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Where there are no good credentials, a failure is told for so long before the provider is asked
/// again.
const TELL_FAILURE_FOR: Duration = Duration::from_millis(100);
/// So many renewals may follow one another because KMS refused credentials; then one for each
/// [`REFUSAL_EVERY`].
const REFUSALS: u32 = 5;
const REFUSAL_EVERY: Duration = Duration::from_secs(10);

/// The credentials of one principal in one pool.
///
/// What is fresh is one atomic load away. All else goes through [`next_step`](Self::next_step),
/// which decides under a short lock who asks the provider; nobody holds the lock while waiting. The
/// provider is asked by a task of its own, so neither its time nor its end depends on a request.
pub(crate) struct Session {
    pub(crate) principal: Principal,
    renewals: Renewals,
    counters: Arc<Counters>,
    current: ArcSwapOption<Generation>,
    /// The number of the generation that KMS last accepted, in any region.
    accepted: AtomicU64,
    renewal: Mutex<Renewal>,
}

/// One asking of the provider, from the question to the generation in place.
#[derive(Clone)]
struct Flight {
    outcome: Shared<BoxFuture<'static, Result<Arc<Generation>, KmsError>>>,
    task: AbortHandle,
    /// Whose provider is asked: an answer from before a rotation by hand is of no use after it.
    rotation: u64,
}

struct Renewal {
    flight: Option<Flight>,
    /// How the last asking failed, and until when that is told to those who come.
    failed: Option<(KmsError, SystemTime)>,
    /// Renewals that refusals by KMS may still cause, and since when their number has grown back.
    refusals_left: (u32, SystemTime),
    /// Askings in a row that brought nothing new.
    fruitless: u32,
    /// Whether the last asking was answered.
    answered: bool,
    /// Until then good credentials are used as they are.
    not_before: SystemTime,
    generations: u64,
    watcher: Option<AbortHandle>,
    is_stopped: bool,
}

enum NextStep {
    Use(Arc<Generation>),
    Fail(KmsError),
    Await { flight: Flight, fallback: Option<Arc<Generation>> },
}

impl Session {
    pub(crate) fn new(principal: Principal, renewals: Renewals, counters: Arc<Counters>) -> Self {
        let renewal = Renewal {
            flight: None,
            failed: None,
            refusals_left: (REFUSALS, SystemTime::UNIX_EPOCH),
            fruitless: 0,
            answered: false,
            not_before: SystemTime::UNIX_EPOCH,
            generations: 0,
            watcher: None,
            is_stopped: false,
        };
        Self {
            principal,
            renewals,
            counters,
            current: ArcSwapOption::empty(),
            accepted: AtomicU64::new(0),
            renewal: Mutex::new(renewal),
        }
    }

    /// The credentials to sign with. Waits for the provider only when there are none that are good.
    ///
    /// # Errors
    ///
    /// [`KmsErrorKind::CredentialsUnavailable`].
    pub(crate) async fn credentials(
        self: &Arc<Self>,
        now: SystemTime,
    ) -> Result<Credentials, KmsError> {
        if let Some(current) = &*self.current.load()
            && self.is_fresh(current, now)
        {
            return Ok(current.credentials.clone());
        }
        Ok(self.generation(now).await?.credentials.clone())
    }

    /// The generation to use, by the longer way.
    pub(super) async fn generation(
        self: &Arc<Self>,
        now: SystemTime,
    ) -> Result<Arc<Generation>, KmsError> {
        loop {
            let (flight, fallback) = match self.next_step(now) {
                NextStep::Use(generation) => return Ok(generation),
                NextStep::Fail(error) => return Err(error),
                NextStep::Await { flight, fallback } => (flight, fallback),
            };
            let outcome = self.wait_for(&flight).await;
            if flight.rotation != self.principal.rotation() {
                // Somebody was put in the place meanwhile: neither what came nor what was is
                // theirs.
                continue;
            }
            return match (outcome, fallback) {
                (Err(_), Some(old)) => Ok(old),
                (outcome, _) => outcome,
            };
        }
    }

    /// Waits for an asking, but no longer than a provider may take twice: one that blocks its
    /// thread never times out.
    async fn wait_for(&self, flight: &Flight) -> Result<Arc<Generation>, KmsError> {
        let patience = self.renewals.provider_timeout * 2;
        tokio::time::timeout(patience, flight.outcome.clone()).await.unwrap_or_else(|_| {
            let message = "the credentials provider blocks its thread, and does not answer";
            Err(KmsError::local(KmsErrorKind::CredentialsUnavailable, message, None))
        })
    }

    /// KMS has accepted credentials, in whatever region.
    pub(crate) fn accepted(&self) {
        if let Some(current) = &*self.current.load()
            && self.accepted.load(Relaxed) != current.number
        {
            self.accepted.store(current.number, Relaxed);
        }
    }

    /// Whether KMS has accepted the credentials in use, in whatever region.
    pub(crate) fn is_accepted(&self) -> bool {
        self.current
            .load()
            .as_ref()
            .is_some_and(|current| self.accepted.load(Relaxed) == current.number)
    }

    /// Ends the watcher for good.
    pub(crate) fn stop(&self) {
        let mut renewal = self.lock();
        renewal.is_stopped = true;
        if let Some(watcher) = renewal.watcher.take() {
            watcher.abort();
        }
    }

    /// The generation in use, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Generation>> {
        self.current.load_full()
    }

    /// Says that KMS refused the credentials of a request, and waits for the renewal that follows.
    /// Whether there are others now, so that the request is worth signing again.
    pub(crate) async fn refused(
        self: &Arc<Self>,
        fingerprint: Fingerprint,
        now: SystemTime,
    ) -> bool {
        let flight = {
            let mut renewal = self.lock();
            let Some(current) = self.current.load_full() else { return false };
            if !current.is_of(fingerprint) || !self.is_of_this_rotation(&current) {
                return true;
            }
            match self.running(&renewal) {
                Some(flight) => {
                    current.refuse();
                    flight
                }
                None if renewal.fruitless > 0 && now < renewal.not_before => return false,
                None if !renewal.take_refusal(now) => return false,
                None => {
                    current.refuse();
                    self.depart(&mut renewal, now)
                }
            }
        };
        self.wait_for(&flight).await.is_ok_and(|generation| !generation.is_of(fingerprint))
    }

    /// Asks the provider now, unless somebody is asking already.
    pub(crate) async fn renew_now(
        self: &Arc<Self>,
        now: SystemTime,
    ) -> Result<Arc<Generation>, KmsError> {
        let flight = {
            let mut renewal = self.lock();
            self.running(&renewal).unwrap_or_else(|| self.depart(&mut renewal, now))
        };
        self.wait_for(&flight).await
    }

    /// When the watcher has to look again; `None` when there is nothing to watch.
    pub(super) fn next_look(&self, now: SystemTime) -> Option<Duration> {
        let renewal = self.lock();
        let due = self.current.load().as_ref().and_then(|current| current.refresh_at());
        let due = due.map(|at| at.max(renewal.not_before).duration_since(now).unwrap_or_default());
        let files = (!self.principal.files().is_empty()).then_some(self.renewals.files_every);
        due.into_iter().chain(files).min()
    }

    /// Whether a renewal is due and may be tried.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        let not_before = self.lock().not_before;
        now >= not_before && self.current.load().as_ref().is_some_and(|current| current.is_due(now))
    }

    /// Decides between the current credentials, a renewal under way, and a new one.
    fn next_step(self: &Arc<Self>, now: SystemTime) -> NextStep {
        let mut renewal = self.lock();
        self.take_rotation(&mut renewal, now);
        // Loaded under the lock: a renewal that has ended in the meantime is not asked for again.
        let current = self.current.load_full().filter(|current| self.is_of_this_rotation(current));
        if let Some(generation) = current.as_ref().filter(|current| self.is_fresh(current, now)) {
            return NextStep::Use(Arc::clone(generation));
        }
        let waits = now < renewal.not_before;
        let running = self.running(&renewal);
        // What was handed out just now is used even if it looks expired: it may be this machine's
        // clock.
        let just_now = waits && renewal.answered && running.is_none();
        let good = current.filter(|current| !current.is_expired(now) || just_now);
        match (running, good) {
            (Some(flight), Some(generation)) if generation.is_refused() => {
                NextStep::Await { flight, fallback: Some(generation) }
            }
            (None, Some(generation)) if generation.is_due(now) && !waits => {
                drop(self.depart(&mut renewal, now));
                NextStep::Use(generation)
            }
            (_, Some(generation)) => NextStep::Use(generation),
            (Some(flight), None) => NextStep::Await { flight, fallback: None },
            (None, None) => match &renewal.failed {
                Some((error, until)) if now < *until => NextStep::Fail(error.clone()),
                _ => NextStep::Await { flight: self.depart(&mut renewal, now), fallback: None },
            },
        }
    }

    /// Puts in place what the principal was given by hand, if that is new.
    fn take_rotation(self: &Arc<Self>, renewal: &mut Renewal, now: SystemTime) {
        let (rotation, by_hand) = self.principal.by_hand(now);
        let known =
            self.current.load().as_ref().is_some_and(|current| current.rotation == rotation);
        if let (false, Some(credentials)) = (known, by_hand) {
            self.install(renewal, rotation, credentials, now);
        }
    }

    /// Begins to ask the provider, on a task of its own.
    fn depart(self: &Arc<Self>, renewal: &mut Renewal, now: SystemTime) -> Flight {
        renewal.not_before = now + SHORTEST_PAUSE;
        let rotation = self.principal.rotation();
        let asking = tokio::spawn(Arc::clone(self).renew(now));
        let task = asking.abort_handle();
        let outcome = asking
            .map(|ended| {
                ended.unwrap_or_else(|_| {
                    let message =
                        "the runtime on which the credentials provider was asked has ended";
                    Err(KmsError::local(KmsErrorKind::CredentialsUnavailable, message, None))
                })
            })
            .boxed()
            .shared();
        let flight = Flight { outcome, task, rotation };
        renewal.flight = Some(flight.clone());
        flight
    }

    /// The asking under way, if there is one whose answer is of use.
    fn running(&self, renewal: &Renewal) -> Option<Flight> {
        // Not by the outcome: nobody may have waited for that.
        let is_of_use = |flight: &&Flight| {
            !flight.task.is_finished() && flight.rotation == self.principal.rotation()
        };
        renewal.flight.as_ref().filter(is_of_use).cloned()
    }

    /// Asks the provider, and puts a new generation in place if the credentials have changed.
    async fn renew(self: Arc<Self>, now: SystemTime) -> Result<Arc<Generation>, KmsError> {
        self.counters.refreshes.increment();
        loop {
            let (rotation, outcome) = self.principal.ask(self.renewals.provider_timeout, now).await;
            let mut renewal = self.lock();
            if rotation != self.principal.rotation() {
                // Another rotation came in between: what was answered is not its answer.
                continue;
            }
            renewal.failed = None;
            renewal.answered = outcome.is_ok();
            let current = self.current.load_full().filter(|current| current.rotation == rotation);
            let fruitless = match outcome {
                Ok(credentials) => {
                    let Some(current) =
                        current.filter(|current| current.is_of_credentials(&credentials))
                    else {
                        renewal.fruitless = 0;
                        renewal.not_before = now + SHORTEST_PAUSE;
                        return Ok(self.install(&mut renewal, rotation, credentials, now));
                    };
                    Ok(current)
                }
                Err(error) => {
                    self.counters.failures.increment();
                    sight::renewal_failed(&self.principal, &error);
                    renewal.failed = Some((error.clone(), now + TELL_FAILURE_FOR));
                    Err(error)
                }
            };
            renewal.fruitless = renewal.fruitless.saturating_add(1);
            renewal.not_before = now + pause_after(renewal.fruitless);
            return fruitless;
        }
    }

    /// Makes these the credentials in use. Requests that were signed with the last ones end in
    /// peace.
    fn install(
        self: &Arc<Self>,
        renewal: &mut Renewal,
        rotation: u64,
        credentials: Credentials,
        now: SystemTime,
    ) -> Arc<Generation> {
        renewal.generations += 1;
        let lead = self.renewals.lead + self.renewals.jitter.mul_f64(fastrand::f64());
        let generation =
            Arc::new(Generation::new(renewal.generations, rotation, credentials, lead, now));
        let last = self.current.swap(Some(Arc::clone(&generation)));
        if last.is_some() {
            self.counters.rotations.increment();
        }
        // After the swap: whoever reads the new tenure signs with nothing older.
        if let Some(account) = generation.credentials.account_id() {
            self.principal.note_account(account);
        }
        sight::rotated(&self.principal, generation.number);
        self.ensure_watcher(renewal);
        generation
    }

    fn ensure_watcher(self: &Arc<Self>, renewal: &mut Renewal) {
        let watched = renewal.watcher.as_ref().is_some_and(|watcher| !watcher.is_finished());
        let expires =
            self.current.load().as_ref().is_some_and(|current| current.refresh_at().is_some());
        if !watched && !renewal.is_stopped && (expires || !self.principal.files().is_empty()) {
            renewal.watcher =
                Some(tokio::spawn(watcher::watch(Arc::downgrade(self))).abort_handle());
        }
    }

    fn is_fresh(&self, generation: &Generation, now: SystemTime) -> bool {
        self.is_of_this_rotation(generation) && !generation.is_due(now) && !generation.is_refused()
    }

    fn is_of_this_rotation(&self, generation: &Generation) -> bool {
        generation.rotation == self.principal.rotation()
    }

    fn lock(&self) -> MutexGuard<'_, Renewal> {
        // Each change under the lock is a few assignments that do not panic.
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(watcher) = self.lock().watcher.take() {
            watcher.abort();
        }
    }
}

impl Renewal {
    /// Whether a refusal by KMS may cause a renewal. Whoever can have requests refused, in a region
    /// where nothing else works, must not be able to keep the provider busy and everybody else
    /// waiting.
    fn take_refusal(&mut self, now: SystemTime) -> bool {
        let (left, since) = self.refusals_left;
        let periods =
            now.duration_since(since).unwrap_or_default().as_secs() / REFUSAL_EVERY.as_secs();
        let grown = u32::try_from(periods).unwrap_or(u32::MAX);
        let left = left.saturating_add(grown).min(REFUSALS);
        let since = if left == REFUSALS { now } else { since + REFUSAL_EVERY * grown };
        self.refusals_left = (left.saturating_sub(1), since);
        left > 0
    }
}

fn pause_after(failures: u32) -> Duration {
    let doubled = SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::{self, ProvideCredentials, future};
    use futures_util::future::{join_all, pending};
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    const LEAD: u64 = 60;

    /// A time that these tests pass in. It lies in a future that the watchers, who read the clock,
    /// don't live to see.
    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 200) + Duration::from_secs(seconds)
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
        Credentials::new(number.to_string(), "secret", token, expiry.map(at), "test")
    }

    fn session(provider: &Provider) -> Arc<Session> {
        let renewals = Renewals {
            lead: Duration::from_secs(LEAD),
            jitter: Duration::ZERO,
            provider_timeout: Duration::from_secs(5),
            files_every: Duration::from_secs(1),
        };
        Arc::new(Session::new(Principal::new(provider.clone()), renewals, Arc::default()))
    }

    fn number_of(credentials: &Credentials) -> u64 {
        credentials.access_key_id().parse().expect("made by the script")
    }

    async fn number(session: &Arc<Session>, seconds: u64) -> u64 {
        number_of(&session.credentials(at(seconds)).await.unwrap())
    }

    /// Waits for the asking under way, if there is one.
    async fn settle(session: &Arc<Session>) {
        let flight = session.lock().flight.clone();
        if let Some(flight) = flight {
            let _ = flight.outcome.await;
        }
    }

    /// Waits for it as nobody does who does not need it: without looking at what comes of it.
    async fn settle_unseen(session: &Arc<Session>) {
        let task = session.lock().flight.as_ref().map(|flight| flight.task.clone());
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

    #[tokio::test(start_paused = true)]
    async fn silence_and_panic_are_errors_that_wedge_nobody() {
        let answers = [Answer::Silence, Answer::Panic, Answer::Keys(1, None)];
        let provider = Provider::shut(&answers);
        let session = session(&provider);
        for (second, what) in [(0, "did not answer within 5s"), (1, "panicked")] {
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
        tokio::task::yield_now().await;
        assert_eq!(alice.asked(), 1);
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
    async fn the_watcher_ends_with_the_session() {
        let session = session(&Provider::open(&[Answer::Keys(1, Some(1000))]));
        session.credentials(at(0)).await.unwrap();
        settle(&session).await;
        let watcher = session.lock().watcher.clone().unwrap();
        assert!(!watcher.is_finished());
        let weak = Arc::downgrade(&session);
        session.lock().flight = None;
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
                self.fruitless = if offer.is_some() { 0 } else { self.fruitless + 1 };
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
}
