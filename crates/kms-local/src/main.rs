//! The `kms-local` program: see `kms-local --help`.

#![forbid(unsafe_code)]

use std::{
    env,
    error::Error,
    fs::{self, File},
    io::{self, Write as _},
    iter,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    time::Duration,
};

use clap::Parser;
use kms_local::{KmsLocal, KmsLocalBuilder};
use tokio::signal;

const ACCESS_KEY_ID: &str = "KMS_LOCAL_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "KMS_LOCAL_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "KMS_LOCAL_SESSION_TOKEN";

const AFTER_HELP: &str = "\
Environment:
  KMS_LOCAL_ACCESS_KEY_ID, KMS_LOCAL_SECRET_ACCESS_KEY
          The access key to accept. If neither is set, one is created and printed
  KMS_LOCAL_SESSION_TOKEN
          The session token of the access key, which makes it a session

To use it from an AWS client, set AWS_ENDPOINT_URL_KMS to the printed URL, AWS_CA_BUNDLE to the
CA file, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

Output, one line each:
  endpoint REGION URL
  sts URL
  admin URL
  ca-file PATH
  key REGION ALIAS ARN
  access-key-id ID          only if one was created
  secret-access-key SECRET  only if one was created
  ready

It stops on Ctrl-C and on SIGTERM.";

/// An AWS KMS on your machine, for examples and tests. NOT FOR PRODUCTION: it stores keys in the
/// clear, in memory or in a file, allows every access key every operation, and its admin endpoint
/// has no authentication. It listens on 127.0.0.1 only.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Options {
    /// Region to serve (repeatable)
    #[arg(long = "region", value_name = "REGION", default_value = "us-east-1")]
    regions: Vec<String>,

    /// Port of the first region; each further region uses the next port. 0 picks free ports
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// Directory in which keys and aliases survive a restart [default: in memory only]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,

    /// Account in ARNs, twelve digits
    #[arg(long, default_value = "000000000000")]
    account: String,

    /// Use plain HTTP instead of TLS
    #[arg(long)]
    http: bool,

    /// PEM file to write the certificate authority to; each start creates a new one
    #[arg(long, value_name = "PATH", conflicts_with = "http")]
    ca_file: Option<PathBuf>,

    /// Also serve an STS on a free port, so that clients can assume roles
    #[arg(long)]
    sts: bool,

    /// Simulated network round trip in milliseconds, 0 to 2000
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u64).range(..=2000))]
    round_trip_ms: u64,

    /// Port of the admin endpoint for counters and faults; 0 picks a free port [default: none]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,

    /// Create a key with this alias (`alias/...`) in each region, unless it exists (repeatable)
    #[arg(long = "create-key", value_name = "ALIAS")]
    aliases: Vec<String>,

    /// Create a multi-Region key with this alias (`alias/...`), unless it exists (repeatable). Its
    /// primary key is in the first region, with a replica in each other region
    #[arg(long = "create-multi-region-key", value_name = "ALIAS")]
    multi_region_aliases: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let stop = stop_signal()?;
    let kms = builder(&options)?.start().await?;
    let mut out = io::stdout();
    for region in &options.regions {
        writeln!(out, "endpoint {region} {}", kms.endpoint(region))?;
    }
    if let Some(sts) = kms.sts_endpoint() {
        writeln!(out, "sts {sts}")?;
    }
    if let Some(admin) = kms.admin_endpoint() {
        writeln!(out, "admin {admin}")?;
    }
    if let Some(path) = &options.ca_file {
        write_atomically(path, kms.ca_pem())?;
        writeln!(out, "ca-file {}", path.display())?;
    }
    for region in &options.regions {
        for alias in &options.aliases {
            writeln!(out, "key {region} {alias} {}", kms.ensure_alias(region, alias)?)?;
        }
    }
    let regions: Vec<_> = options.regions.iter().map(String::as_str).collect();
    for alias in &options.multi_region_aliases {
        for (region, key) in regions.iter().zip(kms.ensure_multi_region_alias(&regions, alias)?) {
            writeln!(out, "key {region} {alias} {key}")?;
        }
    }
    grant_access(&kms, &mut out)?;
    writeln!(out, "ready")?;

    stop.await;
    kms.shutdown().await;
    Ok(())
}

fn builder(options: &Options) -> Result<KmsLocalBuilder, Box<dyn Error>> {
    let round_trip_time = Duration::from_millis(options.round_trip_ms);
    let mut builder =
        KmsLocal::builder().account(&options.account).round_trip_time(round_trip_time);
    for (offset, region) in (0..).zip(&options.regions) {
        let port = match options.port {
            0 => 0,
            first => first
                .checked_add(offset)
                .ok_or("invalid --port: too high for this number of regions")?,
        };
        builder = builder.region_on_port(region, port);
    }
    if let Some(directory) = &options.data_dir {
        builder = builder.data_dir(directory);
    }
    if options.http {
        builder = builder.plaintext_http();
    }
    if options.sts {
        builder = builder.sts();
    }
    if let Some(port) = options.admin_port {
        builder = builder.admin(port);
    }
    Ok(builder)
}

/// Accepts the access key in the environment, or creates one and prints it.
fn grant_access(kms: &KmsLocal, out: &mut impl io::Write) -> Result<(), Box<dyn Error>> {
    match (env::var(ACCESS_KEY_ID), env::var(SECRET_ACCESS_KEY)) {
        (Ok(id), Ok(secret)) => {
            kms.accept_credentials(id, secret, env::var(SESSION_TOKEN).ok(), None);
        }
        (Err(env::VarError::NotPresent), Err(env::VarError::NotPresent)) => {
            let created = kms.issue_credentials();
            writeln!(out, "access-key-id {}", created.access_key_id())?;
            writeln!(out, "secret-access-key {}", created.secret_access_key())?;
        }
        _ => {
            return Err(format!(
                "invalid environment: set both {ACCESS_KEY_ID} and {SECRET_ACCESS_KEY}"
            )
            .into());
        }
    }
    Ok(())
}

/// Replaces a file. A reader of `path` sees either the old or the new file, never a part of one.
fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", process::id()));
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// Installs signal handlers, and returns a future that ends with the first signal.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = signal::ctrl_c().await;
    })
}

#[expect(clippy::print_stderr, reason = "a program reports errors on standard error")]
fn report(error: &(dyn Error + 'static)) {
    let causes = iter::successors(Some(error), |&error| error.source());
    let text: Vec<_> = causes.map(ToString::to_string).collect();
    eprintln!("kms-local: {}", text.join(": "));
}
