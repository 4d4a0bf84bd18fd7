//! What a region that hangs does to another one, how soon the other one replaces it, and what
//! hedging brings.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{sync::Arc, time::Duration};

use aws_sdk_kms::{Client, primitives::Blob};
use benches::{Result, limits::Limits};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kms_local::{KmsLocal, KmsLocalBuilder};
use kms_pool::{KmsError, KmsPool, Principal, Replicas};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Args,
    kms::Server,
    load::{Durations, millis},
};

const REGIONS: [&str; 2] = [ONE, OTHER];
const ONE: &str = "us-east-1";
const OTHER: &str = "eu-west-1";
/// The time of most responses, and what slow responses take in addition.
const LATENCY: Duration = Duration::from_millis(10);
const SLOW: Duration = Duration::from_secs(1);
const SLOW_SHARE: f64 = 0.05;
const HEDGE_AFTER: Duration = Duration::from_millis(50);
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);
/// Tasks that send requests to the region that works, and to the region that hangs.
const TASKS: usize = 4;
const STUCK_TASKS: usize = 64;

pub(crate) async fn run(args: &Args) -> Result {
    let segments = args.pick(3, 12);
    let segment = Duration::from_secs(args.pick(2, 5));
    let mut limits = Limits::default();
    let scene = Scene::new(ATTEMPT_TIMEOUT).await?;
    let faults = scene.server.faults(ONE);
    scene.server.faults(OTHER).latency(LATENCY);
    println!("{TASKS} tasks decrypt in {OTHER} while {STUCK_TASKS} tasks do in {ONE}");
    let (mut quiet, mut beside) = (Durations::default(), Durations::default());
    scene.measure(Duration::from_millis(500)).await?;
    for _ in 0..segments {
        faults.hang(false);
        quiet.merge(&scene.measure(segment).await?);
        faults.hang(true);
        let mut stuck = scene.stuck();
        beside.merge(&scene.measure(segment).await?);
        stuck.shutdown().await;
    }
    faults.clear();
    println!("{:>24}       all       p50       p99     p99.9    p99.99       max", "");
    println!("{:>24} {:>9} {quiet}", format!("{ONE} quiet"), quiet.count());
    println!("{:>24} {:>9} {beside}", format!("{ONE} hangs"), beside.count());
    let ratio = beside.at(0.99).div_duration_f64(quiet.at(0.99));
    limits.at_most_if(!args.quick, "p99 next to a region that hangs, x quiet", ratio, 1.2);

    let [first, open, back] = scene.failover().await?;
    println!("\nfailover with attempts of {ATTEMPT_TIMEOUT:?}: the first call takes {first:.1?},");
    println!("a call with an open circuit {open:.1?}; {ONE} is used again after {back:.1?}");
    limits.at_most("first call, in ms", millis(first), 2.0 * millis(ATTEMPT_TIMEOUT));
    limits.at_most("call with an open circuit, in ms", millis(open), millis(ATTEMPT_TIMEOUT) / 5.0);

    // The attempt timeout is longer than slow responses.
    let scene = Scene::new(Duration::from_secs(10)).await?;
    for region in REGIONS {
        scene.server.faults(region).latency(LATENCY);
    }
    scene.server.faults(ONE).slow(SLOW_SHARE, SLOW);
    let calls = args.pick(300, 3_000);
    println!(
        "\n{calls} Decrypts, of which {:.0} % take {SLOW:?} longer in {ONE}; hedged after \
         {HEDGE_AFTER:?}",
        100.0 * SLOW_SHARE
    );
    let both = [
        ("one region at a time", scene.replicas()?),
        ("hedged", scene.replicas()?.hedge_after(HEDGE_AFTER)),
    ];
    for (name, replicas) in both {
        for region in REGIONS {
            scene.server.reset_counters(region);
        }
        let took = scene.decrypt_often(&replicas, calls).await?;
        let [one, other] = REGIONS.map(|region| scene.server.counters(region).total());
        println!("{name:>24}           {took}   {one} + {other} requests");
        if name == "hedged" {
            limits.at_most("hedged: p99, in ms", millis(took.at(0.99)), millis(SLOW) / 2.0);
        } else {
            limits.at_least("not hedged: p99, in ms", millis(took.at(0.99)), millis(SLOW));
        }
    }
    Ok(limits.verdict())
}

struct Scene {
    server: Arc<Server>,
    pool: KmsPool,
    principal: Principal,
    key: String,
    ciphertext: Blob,
}

impl Scene {
    async fn new(attempt_timeout: Duration) -> Result<Arc<Self>> {
        let server =
            Server::start(REGIONS.into_iter().fold(KmsLocal::builder(), KmsLocalBuilder::region))?;
        let pool = server.pool().attempt_timeout(attempt_timeout).build()?;
        let principal = Principal::new(server.issue_credentials());
        let key = server.create_multi_region_key(ONE, &[OTHER]);
        let client = pool.client(ONE, &principal).await?;
        let response = client.encrypt().key_id(&key).plaintext(Blob::new([7; 32])).send().await?;
        let ciphertext = response.ciphertext_blob.ok_or("no ciphertext")?;
        Ok(Arc::new(Self { server, pool, principal, key, ciphertext }))
    }

    fn replicas(&self) -> Result<Replicas> {
        Ok(Replicas::new(self.pool.clients(&self.principal), REGIONS)?)
    }

    async fn decrypt(&self, client: Client, region: &str) -> std::result::Result<(), KmsError> {
        let key = self.key.replace(ONE, region);
        client.decrypt().key_id(key).ciphertext_blob(self.ciphertext.clone()).send().await?;
        Ok(())
    }

    /// Decrypts in the region that works.
    async fn measure(self: &Arc<Self>, length: Duration) -> Result<Durations> {
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let scene = Arc::clone(self);
            tasks.spawn(async move {
                let (mut took, began) = (Durations::default(), Instant::now());
                while began.elapsed() < length {
                    let asked = Instant::now();
                    let client = scene.pool.client(OTHER, &scene.principal).await?;
                    scene.decrypt(client, OTHER).await?;
                    took.record(asked.elapsed());
                }
                Result::Ok(took)
            });
        }
        let mut all = Durations::default();
        while let Some(took) = tasks.join_next().await {
            all.merge(&took??);
        }
        Ok(all)
    }

    /// Decrypts in the region that hangs, until the tasks are dropped.
    fn stuck(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for _ in 0..STUCK_TASKS {
            let scene = Arc::clone(self);
            tasks.spawn(async move {
                loop {
                    if let Ok(client) = scene.pool.client(ONE, &scene.principal).await
                        && let Err(error) = scene.decrypt(client, ONE).await
                        && let Some(pause) = error.retry_after()
                    {
                        tokio::time::sleep(pause).await;
                    }
                }
            });
        }
        tasks
    }

    /// How long the first call takes when the first region hangs, how long a later call takes, and
    /// when the region is used again.
    async fn failover(&self) -> Result<[Duration; 3]> {
        let replicas = self.replicas()?;
        let call = async || -> Result<(Duration, bool)> {
            let asked = Instant::now();
            let region = replicas.call(|client, region| async move {
                self.decrypt(client, region.as_str()).await.map(|()| region)
            });
            let is_first = region.await?.as_str() == ONE;
            Ok((asked.elapsed(), is_first))
        };
        while !call().await?.1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.server.faults(ONE).hang(true);
        let (first, _) = call().await?;
        let (mut later, mut is_open) = (Durations::default(), false);
        while later.count() < 100 {
            let (took, _) = call().await?;
            is_open |= took < ATTEMPT_TIMEOUT;
            if is_open {
                later.record(took);
            }
        }
        self.server.faults(ONE).clear();
        let ended = Instant::now();
        while !call().await?.1 {}
        Ok([first, later.at(0.5), ended.elapsed()])
    }

    /// Decrypts with 16 calls at a time.
    async fn decrypt_often(&self, replicas: &Replicas, calls: usize) -> Result<Durations> {
        let call = |_| async move {
            let asked = Instant::now();
            replicas
                .call(|client, region| async move { self.decrypt(client, region.as_str()).await })
                .await?;
            Result::Ok(asked.elapsed())
        };
        let all = stream::iter(0..calls).map(call).buffer_unordered(16);
        let mut took = Durations::default();
        all.try_for_each(|one| {
            took.record(one);
            std::future::ready(Ok(()))
        })
        .await?;
        Ok(took)
    }
}
