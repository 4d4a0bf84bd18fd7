//! The circuit breaker: stops requests to a region that does not respond.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::time::monotonic;

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CircuitSettings {
    /// Consecutive failures that open it; 0 for never.
    pub(crate) failures: u32,
    /// How long it stays open at first. Each failed probe doubles that time.
    pub(crate) pause: Duration,
}

/// The maximum pause before the next probe.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The state of a client's circuit breaker: whether it sends requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// Requests are sent.
    Closed,
    /// No requests are sent: the last ones all failed by timeouts, broken connections or internal
    /// errors.
    Open,
    /// A single request is sent as a probe, to see whether others may follow.
    HalfOpen,
}

/// The circuit of one client.
pub(crate) struct Circuit {
    settings: CircuitSettings,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
    Probing { pause: Duration },
}

/// Permission to send one request. Report its outcome. A pass that is dropped without a report
/// changes nothing, unless it was in a race.
pub(crate) struct Pass {
    circuit: Arc<Circuit>,
    probe: Option<Duration>,
    is_reported: bool,
    /// Whether another region is called as well, so that a cancelled request has lost the race.
    races: bool,
}

impl Circuit {
    pub(crate) fn new(settings: CircuitSettings) -> Self {
        Self { settings, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    pub(crate) fn state(&self) -> CircuitState {
        match *self.lock() {
            State::Closed { .. } => CircuitState::Closed,
            State::Open { .. } => CircuitState::Open,
            State::Probing { .. } => CircuitState::HalfOpen,
        }
    }

    /// Checks whether a request may be sent soon. A background request is never a probe.
    ///
    /// # Errors
    ///
    /// How long to wait before trying again.
    pub(crate) fn check(&self, now: Instant, is_background: bool) -> Result<(), Duration> {
        match *self.lock() {
            State::Closed { .. } => Ok(()),
            State::Open { until, .. } if now < until => Err(until - now),
            State::Open { .. } if !is_background => Ok(()),
            // The probe decides soon; until then its pause is the best guess.
            State::Open { pause, .. } | State::Probing { pause } => Err(pause),
        }
    }

    /// Gives permission to send a request.
    ///
    /// # Errors
    ///
    /// The errors of [`check`](Self::check).
    pub(crate) fn enter(
        self: &Arc<Self>,
        now: Instant,
        is_background: bool,
    ) -> Result<Pass, Duration> {
        self.check(now, is_background)?;
        let mut state = self.lock();
        let probe = match *state {
            State::Open { pause, .. } => {
                *state = State::Probing { pause };
                Some(pause)
            }
            State::Closed { .. } => None,
            // Another request became the probe in between.
            State::Probing { pause } => return Err(pause),
        };
        Ok(Pass { circuit: Arc::clone(self), probe, is_reported: false, races: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// From now on another region may be called as well: if this request is cancelled, it has
    /// failed.
    pub(crate) fn race(&mut self) {
        self.races = true;
    }

    /// Reports a response, with success or an error. Returns whether it closed the circuit.
    pub(crate) fn responded(mut self) -> bool {
        self.is_reported = true;
        let was = std::mem::replace(&mut *self.circuit.lock(), State::Closed { failures: 0 });
        !matches!(was, State::Closed { .. })
    }

    /// Reports a failure of the region. Returns whether it opened the circuit.
    pub(crate) fn failed(mut self, now: Instant) -> bool {
        self.fail(now)
    }

    /// Reports a failure that says nothing new about the region.
    pub(crate) fn learned_nothing(mut self) {
        self.races = false;
    }

    fn fail(&mut self, now: Instant) -> bool {
        self.is_reported = true;
        let settings = self.circuit.settings;
        let mut state = self.circuit.lock();
        let opened = match (*state, self.probe.take()) {
            (_, Some(pause)) => Some((pause * 2).min(MAX_PAUSE)),
            (State::Closed { failures }, None) => {
                let failures = failures.saturating_add(1);
                *state = State::Closed { failures };
                (settings.failures > 0 && failures >= settings.failures).then_some(settings.pause)
            }
            // The request was sent before the circuit opened, and says nothing new.
            (State::Open { .. } | State::Probing { .. }, None) => None,
        };
        if let Some(pause) = opened {
            *state = State::Open { until: now + pause, pause };
        }
        opened.is_some()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_reported {
            return;
        }
        if self.races {
            self.fail(monotonic());
        } else if let Some(pause) = self.probe {
            // The probe was cancelled: the next request becomes the probe, unless an older request
            // has got a response meanwhile.
            let mut state = self.circuit.lock();
            if matches!(*state, State::Probing { .. }) {
                *state = State::Open { until: monotonic(), pause };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(500);

    fn circuit(failures: u32) -> Arc<Circuit> {
        Arc::new(Circuit::new(CircuitSettings { failures, pause: PAUSE }))
    }

    fn fail(circuit: &Arc<Circuit>, now: Instant) -> bool {
        circuit.enter(now, false).ok().unwrap().failed(now)
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_consecutive_failures_and_closes_after_a_probe() {
        let circuit = circuit(3);
        let now = Instant::now();
        assert!(!fail(&circuit, now) && !fail(&circuit, now));
        circuit.enter(now, false).ok().unwrap().responded();
        assert!(!fail(&circuit, now) && !fail(&circuit, now) && fail(&circuit, now));
        assert_eq!(circuit.state(), CircuitState::Open);
        assert_eq!(circuit.enter(now, false).err(), Some(PAUSE));

        let later = now + PAUSE;
        let probe = circuit.enter(later, false).ok().unwrap();
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
        assert!(circuit.enter(later, false).is_err(), "one probe at a time");
        assert!(probe.failed(later));
        assert_eq!(circuit.enter(later, false).err(), Some(PAUSE * 2));
        circuit.enter(later + PAUSE * 2, false).ok().unwrap().responded();
        assert_eq!(circuit.state(), CircuitState::Closed);
        assert!(!fail(&circuit, later) && !fail(&circuit, later), "it counts from zero");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_cancelled_probe_the_next_request_is_the_probe() {
        let circuit = circuit(1);
        let now = Instant::now();
        assert!(fail(&circuit, now));
        drop(circuit.enter(now + PAUSE, false).ok().unwrap());
        assert!(circuit.enter(now + PAUSE, false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn inconclusive_failures_change_nothing() {
        let circuit = circuit(1);
        let now = Instant::now();
        let mut pass = circuit.enter(now, false).ok().unwrap();
        pass.race();
        pass.learned_nothing();
        assert_eq!(circuit.state(), CircuitState::Closed);
        assert!(fail(&circuit, now));
        circuit.enter(now + PAUSE, false).ok().unwrap().learned_nothing();
        assert_eq!(circuit.state(), CircuitState::Open);
        // The next one is the probe.
        circuit.enter(now + PAUSE, false).ok().unwrap().responded();
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_background_request_is_never_a_probe() {
        let circuit = circuit(1);
        let now = Instant::now();
        assert!(fail(&circuit, now));
        assert!(circuit.enter(now + PAUSE, true).is_err());
        circuit.enter(now + PAUSE, false).ok().unwrap().responded();
        assert!(circuit.enter(now + PAUSE, true).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_race_is_a_failure() {
        let circuit = circuit(2);
        let now = Instant::now();
        for _ in 0..2 {
            circuit.enter(now, false).ok().unwrap().race();
        }
        assert_eq!(circuit.enter(now, false).err(), Some(PAUSE));
        circuit.enter(now + PAUSE, false).ok().unwrap().race();
        assert_eq!(circuit.state(), CircuitState::Open);
        assert!(circuit.enter(now + PAUSE, false).is_err(), "the probe lost too");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_requests_from_before_it_opened_change_nothing() {
        let circuit = circuit(1);
        let now = Instant::now();
        let [one, other] = [(); 2].map(|()| circuit.enter(now, false).ok().unwrap());
        assert!(one.failed(now));
        assert!(!other.failed(now + PAUSE / 2));
        assert_eq!(
            circuit.enter(now + PAUSE / 2, false).err(),
            Some(PAUSE / 2),
            "the pause has not grown"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_failure_opens_a_disabled_circuit() {
        let circuit = circuit(0);
        let now = Instant::now();
        assert!((0..1000).all(|_| !fail(&circuit, now)));
    }
}
