//! A wall clock that jumps by two hours, in either direction, fails no operation.
//!
//! The client is a separate process under libfaketime. The server, this process, keeps the true
//! time. Monotonic clocks are not changed. Without the test harness, because the program starts
//! itself again as the client.

#![allow(clippy::print_stdout, reason = "it reports like a test")]

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use kms_local::{Counters, KmsLocal};
use kms_pool::{Credentials, KmsError, KmsPool, Principal, Role};
use tokio::runtime::Builder;
use tokio::time::sleep;

type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const REGION: &str = "us-east-1";
const ROLE: &str = "arn:aws:iam::000000000000:role/payments";
/// The program starts itself with this argument, as the client.
const CLIENT: &str = "clock-client";

/// A change of the client's clock, or on the server.
#[derive(Debug, Clone, Copy)]
enum Step {
    Set(&'static str),
    /// The server ends all sessions.
    Expire,
    /// STS fails during this step.
    StsFails,
}

const STEPS: [(&str, Step); 11] = [
    ("2 h ahead", Step::Set("+2h")),
    ("set right", Step::Set("+0")),
    ("2 h behind", Step::Set("-2h")),
    ("set right again", Step::Set("+0")),
    ("2 h ahead once more", Step::Set("+2h")),
    ("session ended while ahead", Step::Expire),
    ("STS out of order while ahead", Step::StsFails),
    ("set right after that", Step::Set("+0")),
    ("session ended after that", Step::Expire),
    ("2 h behind once more", Step::Set("-2h")),
    ("session ended while behind", Step::Expire),
];

fn main() -> Result {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|it| it == CLIENT) {
        return run_client(&arguments[1..]);
    }
    let Some(library) = faketime() else {
        println!("skipped: Debian's package `faketime` is not installed");
        return Ok(());
    };
    let servers = Builder::new_multi_thread().enable_all().build()?;
    let server = servers.block_on(KmsLocal::builder().region(REGION).sts().start())?;
    let folder = tempfile::tempdir()?;
    let clock = folder.path().join("clock");
    set(&clock, "+0")?;
    let mut client = Client::start(&server, folder.path(), &clock, library)?;
    client.sends(&server, 20);
    let maps = fs::read_to_string(format!("/proc/{}/maps", client.process.id()))?;
    assert!(maps.contains("libfaketime"), "the client has the true time");
    println!("{:>28}  refused by KMS  by STS  failed", "the client's clock");
    for (name, step) in STEPS {
        let before = [server.counters(REGION), server.sts_counters()];
        let failed = client.failed.load(Relaxed);
        match step {
            Step::Set(time) => set(&clock, time)?,
            Step::Expire => server.expire_sessions(),
            Step::StsFails => server.sts_faults().internal_errors(1.0),
        }
        client.sends(&server, 100);
        server.sts_faults().clear();
        let after = [server.counters(REGION), server.sts_counters()];
        let failed = client.failed.load(Relaxed) - failed;
        let [kms, sts] = [0, 1].map(|of| refused(&after[of]) - refused(&before[of]));
        println!("{name:>28}  {kms:>14}  {sts:>6}  {failed:>6}");
        assert!(kms <= 1, "{name}: KMS refused {kms} attempts");
        assert!(sts <= 1 || matches!(step, Step::StsFails), "{name}: STS refused {sts} attempts");
        assert_eq!(failed, 0, "{name}: failed operations");
    }
    client.end()
}

/// The client's process.
struct Client {
    process: Child,
    /// The number of failed operations so far.
    failed: Arc<AtomicU64>,
}

impl Client {
    fn start(server: &KmsLocal, folder: &Path, clock: &Path, library: PathBuf) -> Result<Self> {
        let authority = folder.join("authority.pem");
        fs::write(&authority, server.ca_pem())?;
        let base = server.issue_credentials();
        let sts = server.sts_endpoint().ok_or("no STS was started")?;
        let mut process = Command::new(env::current_exe()?)
            .arg(CLIENT)
            .args([server.endpoint(REGION), sts, &server.create_key(REGION)])
            .args([base.access_key_id(), base.secret_access_key()])
            .arg(authority)
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        let failed = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&failed);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(io::Result::ok) {
                println!("{line}");
                counter.fetch_add(1, Relaxed);
            }
        });
        Ok(Self { process, failed })
    }

    /// Waits until it has sent so many more requests.
    fn sends(&mut self, server: &KmsLocal, requests: u64) {
        let wanted = server.counters(REGION).total() + requests;
        while server.counters(REGION).total() < wanted {
            let ended = self.process.try_wait().expect("a child");
            assert!(ended.is_none(), "the client ended: {ended:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(mut self) -> Result {
        // The client stops when its input ends.
        drop(self.process.stdin.take());
        self.process.wait()?;
        Ok(())
    }
}

fn refused(counters: &Counters) -> u64 {
    counters.total() - counters.operations.keys().map(|it| counters.succeeded(it)).sum::<u64>()
}

/// Replaces the file atomically, because the client may read it at any time.
fn set(clock: &Path, time: &str) -> io::Result<()> {
    let next = clock.with_extension("next");
    fs::write(&next, time)?;
    fs::rename(next, clock)
}

fn faketime() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu/faketime",
        "/usr/lib/aarch64-linux-gnu/faketime",
        "/usr/lib64/faketime",
        "/usr/lib/faketime",
    ];
    let mut files = folders.iter().map(|folder| Path::new(folder).join("libfaketimeMT.so.1"));
    files.find(|file| file.exists())
}

/// The client: sends one request after another until its input ends, and prints failures.
fn run_client(settings: &[String]) -> Result {
    let [endpoint, sts, key, id, secret, authority] = settings else {
        return Err("expected six settings".into());
    };
    let authority = fs::read(authority)?;
    let base = Principal::new(Credentials::new(id, secret, None, None, "test"));
    let role = Role::new(ROLE, REGION).endpoint_url(sts).trust_root_pem(authority.clone());
    let principal = role.assumed_by(&base)?;
    let pool = KmsPool::builder().endpoint_url(endpoint).trust_root_pem(authority).build()?;
    let is_over = Arc::<AtomicBool>::default();
    let input = Arc::clone(&is_over);
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut vec![]);
        input.store(true, Relaxed);
    });
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        while !is_over.load(Relaxed) {
            let request = async {
                let client = pool.client(REGION, &principal).await?;
                client.generate_data_key().key_id(key).number_of_bytes(32).send().await?;
                Ok::<_, KmsError>(())
            };
            if let Err(error) = request.await {
                println!("{error:?}");
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    })
}
