//! How long a key that KMS no longer allows goes on being used, beside the documented bound, and
//! that after `invalidate_key` it is not used at all.
//!
//! The data keys are new when the key is revoked, which is the worst case. A use counts by when it
//! began.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use benches::{
    context,
    kms::{Kms, REGION, cache},
    verdict,
};
use clap::Parser;
use envelope::{Envelope, materials::CachingBuilder};
use futures_util::future::{try_join, try_join_all};
use kms_local::KmsLocal;
use kms_pool::Principal;
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, sleep},
};

const MAX_AGE: Duration = Duration::from_secs(2);
const STALE: Duration = Duration::from_secs(2);
/// How long the clients go on before the key is revoked.
const LEAD: Duration = Duration::from_millis(50);
/// How long they go on past the bound.
const WATCH: Duration = Duration::from_secs(1);
const TASKS: usize = 8;

#[derive(Parser)]
#[command(about = "Revokes a key under clients that use it, and prints when they used it last")]
struct Args {
    /// A quarter of the invalidations
    #[arg(long)]
    quick: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let invalidations = if Args::parse().quick { 100 } else { 400 };
    println!("Time from the revocation to the last success; max_age {MAX_AGE:?}:\n");
    println!(
        "{:>32}  {:>13}  {:>15}  {:>9}  {:>9}  {:>7}",
        "", "refresh_ahead", "serve_stale_for", "encrypt", "decrypt", "bound"
    );
    let rows = try_join_all(settings().map(Row::measure)).await?;
    for row in &rows {
        println!("{row}");
    }
    let met = rows.iter().filter(|row| row.is_met()).count();

    let uses = invalidate(invalidations).await?;
    println!("\ninvalidate_key, {invalidations} times under {TASKS} tasks that seal: {uses}\n");
    let figures = format!(
        "{met} of {} settings within their bound; {} uses of an old data key after invalidate_key",
        rows.len(),
        uses.after_return
    );
    Ok(verdict(met == rows.len() && uses.after_return == 0, figures))
}

/// How a key is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Revocation {
    Disabled,
    AccessDenied,
    /// Disabled, and from then on KMS is out of reach, so that nobody is told.
    DisabledUnseen,
}

/// How a key is revoked, and what the caches are set to.
#[derive(Debug, Clone, Copy)]
struct Setting {
    revocation: Revocation,
    refresh_ahead: bool,
    stale: Duration,
}

fn settings() -> impl Iterator<Item = Setting> {
    let revocations = [Revocation::Disabled, Revocation::AccessDenied, Revocation::DisabledUnseen];
    let caches = [(true, Duration::ZERO), (false, Duration::ZERO), (true, STALE), (false, STALE)];
    revocations.into_iter().flat_map(move |revocation| {
        caches.map(|(refresh_ahead, stale)| Setting { revocation, refresh_ahead, stale })
    })
}

impl Setting {
    /// What the documentation of `CachingMaterialsManager` promises: a refusal is not an outage.
    fn bound(self) -> Duration {
        match self.revocation {
            Revocation::Disabled | Revocation::AccessDenied => MAX_AGE,
            Revocation::DisabledUnseen => MAX_AGE + self.stale,
        }
    }

    fn revoke(self, kms: &Kms) -> Result<(), Box<dyn Error>> {
        match self.revocation {
            Revocation::Disabled => kms.server.disable_key(REGION, kms.key())?,
            Revocation::AccessDenied => kms.faults().deny_access(true),
            Revocation::DisabledUnseen => {
                kms.faults().connection_resets(1.0);
                kms.server.disable_key(REGION, kms.key())?;
            }
        }
        Ok(())
    }
}

/// When a key was used last after its revocation.
struct Row {
    setting: Setting,
    encrypt: Duration,
    decrypt: Duration,
}

impl Row {
    async fn measure(setting: Setting) -> Result<Self, Box<dyn Error>> {
        let set = |builder: CachingBuilder| {
            let builder = builder.max_age(MAX_AGE).serve_stale_for(setting.stale);
            builder.refresh_ahead(setting.refresh_ahead)
        };
        // One attempt: between several the SDK pauses for longer than these data keys live.
        let principal = |server: &KmsLocal| Principal::new(server.issue_credentials());
        let kms =
            Kms::start_with(principal, |pool| pool.max_attempts(1), cache(100, 16), set).await?;
        let (sealer, opener) = (kms.envelope.clone(), kms.client(&cache(100, 16), set)?);
        let context = Arc::new(context()?);
        let message = Arc::new(sealer.encrypt(b"x", &context).await?);
        kms.cache.clear();

        let until = Instant::now() + LEAD + setting.bound() + WATCH;
        let sealing = Arc::clone(&context);
        let seal = last_success(until, move || {
            let (envelope, context) = (sealer.clone(), Arc::clone(&sealing));
            async move { envelope.encrypt(b"x", &context).await.is_ok() }
        });
        let open = last_success(until, move || {
            let (envelope, message, context) =
                (opener.clone(), Arc::clone(&message), Arc::clone(&context));
            async move { envelope.decrypt(&message, &context).await.is_ok() }
        });
        sleep(LEAD).await;
        setting.revoke(&kms)?;
        let revoked = Instant::now();
        let (last_sealed, last_opened) = try_join(seal, open).await?;
        let since = |last: Option<Instant>| last.map_or(Duration::ZERO, |last| last - revoked);
        Ok(Self { setting, encrypt: since(last_sealed), decrypt: since(last_opened) })
    }

    fn is_met(&self) -> bool {
        self.encrypt.max(self.decrypt) < self.setting.bound()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, encrypt, decrypt } = self;
        let what = match setting.revocation {
            Revocation::Disabled => "disabled",
            Revocation::AccessDenied => "access denied",
            Revocation::DisabledUnseen => "disabled, and KMS out of reach",
        };
        let (ahead, stale) = (
            if setting.refresh_ahead { "on" } else { "off" },
            format!("{} s", setting.stale.as_secs()),
        );
        let seconds = |duration: Duration| format!("{:.3} s", duration.as_secs_f64());
        let (encrypt, decrypt, bound) =
            (seconds(*encrypt), seconds(*decrypt), seconds(setting.bound()));
        write!(f, "{what:>32}  {ahead:>13}  {stale:>15}  {encrypt:>9}  {decrypt:>9}  {bound:>7}")
    }
}

/// Calls about once a millisecond; tells when the last call began that succeeded.
fn last_success<C>(
    until: Instant,
    call: impl Fn() -> C + Send + 'static,
) -> JoinHandle<Option<Instant>>
where
    C: Future<Output = bool> + Send,
{
    tokio::spawn(async move {
        let mut last = None;
        while Instant::now() < until {
            let began = Instant::now();
            if call().await {
                last = Some(began);
            }
            sleep(Duration::from_millis(1)).await;
        }
        last
    })
}

/// What was sealed under which data keys while they were invalidated again and again.
struct Uses {
    messages: u64,
    data_keys: usize,
    /// Messages begun after an invalidation had returned, under a data key that had sealed one
    /// before it was called.
    after_return: u64,
}

impl fmt::Display for Uses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, data_keys, after_return } = self;
        write!(
            f,
            "{messages} messages under {data_keys} data keys, {after_return} of them under an old one"
        )
    }
}

/// How many invalidations were called, and how many had returned.
#[derive(Debug, Default)]
struct Progress {
    called: AtomicU64,
    returned: AtomicU64,
    done: AtomicBool,
}

/// Messages by their wrapped data key, and by how many invalidations had returned when they were
/// begun and had been called when they were done.
type Sealed = HashMap<Vec<u8>, HashMap<(u64, u64), u64>>;

/// Has tasks seal as fast as they can, and invalidates the key under them.
async fn invalidate(invalidations: u64) -> Result<Uses, Box<dyn Error>> {
    // Short-lived data keys, so that invalidations meet requests under way, too.
    let kms = Kms::start(cache(100, 16), |builder| builder.max_messages(1_000)).await?;
    let progress = Arc::new(Progress::default());
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(seal(kms.envelope.clone(), Arc::clone(&progress))))
        .collect();
    for _ in 0..invalidations {
        sleep(Duration::from_millis(5)).await;
        progress.called.fetch_add(1, SeqCst);
        kms.cache.invalidate_key(kms.key());
        progress.returned.fetch_add(1, SeqCst);
    }
    sleep(Duration::from_millis(5)).await;
    progress.done.store(true, SeqCst);
    let mut all = Sealed::new();
    for sealed in try_join_all(tasks).await? {
        for (key, messages) in sealed? {
            let total = all.entry(key).or_default();
            for (when, count) in messages {
                *total.entry(when).or_default() += count;
            }
        }
    }
    Ok(Uses {
        messages: all.values().flat_map(HashMap::values).sum(),
        data_keys: all.len(),
        after_return: all.values().map(used_after_return).sum(),
    })
}

async fn seal(envelope: Envelope, progress: Arc<Progress>) -> Result<Sealed, envelope::Error> {
    let (context, mut sealed) = (context()?, Sealed::new());
    while !progress.done.load(SeqCst) {
        let begun = progress.returned.load(SeqCst);
        let message = envelope.encrypt(b"x", &context).await?;
        let done = progress.called.load(SeqCst);
        let messages = sealed.entry(wrapped_data_keys(&message).to_vec()).or_default();
        *messages.entry((begun, done)).or_default() += 1;
        yield_now().await;
    }
    Ok(sealed)
}

/// How often one data key was used by messages begun after an invalidation that came after its
/// first use.
fn used_after_return(messages: &HashMap<(u64, u64), u64>) -> u64 {
    let first_use = messages.keys().map(|(_, done)| *done).min().unwrap_or(0);
    messages.iter().filter(|((begun, _), _)| *begun > first_use).map(|(_, count)| count).sum()
}

/// The serialized encrypted data keys in a message's header (version 2): what tells one data key
/// from another.
fn wrapped_data_keys(message: &[u8]) -> &[u8] {
    let u16_at = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    let start = 1 + 2 + 32 + 2 + u16_at(35);
    let mut at = start + 2;
    for _ in 0..u16_at(start) * 3 {
        at += 2 + u16_at(at);
    }
    &message[start..at]
}
