//! What callers notice of a credentials provider that hangs or fails.
//!
//! Two principals of one pool share a steady load: the provider of one will hang, that of the other
//! one will fail. The outage begins a second before the pool renews the sessions, at half of their
//! life, and ends before the sessions do. No request may fail, and the pool must notice the end of
//! the outage before the sessions end. It calls the provider again after pauses of up to 30 s.
//!
//! Then the same with an outage that is longer than the sessions. That is printed, and not judged.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::time::Duration;

use benches::{Result, limits::Limits};
use kms_pool::Principal;
use tokio::time::Instant;

use super::sessions::{Health, Sessions};
use crate::{
    Args,
    kms::{Caller, Kms, MAX_IN_FLIGHT},
    load::{HEAD, Outcomes, count, until},
};

/// The longest pause of the pool between two calls of a provider.
const MAX_PAUSE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: &Args) -> Result {
    let outage = Duration::from_secs(args.seconds(4, 60));
    let timeout = Duration::from_secs(args.pick(1, 5));
    let kms = Kms::with(|pool| pool.provider_timeout(timeout).max_in_flight(MAX_IN_FLIGHT))?;
    let caller = kms.caller(kms.principal.clone());
    kms.connect(&[&caller]).await?;
    let pace = kms.pace(&caller).await?;
    println!("{pace}, half of them with each provider; the provider's timeout is {timeout:?}");
    let interval = pace.interval() * 2;

    // Sessions that last until the pool must have noticed that the outage is over.
    let after = outage.min(MAX_PAUSE) + timeout + SECOND;
    let half = outage + after;
    let bridged = Plan { lifetime: half * 2, before: half.saturating_sub(SECOND), outage, after };
    let sides = measure_both(&kms, bridged, interval).await?;
    let lifetime = timeout * 2 + SECOND * 2;
    let before = (lifetime / 2).saturating_sub(SECOND);
    let longer = Plan { lifetime, before, outage: lifetime + timeout, after: timeout * 2 };
    measure_both(&kms, longer, interval).await?;

    let mut limits = Limits::default();
    for side in sides {
        let failed = side.phases.iter().map(|(_, outcomes)| outcomes.failed()).sum();
        limits.at_most(format!("{}: failed requests", side.name), count(failed), 0.0);
        limits.at_least(format!("{}: calls in the outage", side.name), count(side.unanswered), 1.0);
        let renewed = side.renewed.map_or(f64::INFINITY, |after| after.as_secs_f64());
        let name = format!("{}: renewed after the outage, in seconds", side.name);
        limits.at_most(name, renewed, after.as_secs_f64());
    }
    Ok(limits.verdict())
}

/// The times of an outage.
#[derive(Debug, Clone, Copy)]
struct Plan {
    lifetime: Duration,
    before: Duration,
    outage: Duration,
    after: Duration,
}

async fn measure_both(kms: &Kms, plan: Plan, interval: Duration) -> Result<[Side; 2]> {
    println!("\nan outage of {:?}; sessions of {:?}", plan.outage, plan.lifetime);
    println!("{:>18}  {HEAD}", "");
    let hangs = Side::measure(kms, ("hangs", Health::Hangs), plan, interval);
    let fails = Side::measure(kms, ("fails", Health::Fails), plan, interval);
    let (hangs, fails) = tokio::try_join!(hangs, fails)?;
    for Side { name, phases, unanswered, renewed } in [&hangs, &fails] {
        for (phase, outcomes) in phases {
            println!("{:>18}  {outcomes}", format!("{name}, {phase}"));
        }
        println!("{name:>18}  called {unanswered} times in the outage; renewed after {renewed:?}");
        if let Some(due) = phases[2].1.last_failed {
            println!("{name:>18}  the last request that failed was due {due:.1?} after the outage");
        }
    }
    Ok([hangs, fails])
}

/// The outcomes of requests before, during and after an outage.
struct Side {
    name: &'static str,
    phases: [(&'static str, Outcomes); 3],
    /// Calls of the provider during the outage.
    unanswered: u64,
    /// From the end of the outage until there were other credentials.
    renewed: Option<Duration>,
}

impl Side {
    async fn measure(
        kms: &Kms,
        (name, health): (&'static str, Health),
        plan: Plan,
        interval: Duration,
    ) -> Result<Self> {
        let sessions = Sessions::new(&kms.server, plan.lifetime);
        let caller = kms.caller(Principal::new(sessions.clone()).with_label(name));
        // The life of the session starts here.
        caller.data_key().await?;
        let before = caller.crowd(interval, plan.before).await;
        sessions.set(health);
        let outage = caller.crowd(interval, plan.outage).await;
        let last = generation(&caller);
        sessions.set(Health::Works);
        let ended = Instant::now();
        let renewed = async {
            let is_renewed = until(plan.after, || generation(&caller) > last).await;
            is_renewed.then(|| ended.elapsed())
        };
        let (after, renewed) = tokio::join!(caller.crowd(interval, plan.after), renewed);
        let unanswered = sessions.unanswered();
        let phases = [
            ("before", before.ended().await),
            ("outage", outage.ended().await),
            ("after", after.ended().await),
        ];
        caller.pool.remove(&caller.principal);
        Ok(Self { name, phases, unanswered, renewed })
    }
}

/// The credential generation in use.
fn generation(caller: &Caller) -> u64 {
    let clients = caller.pool.client_stats();
    let own = clients.iter().find(|client| client.principal.as_deref() == caller.principal.label());
    own.map_or(0, |client| client.generation)
}
