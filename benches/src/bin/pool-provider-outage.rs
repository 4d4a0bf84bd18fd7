//! The effect of a credentials provider that hangs or fails on callers.
//!
//! Two principals of one pool, one whose provider will hang and one whose provider will fail, share
//! a steady load of requests to a KMS over TLS. Their outage begins a second before the pool renews
//! their sessions, at half of their life, and ends well before the sessions do. Nobody may notice;
//! and once the provider is well the pool has to find out before the session ends. It asks again
//! after pauses that double up to 30 s, so it may take as long as the outage did.
//!
//! Then the same with an outage that outlasts the sessions: what callers see is printed, and not
//! judged.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, process::ExitCode, time::Duration};

use benches::{
    load::Fared,
    pool::{Caller, Health, PooledKms, Sessions, until},
    verdict,
};
use clap::Parser;
use kms_pool::{KmsError, KmsErrorKind, Principal};
use tokio::time::Instant;

/// The longest pause of the pool between two askings.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(
    about = "Has the credentials provider hang, and fail, and looks at the requests meanwhile and after"
)]
struct Args {
    /// An outage of four seconds
    #[arg(long)]
    quick: bool,
    /// How long the outage lasts
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::parse();
    let outage = Duration::from_secs(if args.quick { 4 } else { args.seconds });
    let provider_timeout = Duration::from_secs(if args.quick { 1 } else { 5 });
    let kms = PooledKms::start(|pool| pool.provider_timeout(provider_timeout)).await?;
    let caller = kms.steady_caller();
    kms.connect(&[&caller]).await?;
    let pace = kms.pace(&caller).await?;
    // Each of the two has half of the load.
    let interval = pace.interval() * 2;
    println!("{pace}, half of them with each provider; a provider may take {provider_timeout:?}");

    let bridged = Plan::bridged(outage, provider_timeout);
    println!(
        "\nan outage of {:?}; sessions of {:?}, renewed at half of it",
        bridged.outage, bridged.lifetime
    );
    let sides = both(&kms, bridged, interval).await?;
    let outlasting = Plan::outlasting(provider_timeout);
    println!(
        "\nan outage of {:?}; sessions of {:?}: not judged",
        outlasting.outage, outlasting.lifetime
    );
    both(&kms, outlasting, interval).await?;

    let failed: u64 = sides.iter().map(Side::failed).sum();
    let requests: u64 = sides.iter().map(Side::requests).sum();
    let asked_in_vain = sides.iter().map(|side| side.in_vain).min().unwrap_or_default();
    let recovered: Option<Vec<_>> = sides.iter().map(|side| side.recovered).collect();
    let longest = recovered
        .as_ref()
        .and_then(|all| all.iter().max())
        .map_or("never".into(), |it| format!("{it:.1?}"));
    let passed = failed == 0 && asked_in_vain > 0 && recovered.is_some();
    let figures = format!(
        "{requests} requests around two outages of {outage:?}: failed {failed}; renewed after them within {longest}, \
         before the sessions ended"
    );
    println!();
    Ok(verdict(passed, figures))
}

/// The times of an outage.
#[derive(Debug, Clone, Copy)]
struct Plan {
    lifetime: Duration,
    before: Duration,
    outage: Duration,
    after: Duration,
}

impl Plan {
    /// Sessions that outlive the outage by as long as the pool may take to see that it is over.
    fn bridged(outage: Duration, provider_timeout: Duration) -> Self {
        let after = outage.min(LONGEST_PAUSE) + provider_timeout + SECOND;
        let half = outage + after;
        Self { lifetime: half * 2, before: half.saturating_sub(SECOND), outage, after }
    }

    /// Sessions that end while the provider is still out of order.
    fn outlasting(provider_timeout: Duration) -> Self {
        let lifetime = provider_timeout * 2 + SECOND * 2;
        let before = (lifetime / 2).saturating_sub(SECOND);
        Self { lifetime, before, outage: lifetime + provider_timeout, after: provider_timeout * 2 }
    }
}

async fn both(
    kms: &PooledKms,
    plan: Plan,
    interval: Duration,
) -> Result<[Side; 2], Box<dyn Error>> {
    let [hangs, fails] =
        [Health::Hangs, Health::Fails].map(|health| Side::measure(kms, health, plan, interval));
    let (hangs, fails) = tokio::try_join!(hangs, fails)?;
    println!(
        "{:>10}  {:>8}  {:>9}  {:>9}  {:>9}  {:>9}  failures",
        "provider", "", "requests", "failed", "p99.9", "longest"
    );
    for side in [&hangs, &fails] {
        side.show();
    }
    Ok([hangs, fails])
}

/// How requests fared before, during and after an outage.
struct Side {
    health: Health,
    phases: [(&'static str, Fared<KmsErrorKind>); 3],
    /// Askings while the provider was out of order.
    in_vain: u64,
    /// From the end of the outage until there were other credentials.
    recovered: Option<Duration>,
}

impl Side {
    async fn measure(
        kms: &PooledKms,
        health: Health,
        plan: Plan,
        interval: Duration,
    ) -> Result<Self, KmsError> {
        let sessions = Sessions::new(&kms.server, plan.lifetime);
        let caller = kms.caller(Principal::new(sessions.clone()).with_label(format!("{health:?}")));
        // From here on the session's life counts.
        caller.data_key().await?;
        let before = caller.crowd(interval, plan.before).await;
        sessions.turn(health);
        let during = caller.crowd(interval, plan.outage).await;
        let generation = generation(&caller);
        sessions.turn(Health::Well);
        let well = Instant::now();
        let renewed = async {
            until(plan.after, || self::generation(&caller) > generation)
                .await
                .then(|| well.elapsed())
        };
        let (after, recovered) = tokio::join!(caller.crowd(interval, plan.after), renewed);
        let in_vain = sessions.in_vain();
        let phases = [
            ("before", before.ended().await),
            ("outage", during.ended().await),
            ("after", after.ended().await),
        ];
        caller.pool.remove(&caller.principal);
        Ok(Self { health, phases, in_vain, recovered })
    }

    fn failed(&self) -> u64 {
        self.phases.iter().map(|(_, fared)| fared.failed()).sum()
    }

    fn requests(&self) -> u64 {
        self.phases.iter().map(|(_, fared)| fared.measured.latency.count()).sum()
    }

    fn show(&self) {
        let provider = format!("{:?}", self.health).to_lowercase();
        for (phase, fared) in &self.phases {
            let latency = &fared.measured.latency;
            let [p999, longest] =
                [latency.at(0.999), latency.longest()].map(|it| format!("{it:.1?}"));
            let failures =
                if fared.failed() > 0 { format!("{:?}", fared.failures) } else { String::new() };
            let (requests, failed) = (latency.count(), fared.failed());
            println!(
                "{provider:>10}  {phase:>8}  {requests:>9}  {failed:>9}  {p999:>9}  {longest:>9}  {failures}"
            );
        }
        let recovered =
            self.recovered.map_or("not in time".into(), |it| format!("{it:.1?} after the outage"));
        println!("{provider:>10}  asked in vain {} times; renewed {recovered}", self.in_vain);
        if let Some(due) = self.phases[2].1.last_failed {
            println!("{provider:>10}  the last request to fail was due {due:.1?} after the outage");
        }
    }
}

/// Which credentials are in use, counted.
fn generation(caller: &Caller) -> u64 {
    let clients = caller.pool.client_stats();
    let own = clients.iter().find(|client| client.principal.as_deref() == caller.principal.label());
    own.map_or(0, |client| client.generation)
}
