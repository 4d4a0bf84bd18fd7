//! Compares a session with a simple model of its rules.

use proptest::prelude::*;

use super::{Answer, LEAD, Provider, at, number_of, session, settle};

#[derive(Clone, Debug)]
struct Step {
    wait: u64,
    /// The lifetime of the keys that the provider returns, if it works.
    offer: Option<u64>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![0_u64..8, 30_u64..90];
    let offer = proptest::option::of(0_u64..200);
    let step = (wait, offer).prop_map(|(wait, offer)| Step { wait, offer });
    proptest::collection::vec(step, 1..40)
}

/// The rules in their simplest form, for one caller at a time.
#[derive(Default)]
struct Model {
    /// The current credentials: number, time of refresh, and expiry.
    held: Option<(u64, u64, u64)>,
    not_before: u64,
    fruitless: u32,
    answered: bool,
    failed_at: Option<u64>,
}

impl Model {
    /// Whether the provider is called, and what the caller gets.
    fn call(&mut self, now: u64, offer: Option<(u64, u64)>) -> (bool, Option<u64>) {
        let held = self.held;
        let waits = now < self.not_before;
        let good = held.filter(|(_, _, end)| now < *end || (waits && self.answered));
        let due = held.is_none_or(|(_, due, _)| due <= now);
        if good.is_none() && self.failed_at == Some(now) {
            // The failure is repeated for less than a second.
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
                // Even lifetimes, so that half a lifetime is a whole number of seconds.
                let offer = step.offer.map(|lifetime| (serial, now + lifetime * 2));
                let keys = offer.map(|(number, end)| Answer::Keys(number, Some(end)));
                provider.offer(keys.unwrap_or(Answer::Failure));
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
