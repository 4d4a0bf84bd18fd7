//! A slot: the place of one region and principal, and the generations of its client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_credential_types::Credentials;
use aws_sdk_kms::Client;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use crate::error::KmsError;
use crate::factory::ClientFactory;
use crate::principal::{Fingerprint, Principal};

/// While the credentials in use are still good, their provider is asked no more often than this.
const REFRESH_BACKOFF: Duration = Duration::from_secs(5);

/// The current client of one region and principal, and the renewal under way, if any.
///
/// A fresh generation is one atomic load away. All else goes through [`Slot::next_step`], which decides
/// under a short lock who asks the provider; nobody holds the lock while waiting.
pub(crate) struct Slot {
    region: Box<str>,
    principal: Principal,
    factory: Arc<ClientFactory>,
    current: ArcSwapOption<Generation>,
    renewal: Mutex<Renewal>,
}

/// One asking of the provider, from the question to the generation in place.
type Asking = BoxFuture<'static, Result<Arc<Generation>, KmsError>>;

struct Renewal {
    /// The asking under way. It advances while anybody awaits it, so it outlives the caller who
    /// started it. The slot holds it weakly: when the last caller gives up it is dropped, and the next
    /// call starts afresh rather than pick up a wait that stood still.
    flight: Option<WeakShared<Asking>>,
    /// Until then good credentials are used as they are.
    not_before: SystemTime,
}

/// A client and what is needed to tell when it has to be replaced. Never changed, only replaced.
struct Generation {
    client: Client,
    fingerprint: Fingerprint,
    expiry: Option<SystemTime>,
    refresh_at: Option<SystemTime>,
}

enum NextStep {
    Use(Arc<Generation>),
    Await { flight: Shared<Asking>, fallback: Option<Arc<Generation>> },
}

impl Slot {
    pub(crate) fn new(region: &str, principal: Principal, factory: Arc<ClientFactory>) -> Self {
        let renewal = Renewal { flight: None, not_before: SystemTime::UNIX_EPOCH };
        Self {
            region: region.into(),
            principal,
            factory,
            current: ArcSwapOption::empty(),
            renewal: Mutex::new(renewal),
        }
    }

    /// The current client, after a renewal of its credentials if that is due.
    pub(crate) async fn client(self: &Arc<Self>, now: SystemTime) -> Result<Client, KmsError> {
        if let Some(generation) = &*self.current.load()
            && generation.is_fresh(now)
        {
            self.factory.counters.hits.increment();
            return Ok(generation.client.clone());
        }
        let generation = self.generation(now).await?;
        Ok(generation.client.clone())
    }

    /// The generation to use, by the longer way.
    async fn generation(self: &Arc<Self>, now: SystemTime) -> Result<Arc<Generation>, KmsError> {
        match self.next_step(now) {
            NextStep::Use(generation) => {
                self.factory.counters.hits.increment();
                Ok(generation)
            }
            NextStep::Await { flight, fallback } => match (flight.await, fallback) {
                (Err(_), Some(old)) => Ok(old),
                (outcome, _) => outcome,
            },
        }
    }

    /// Decides between the current client, a renewal under way, and a new one.
    fn next_step(self: &Arc<Self>, now: SystemTime) -> NextStep {
        let mut renewal = self.lock();
        // Loaded under the lock: a renewal that has ended in the meantime is not asked for again.
        let current = self.current.load_full();
        if let Some(generation) = current.as_ref().filter(|current| current.is_fresh(now)) {
            return NextStep::Use(Arc::clone(generation));
        }
        let running = renewal.flight.as_ref().and_then(WeakShared::upgrade).filter(|flight| flight.peek().is_none());
        let good = current.filter(|current| !current.is_expired(now));
        match (running, good) {
            (Some(_), Some(generation)) => NextStep::Use(generation),
            (None, Some(generation)) if now < renewal.not_before => NextStep::Use(generation),
            (Some(flight), None) => NextStep::Await { flight, fallback: None },
            (None, fallback) => {
                let flight = Arc::clone(self).renew().boxed().shared();
                renewal.flight = flight.downgrade();
                renewal.not_before = now + REFRESH_BACKOFF;
                NextStep::Await { flight, fallback }
            }
        }
    }

    /// Asks the provider, and puts a new generation in place if the credentials have changed.
    async fn renew(self: Arc<Self>) -> Result<Arc<Generation>, KmsError> {
        let counters = &self.factory.counters;
        counters.refreshes.increment();
        let credentials = self
            .principal
            .credentials(self.factory.provider_timeout)
            .await
            .inspect_err(|_| counters.failures.increment())?;
        if let Some(current) = self.current.load_full()
            && current.is_of(&credentials)
        {
            return Ok(current);
        }
        let generation = Arc::new(Generation::new(&self.factory, &self.region, credentials));
        self.current.store(Some(Arc::clone(&generation)));
        Ok(generation)
    }

    fn lock(&self) -> MutexGuard<'_, Renewal> {
        // Each change under the lock is a single assignment, so a panic leaves nothing half done.
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generation {
    fn new(factory: &ClientFactory, region: &str, credentials: Credentials) -> Self {
        let expiry = credentials.expiry();
        Self {
            fingerprint: Fingerprint::of(&credentials),
            expiry,
            refresh_at: expiry.map(|at| at.checked_sub(factory.refresh_lead).unwrap_or(SystemTime::UNIX_EPOCH)),
            client: factory.client(region, credentials),
        }
    }

    fn is_of(&self, credentials: &Credentials) -> bool {
        self.expiry == credentials.expiry() && self.fingerprint == Fingerprint::of(credentials)
    }

    fn is_fresh(&self, now: SystemTime) -> bool {
        self.refresh_at.is_none_or(|at| now < at)
    }

    fn is_expired(&self, now: SystemTime) -> bool {
        self.expiry.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::{self, ProvideCredentials, future};
    use futures_util::future::{join_all, pending};
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::error::KmsErrorKind;
    use crate::pool::KmsPool;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
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
        answers: Vec<Answer>,
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
            let (answers, asked, gate) = (answers.to_vec(), AtomicU64::new(0), Semaphore::new(0));
            Self(Arc::new(Scripted { answers, asked, gate }))
        }

        fn let_through(&self, times: usize) {
            self.0.gate.add_permits(times);
        }

        fn asked(&self) -> u64 {
            self.0.asked.load(SeqCst)
        }

        async fn answer(&self) -> provider::Result {
            let turn = usize::try_from(self.0.asked.fetch_add(1, SeqCst)).expect("few turns");
            self.0.gate.acquire().await.expect("never closed").forget();
            // Even an open gate lets others run in between.
            tokio::task::yield_now().await;
            match self.0.answers[turn.min(self.0.answers.len() - 1)] {
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
        Credentials::new(format!("AK{number}"), "secret", token, expiry.map(at), "test")
    }

    fn slot(provider: &Provider) -> Arc<Slot> {
        let root = include_bytes!("../tests/data/root.pem");
        let factory = KmsPool::builder().trust_root_pem(root).factory().unwrap();
        let principal = Principal::new(provider.clone());
        Arc::new(Slot::new("us-east-1", principal, Arc::new(factory)))
    }

    fn builds(slot: &Slot) -> u64 {
        slot.factory.counters.snapshot(0).builds
    }

    async fn number(slot: &Arc<Slot>, seconds: u64) -> u64 {
        number_of(&slot.generation(at(seconds)).await.unwrap())
    }

    /// Which keys a generation signs with.
    fn number_of(generation: &Generation) -> u64 {
        let mut numbers = 0..100;
        let found = numbers.find(|n| generation.fingerprint == Fingerprint::of(&keys(*n, None)));
        found.expect("made by the script")
    }

    #[tokio::test]
    async fn many_callers_make_one_client() {
        let provider = Provider::shut(&[Answer::Keys(1, None)]);
        let slot = slot(&provider);
        // The gate is the last to be polled, so all callers wait by the time it opens.
        let callers = join_all((0..64).map(|_| slot.client(START)));
        let (clients, ()) = tokio::join!(callers, async { provider.let_through(64) });
        assert!(clients.iter().all(Result::is_ok));
        assert_eq!((provider.asked(), builds(&slot)), (1, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_threads_make_one_client() {
        for _ in 0..20 {
            let provider = Provider::open(&[Answer::Keys(1, None)]);
            let slot = slot(&provider);
            let callers = (0..64).map(|_| {
                let slot = Arc::clone(&slot);
                tokio::spawn(async move { slot.client(START).await })
            });
            for client in join_all(callers).await {
                client.unwrap().unwrap();
            }
            assert_eq!((provider.asked(), builds(&slot)), (1, 1));
        }
    }

    #[tokio::test]
    async fn a_failure_goes_to_all_who_wait_and_to_nobody_else() {
        let provider = Provider::shut(&[Answer::Failure, Answer::Keys(1, None)]);
        let slot = slot(&provider);
        let callers = join_all((0..64).map(|_| slot.client(START)));
        let (results, ()) = tokio::join!(callers, async { provider.let_through(64) });
        for result in results {
            assert_eq!(result.unwrap_err().kind(), KmsErrorKind::CredentialsUnavailable);
        }
        assert_eq!(provider.asked(), 1);
        assert!(slot.client(START).await.is_ok());
        assert_eq!(provider.asked(), 2);
    }

    #[tokio::test]
    async fn a_newcomer_does_not_get_the_failure_of_others() {
        let provider = Provider::open(&[Answer::Failure, Answer::Keys(1, None)]);
        let slot = slot(&provider);
        let first = slot.client(START);
        let mut second = Box::pin(slot.client(START));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(first.await.is_err());
        // The second caller still holds the outcome when the third one comes.
        assert!(slot.client(START).await.is_ok());
        assert!(second.await.is_err());
        assert_eq!(provider.asked(), 2);
    }

    #[tokio::test]
    async fn a_caller_who_gives_up_hands_over() {
        let provider = Provider::shut(&[Answer::Keys(1, None)]);
        let slot = slot(&provider);
        let mut first = Box::pin(slot.client(START));
        let mut second = Box::pin(slot.client(START));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        provider.let_through(1);
        assert!(second.await.is_ok());
        assert_eq!(provider.asked(), 1);
    }

    #[tokio::test]
    async fn when_all_give_up_the_next_starts_afresh() {
        let provider = Provider::shut(&[Answer::Silence, Answer::Keys(1, None)]);
        let slot = slot(&provider);
        provider.let_through(2);
        let mut first = Box::pin(slot.client(START));
        assert!(first.as_mut().now_or_never().is_none());
        drop(first);
        assert!(slot.client(START).await.is_ok());
        assert_eq!(provider.asked(), 2);
        // Of the abandoned asking nothing is left but the pool's own references.
        assert_eq!(Arc::strong_count(&slot), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_panic_are_errors_that_wedge_nobody() {
        let answers = [Answer::Silence, Answer::Panic, Answer::Keys(1, None)];
        let provider = Provider::shut(&answers);
        let slot = slot(&provider);
        for what in ["did not answer within 5s", "panicked"] {
            let callers = join_all((0..8).map(|_| slot.client(START)));
            let (results, ()) = tokio::join!(callers, async { provider.let_through(1) });
            for error in results.into_iter().map(Result::unwrap_err) {
                assert_eq!(error.kind(), KmsErrorKind::CredentialsUnavailable);
                assert!(error.to_string().contains(what), "{error}");
            }
        }
        provider.let_through(1);
        assert!(slot.client(START).await.is_ok());
        assert_eq!(slot.factory.counters.snapshot(0).failures, 2);
    }

    #[tokio::test]
    async fn credentials_near_their_end_are_replaced_while_others_go_on() {
        let answers = [Answer::Keys(1, Some(1000)), Answer::Keys(2, Some(2000))];
        let provider = Provider::shut(&answers);
        let slot = slot(&provider);
        provider.let_through(1);
        assert_eq!(number(&slot, 0).await, 1);

        let mut renewing = Box::pin(number(&slot, 940));
        assert!(renewing.as_mut().now_or_never().is_none());
        assert_eq!(number(&slot, 940).now_or_never(), Some(1));

        provider.let_through(1);
        assert_eq!(renewing.await, 2);
        assert_eq!(number(&slot, 940).await, 2);
        assert_eq!((provider.asked(), builds(&slot)), (2, 2));
    }

    #[tokio::test]
    async fn expired_credentials_make_all_wait() {
        let answers = [Answer::Keys(1, Some(100)), Answer::Keys(2, Some(2000))];
        let provider = Provider::shut(&answers);
        let slot = slot(&provider);
        provider.let_through(1);
        slot.client(START).await.unwrap();
        let callers = join_all((0..8).map(|_| number(&slot, 100)));
        let (numbers, ()) = tokio::join!(callers, async { provider.let_through(1) });
        assert_eq!(numbers, [2; 8]);
        assert_eq!(provider.asked(), 2);
    }

    #[tokio::test]
    async fn the_same_credentials_keep_the_generation() {
        let provider = Provider::open(&[Answer::Keys(1, Some(1000))]);
        let slot = slot(&provider);
        for second in [0, 940, 941, 944, 945, 1001, 1002] {
            slot.client(at(second)).await.unwrap();
        }
        // Asked at 0, when due, 5 s later, and each time once they are past their end.
        assert_eq!((provider.asked(), builds(&slot)), (5, 1));
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Callers one after the other, against the rules in their plainest form.
        #[test]
        fn a_slot_follows_the_rules(steps in steps()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
            runtime.block_on(async {
                let offered = Arc::new(Mutex::new(Answer::Failure));
                let slot = slot(&Provider::open(&[Answer::Failure]));
                let slot = with_provider(&slot, &offered);
                let (mut now, mut serial) = (0, 0);
                let (mut held, mut asked_at): (Option<(u64, u64)>, Option<u64>) = (None, None);
                for step in steps {
                    now += step.wait;
                    serial += 1;
                    let offer = step.offer.map(|lifetime| (serial, now + lifetime));
                    *offered.lock().unwrap() = offer.map_or(Answer::Failure, |(number, end)| {
                        Answer::Keys(number, Some(end))
                    });

                    let good = held.filter(|(_, end)| now < *end);
                    let fresh = good.filter(|(_, end)| now + 60 < *end);
                    let paused = asked_at.is_some_and(|then| now < then + 5);
                    let asks = fresh.is_none() && (good.is_none() || !paused);
                    let before = slot.factory.counters.snapshot(0).refreshes;
                    let result = slot.generation(at(now)).await;
                    let after = slot.factory.counters.snapshot(0).refreshes;

                    prop_assert_eq!(after - before, u64::from(asks));
                    if asks {
                        asked_at = Some(now);
                        held = offer.or(held);
                    }
                    let expected = if asks { offer.or(good) } else { good };
                    match (result, expected) {
                        (Ok(generation), Some((number, _))) => {
                            prop_assert_eq!(number_of(&generation), number);
                        }
                        (Err(_), None) => {}
                        (result, _) => prop_assert!(false, "{:?} {:?}", result.err(), expected),
                    }
                }
                Ok(())
            })?;
        }
    }

    /// The same factory under a provider that gives what is offered at the moment.
    fn with_provider(slot: &Slot, offered: &Arc<Mutex<Answer>>) -> Arc<Slot> {
        #[derive(Debug)]
        struct Offered(Arc<Mutex<Answer>>);

        impl ProvideCredentials for Offered {
            fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
            where
                Self: 'a,
            {
                future::ProvideCredentials::ready(match *self.0.lock().unwrap() {
                    Answer::Keys(number, expiry) => Ok(keys(number, expiry)),
                    _ => Err(CredentialsError::provider_error("out of order")),
                })
            }
        }

        let principal = Principal::new(Offered(Arc::clone(offered)));
        Arc::new(Slot::new("us-east-1", principal, Arc::clone(&slot.factory)))
    }
}
