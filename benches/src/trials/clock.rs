//! A wall clock that jumps under a client, by two hours in either direction.
//!
//! The client is a separate process under libfaketime; the server, this process, keeps the true
//! time. Monotonic clocks are not changed.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    env,
    error::Error,
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use aws_sdk_kms::types::DataKeySpec;
use kms_local::{Counters, KmsLocal};
use kms_pool::{Credentials, KmsPool, Principal, Role};
use tokio::time::sleep;

use crate::{
    Lines,
    kms::{REGION, Server},
    trials::{Fared, HEAD, Trial, count, new_runtime},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const ROLE: &str = "arn:aws:iam::000000000000:role/payments";
/// The program starts itself with this subcommand, as the client.
pub const CLIENT: &str = "clock-client";

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

/// Runs the trial.
///
/// # Errors
///
/// If the server or the client cannot start, or libfaketime is not installed.
pub fn run(quick: bool) -> Trial {
    let length = Duration::from_secs(if quick { 1 } else { 5 });
    let server = KmsLocal::builder().region(REGION).sts();
    let server = futures_executor::block_on(Server::start(server))?;
    let folder = tempfile::tempdir()?;
    let clock = folder.path().join("clock");
    set(&clock, "+0")?;
    let mut client = Client::start(&server, folder.path(), &clock)?;
    // Wait until it has its first session.
    while server.counters(REGION).total() < 20 {
        if client.process.try_wait()?.is_some() {
            return Err("the client ended at once".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let maps = fs::read_to_string(format!("/proc/{}/maps", client.process.id()))?;
    if !maps.contains("libfaketime") {
        return Err("the trial could not be run: the client has the true time".into());
    }
    let (mut lines, mut fewest) = (Lines::default(), u64::MAX);
    println!("{:>28}  requests  refused by KMS  by STS  failed", "the client's clock");
    for (name, step) in STEPS {
        let before = [server.counters(REGION), server.sts_counters()];
        let failed = client.failed.load(Relaxed);
        match step {
            Step::Set(time) => set(&clock, time)?,
            Step::Expire => server.expire_sessions(),
            Step::StsFails => server.sts_faults().internal_errors(1.0),
        }
        thread::sleep(length);
        server.sts_faults().clear();
        let after = [server.counters(REGION), server.sts_counters()];
        let failed = client.failed.load(Relaxed) - failed;
        let [kms, sts] = [0, 1].map(|of| refused(&after[of]) - refused(&before[of]));
        let requests = after[0].total() - before[0].total();
        println!("{name:>28}  {requests:>8}  {kms:>14}  {sts:>6}  {failed:>6}");
        lines.at_most(format!("{name}: attempts that KMS refused"), count(kms), 1.0);
        if !matches!(step, Step::StsFails) {
            lines.at_most(format!("{name}: attempts that STS refused"), count(sts), 1.0);
        }
        lines.at_most(format!("{name}: failed operations"), count(failed), 0.0);
        fewest = fewest.min(requests);
    }
    println!("\n{HEAD}\n{}\n", client.end()?);
    lines.at_least("requests of each step", count(fewest), 20.0);
    Ok(lines.verdict())
}

/// The client's process.
struct Client {
    process: Child,
    /// The number of failed operations so far.
    failed: Arc<AtomicU64>,
    /// Reads the client's output; ends with the last line.
    reader: thread::JoinHandle<String>,
}

/// The client prints this after a failed operation.
const FAILED: &str = "failed";

impl Client {
    fn start(server: &KmsLocal, folder: &Path, clock: &Path) -> Outcome<Self> {
        let authority = folder.join("authority.pem");
        fs::write(&authority, server.ca_pem())?;
        let base = server.issue_credentials();
        let sts = server.sts_endpoint().ok_or("no STS was started")?;
        let mut process = Command::new(env::current_exe()?)
            .arg(CLIENT)
            .args([server.endpoint(REGION), sts, &server.create_key(REGION)])
            .args([base.access_key_id(), base.secret_access_key()])
            .arg(authority)
            .env("LD_PRELOAD", faketime()?)
            .env("FAKETIME_TIMESTAMP_FILE", clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (said, failed) = (process.stdout.take().ok_or("no output")?, Arc::default());
        let counted: Arc<AtomicU64> = Arc::clone(&failed);
        let reader = thread::spawn(move || {
            let mut last = String::new();
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                counted.fetch_add(u64::from(line == FAILED), Relaxed);
                last = line;
            }
            last
        });
        Ok(Self { process, failed, reader })
    }

    /// Ends the client; returns its summary of all operations.
    fn end(mut self) -> Outcome<String> {
        // The client stops when its input ends.
        drop(self.process.stdin.take());
        self.process.wait()?;
        self.reader.join().map_err(|_| "the reader panicked".into())
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

fn faketime() -> Outcome<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu/faketime",
        "/usr/lib/aarch64-linux-gnu/faketime",
        "/usr/lib64/faketime",
        "/usr/lib/faketime",
    ];
    let mut files = folders.iter().map(|folder| Path::new(folder).join("libfaketimeMT.so.1"));
    let found = files.find(|file| file.exists());
    Ok(found.ok_or("the trial could not be run: install Debian's package `faketime`")?)
}

/// The client: sends one request after another until its input ends, and prints their outcomes.
///
/// # Errors
///
/// If the settings are not the ones that [`run`] passes.
pub fn run_client(settings: &[String]) -> Outcome<()> {
    let [endpoint, sts, key, id, secret, authority] = settings else {
        return Err("expected six settings".into());
    };
    let authority = fs::read(authority)?;
    let base = Principal::new(Credentials::new(id, secret, None, None, "trial"));
    let role = Role::new(ROLE, REGION).endpoint_url(sts).trust_root_pem(authority.clone());
    let principal = role.assumed_by(&base)?;
    let pool = KmsPool::builder().endpoint_url(endpoint).trust_root_pem(authority).build()?;
    let ended = Arc::<AtomicBool>::default();
    let input = Arc::clone(&ended);
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut vec![]);
        input.store(true, Relaxed);
    });
    let fared = new_runtime()?.block_on(async {
        let mut fared = Fared::default();
        while !ended.load(Relaxed) {
            let request = async {
                let client = pool.client(REGION, &principal).await?;
                let request = client.generate_data_key().key_id(key);
                request.key_spec(DataKeySpec::Aes256).send().await.map_err(Into::into)
            };
            let failed = fared.failed;
            fared.note::<_, kms_pool::KmsError>(request).await;
            if fared.failed > failed {
                println!("{FAILED}");
            }
            sleep(Duration::from_millis(2)).await;
        }
        fared
    });
    println!("{fared}");
    Ok(())
}
