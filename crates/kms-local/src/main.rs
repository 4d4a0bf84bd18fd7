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
use kms_local::{Builder, KmsLocal};
use tokio::signal;

const ACCESS_KEY_ID: &str = "KMS_LOCAL_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "KMS_LOCAL_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "KMS_LOCAL_SESSION_TOKEN";

const AFTER_HELP: &str = "\
Environment:
  KMS_LOCAL_ACCESS_KEY_ID, KMS_LOCAL_SECRET_ACCESS_KEY
          The access key to accept. When neither is set, one is made and printed
  KMS_LOCAL_SESSION_TOKEN
          Makes it a session

To reach it, give an AWS client AWS_ENDPOINT_URL_KMS (the URL below), AWS_CA_BUNDLE (the CA file), AWS_REGION,
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

Output, one line each, as soon as it is known:
  endpoint REGION URL
  sts URL
  admin URL
  ca-file PATH
  key REGION ALIAS ARN
  access-key-id ID          only when one was made
  secret-access-key SECRET  only when one was made
  ready

It stops on Ctrl-C and on SIGTERM.";

/// An AWS KMS on this machine, for examples and tests. NOT FOR PRODUCTION: keys lie in memory or in
/// a file in the clear, every access key may do everything, and the admin port asks nobody who they
/// are. It listens on 127.0.0.1 only.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Options {
    /// A region to serve; may be given more than once
    #[arg(long = "region", value_name = "REGION", default_value = "us-east-1")]
    regions: Vec<String>,

    /// Port of the first region, and one more for each further one; 0 has the system choose
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// Directory to keep keys and aliases in, so that they survive a restart
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,

    /// The account in ARNs, twelve digits
    #[arg(long, default_value = "000000000000")]
    account: String,

    /// Speak plain HTTP instead of TLS
    #[arg(long)]
    http: bool,

    /// File to write the certificate authority to, as PEM; a new one is created at each start
    #[arg(long, value_name = "PATH", conflicts_with = "http")]
    ca_file: Option<PathBuf>,

    /// Serve an STS as well, for roles to be assumed; its port is chosen by the system
    #[arg(long)]
    sts: bool,

    /// How far away clients are: milliseconds that a round trip takes, at most 2000
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=2000))]
    round_trip_ms: u64,

    /// Port of the admin endpoint for counters and faults; 0 has the system choose
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,

    /// Make a key with this alias (`alias/...`) in each region unless there is one; may be given
    /// more than once
    #[arg(long = "create-key", value_name = "ALIAS")]
    aliases: Vec<String>,

    /// Make a multi-Region key unless there is one, with its primary in the first region, a replica
    /// in each other one, and this alias (`alias/...`) in all of them; may be given more than once
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

fn builder(options: &Options) -> Result<Builder, Box<dyn Error>> {
    let round_trip_time = Duration::from_millis(options.round_trip_ms);
    let mut builder =
        KmsLocal::builder().account(&options.account).round_trip_time(round_trip_time);
    for (offset, region) in (0..).zip(&options.regions) {
        let port = match options.port {
            0 => 0,
            first => first.checked_add(offset).ok_or("there are not as many ports as regions")?,
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

/// Accepts the access key in the environment, or makes one and prints it.
fn grant_access(kms: &KmsLocal, out: &mut impl io::Write) -> Result<(), Box<dyn Error>> {
    match (env::var(ACCESS_KEY_ID), env::var(SECRET_ACCESS_KEY)) {
        (Ok(id), Ok(secret)) => {
            kms.accept_credentials(id, secret, env::var(SESSION_TOKEN).ok(), None);
        }
        (Err(env::VarError::NotPresent), Err(env::VarError::NotPresent)) => {
            let made = kms.issue_credentials();
            writeln!(out, "access-key-id {}", made.access_key_id())?;
            writeln!(out, "secret-access-key {}", made.secret_access_key())?;
        }
        _ => return Err(format!("set both {ACCESS_KEY_ID} and {SECRET_ACCESS_KEY}").into()),
    }
    Ok(())
}

/// A reader of `path` sees the old file or the new one, never a part of one.
fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", process::id()));
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// Listens for the signals from now on; the future ends with the first of them.
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

#[expect(clippy::print_stderr, reason = "a program says on standard error why it failed")]
fn report(error: &(dyn Error + 'static)) {
    let causes = iter::successors(Some(error), |&error| error.source());
    let text: Vec<_> = causes.map(ToString::to_string).collect();
    eprintln!("kms-local: {}", text.join(": "));
}
