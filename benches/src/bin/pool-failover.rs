//! What a region that is out of order does to another one, and how soon another one stands in for
//! it.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, process::ExitCode, sync::Arc, time::Duration};

use aws_sdk_kms::{Client, primitives::Blob};
use benches::{kms::Server, load::Durations, verdict};
use clap::Parser;
use kms_local::KmsLocal;
use kms_pool::{KmsError, KmsPool, Principal, Replicas};
use tokio::{task::JoinSet, time::Instant};

const REGIONS: [&str; 2] = ["us-east-1", "eu-west-1"];
const ONE: &str = REGIONS[0];
const OTHER: &str = REGIONS[1];
/// What most answers take, and what the slow ones take in addition.
const LATENCY: Duration = Duration::from_millis(10);
const SLOW: Duration = Duration::from_secs(1);
const SLOW_SHARE: f64 = 0.05;
const HEDGE_AFTER: Duration = Duration::from_millis(50);
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);
/// Tasks that ask the region that serves, and those that ask the one that hangs.
const TASKS: usize = 4;
const STUCK_TASKS: usize = 64;
const ALLOWED_RATIO: f64 = 1.2;

#[derive(Parser)]
#[command(
    about = "Measures how little a region that hangs disturbs another, how soon another stands in, and what hedging brings"
)]
struct Args {
    /// Less than a minute; what depends on an idle machine is shown and not judged
    #[arg(long)]
    quick: bool,
}

struct Scene {
    server: Server,
    pool: KmsPool,
    principal: Principal,
    key: String,
    ciphertext: Blob,
}

impl Scene {
    async fn set() -> Result<Self, Box<dyn Error>> {
        let builder =
            REGIONS.iter().fold(KmsLocal::builder(), |builder, region| builder.region(*region));
        let server = Server::start(builder).await?;
        let pool =
            KmsPool::builder().trust_root_pem(server.ca_pem()).attempt_timeout(ATTEMPT_TIMEOUT);
        let pool = REGIONS
            .iter()
            .fold(pool, |pool, region| pool.endpoint_url_for(*region, server.endpoint(region)));
        let (pool, principal) = (pool.build()?, Principal::new(server.issue_credentials()));
        let key = server.create_multi_region_key(ONE, &[OTHER]);
        let client = pool.client(ONE, &principal).await?;
        let sealed = client.encrypt().key_id(&key).plaintext(Blob::new([7; 32])).send().await?;
        let ciphertext = sealed.ciphertext_blob.ok_or("no ciphertext")?;
        Ok(Self { server, pool, principal, key, ciphertext })
    }

    fn replicas(&self) -> Result<Replicas, Box<dyn Error>> {
        Ok(Replicas::new(self.pool.clients(&self.principal), REGIONS)?)
    }

    /// Has a region decrypt.
    async fn decrypt(&self, client: Client, region: impl AsRef<str>) -> Result<(), KmsError> {
        let key = self.key.replace(ONE, region.as_ref());
        client.decrypt().key_id(key).ciphertext_blob(self.ciphertext.clone()).send().await?;
        Ok(())
    }

    /// What decrypting takes, one request after the other in each of some tasks.
    async fn measure(
        self: &Arc<Self>,
        region: &'static str,
        length: Duration,
    ) -> Result<Durations, Box<dyn Error>> {
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let scene = Arc::clone(self);
            tasks.spawn(async move {
                let (mut took, began) = (Durations::default(), Instant::now());
                while began.elapsed() < length {
                    let asked = Instant::now();
                    let client = scene.pool.client(region, &scene.principal).await?;
                    scene.decrypt(client, region).await?;
                    took.record(asked.elapsed());
                }
                Ok::<_, KmsError>(took)
            });
        }
        let mut all = Durations::default();
        while let Some(took) = tasks.join_next().await {
            all.merge(&took??);
        }
        Ok(all)
    }

    /// Tasks that ask the region that hangs, over and over, until they are dropped.
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
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let quick = Args::parse().quick;
    let (segments, segment, calls) =
        if quick { (3, Duration::from_secs(2), 300) } else { (12, Duration::from_secs(5), 3_000) };
    let scene = Arc::new(Scene::set().await?);
    let faults = scene.server.faults(ONE);
    scene.server.faults(OTHER).latency(LATENCY);

    println!(
        "A region that hangs beside one that serves: {TASKS} tasks decrypt in {OTHER} (KMS takes {LATENCY:?}) while"
    );
    println!("{STUCK_TASKS} ask {ONE}; {segments} interleaved segments of {segment:?} each way.\n");
    let (mut quiet, mut beside) = (Durations::default(), Durations::default());
    scene.measure(OTHER, Duration::from_millis(500)).await?;
    for _ in 0..segments {
        faults.hang(false);
        quiet.merge(&scene.measure(OTHER, segment).await?);
        faults.hang(true);
        let mut stuck = scene.stuck();
        beside.merge(&scene.measure(OTHER, segment).await?);
        stuck.shutdown().await;
    }
    faults.clear();
    println!("{:>24}  {:>9}  {:>10}  {:>10}", "", "requests", "median", "p99");
    for (name, took) in [("the other is quiet", &quiet), ("the other hangs", &beside)] {
        println!(
            "{name:>24}  {:>9}  {:>10.2?}  {:>10.2?}",
            took.count(),
            took.at(0.5),
            took.at(0.99)
        );
    }
    let ratio = beside.at(0.99).as_secs_f64() / quiet.at(0.99).as_secs_f64();

    println!("\nFailover of a multi-Region key, {ONE} first, attempts of {ATTEMPT_TIMEOUT:?}:\n");
    let replicas = scene.replicas()?;
    let (first, open, back) = failover(&scene, &replicas).await?;
    println!("  the first call when {ONE} hangs      {first:>10.2?}");
    println!("  a call once its circuit is open          {open:>10.2?}   (median)");
    println!("  until {ONE} serves again, after it ended {back:>10.2?}");

    println!(
        "\nHedging: {calls} Decrypts, of which {:.0} % take {SLOW:?} longer in {ONE}; a second region is asked after {HEDGE_AFTER:?}.\n",
        SLOW_SHARE * 100.0
    );
    // Slower than an attempt may take: the wide pool waits for it.
    let scene = Arc::new(Scene::set().await?);
    let patient = Scene {
        pool: patient(&scene.server)?,
        ..Arc::into_inner(scene).ok_or("nobody else has it")?
    };
    for region in REGIONS {
        patient.server.faults(region).latency(LATENCY);
    }
    patient.server.faults(ONE).slow(SLOW_SHARE, SLOW);
    let mut p99 = vec![];
    println!(
        "{:>24}  {:>10}  {:>10}  {:>10}  {:>22}",
        "", "median", "p99", "longest", "requests in each region"
    );
    for (name, replicas) in [
        ("one region at a time", patient.replicas()?),
        ("hedged", patient.replicas()?.hedge_after(HEDGE_AFTER)),
    ] {
        for region in REGIONS {
            patient.server.reset_counters(region);
        }
        let took = decrypt_often(&patient, &replicas, calls).await?;
        let requests = REGIONS.map(|region| patient.server.counters(region).total());
        let requests = format!("{} + {}", requests[0], requests[1]);
        println!(
            "{name:>24}  {:>10.2?}  {:>10.2?}  {:>10.2?}  {requests:>22}",
            took.at(0.5),
            took.at(0.99),
            took.longest()
        );
        p99.push(took.at(0.99));
    }
    println!();
    let calm = quick || ratio < ALLOWED_RATIO;
    let passed = calm
        && first < ATTEMPT_TIMEOUT * 2
        && open < ATTEMPT_TIMEOUT / 5
        && p99[1] < SLOW / 2
        && p99[0] >= SLOW;
    let figures = format!(
        "p99 beside a region that hangs {ratio:.2} times the quiet one (allowed {ALLOWED_RATIO}{}); failover {first:.0?}, then {open:.1?}; \
         p99 of Decrypt {:.0?}, hedged {:.0?}",
        if quick { ", not judged here" } else { "" },
        p99[0],
        p99[1],
    );
    Ok(verdict(passed, figures))
}

/// How long the first call takes when the first region hangs, how long one does later, and when the
/// region is back.
async fn failover(
    scene: &Scene,
    replicas: &Replicas,
) -> Result<(Duration, Duration, Duration), Box<dyn Error>> {
    let call = async || {
        let asked = Instant::now();
        let answered = replicas.call(|client, region| async {
            scene.decrypt(client, region.clone()).await.map(|()| region)
        });
        answered.await.map(|region| (asked.elapsed(), region))
    };
    while call().await?.1.as_str() != ONE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    scene.server.faults(ONE).hang(true);
    let (first, _) = call().await?;
    let mut later = Durations::default();
    let mut opened = false;
    while later.count() < 100 {
        let (took, _) = call().await?;
        opened |= scene.pool.stats().circuits_opened > 1 || took < ATTEMPT_TIMEOUT;
        if opened {
            later.record(took);
        }
    }
    scene.server.faults(ONE).clear();
    let ended = Instant::now();
    while call().await?.1.as_str() != ONE {}
    Ok((first, later.at(0.5), ended.elapsed()))
}

async fn decrypt_often(
    scene: &Scene,
    replicas: &Replicas,
    calls: usize,
) -> Result<Durations, Box<dyn Error>> {
    let calls = (0..calls).map(|_| async {
        let asked = Instant::now();
        replicas
            .call(|client, region| scene.decrypt(client, region))
            .await
            .map(|()| asked.elapsed())
    });
    let mut took = Durations::default();
    let mut calls = futures_util::stream::iter(calls);
    let mut running = futures_util::stream::FuturesUnordered::new();
    loop {
        use futures_util::StreamExt as _;
        while running.len() < 16 {
            let Some(call) = calls.next().await else { break };
            running.push(call);
        }
        match running.next().await {
            Some(done) => took.record(done?),
            None => return Ok(took),
        }
    }
}

/// A pool whose attempt timeout is longer than the slow responses.
fn patient(server: &KmsLocal) -> Result<KmsPool, Box<dyn Error>> {
    let pool = KmsPool::builder().trust_root_pem(server.ca_pem());
    Ok(REGIONS
        .iter()
        .fold(pool, |pool, region| pool.endpoint_url_for(*region, server.endpoint(region)))
        .build()?)
}
