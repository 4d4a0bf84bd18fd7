//! How long another task of the same thread waits while a long message is encrypted or decrypted,
//! compared with what the primitives take for 256 KiB.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use benches::{
    Result, context, done,
    floor::{Backend, Floor},
    limits::Limits,
    warm,
};
use tokio::{task, time::Instant};

use crate::{
    Args,
    load::Durations,
    rounds::{median, time},
};

const LENGTH: usize = 50_000_000;
const SLICE: usize = 262_144;
/// The messages of a batch of the same length.
const MESSAGES: usize = 50_000;

pub(crate) async fn run(args: &Args) -> Result {
    let rounds = args.pick(5, 50);
    let (envelope, context) = (warm()?, context());
    let plaintext = vec![7; LENGTH];
    let batch: Vec<&[u8]> = plaintext.chunks(LENGTH / MESSAGES).collect();
    let message = envelope.encrypt(&plaintext, &context).await?;
    let messages = envelope.encrypt_batch(&batch, &context).await?;

    let (floor, slice) = (Floor::usual(Backend::AwsLc), vec![7; SLICE]);
    let floor = (0..1_000).map(|_| time(1, || done(floor.encrypt(&slice)))).collect();
    let floor = median(floor) / 1e9;
    println!(
        "the primitives take {:.1} µs for 256 KiB; each operation {rounds} times",
        floor * 1e6
    );
    println!("{:<34}    waits       p50       p99     p99.9    p99.99       max", "");

    let mut limits = Limits::default();
    let mut show = |what: &str, waits: &Durations| {
        println!("{what:<34} {:>8} {waits}", waits.count());
        let ratio = waits.at(0.99).as_secs_f64() / floor;
        limits.at_most(format!("{what}: p99 of the waits, x floor"), ratio, 2.0);
    };
    // Into buffers that were used before: new memory takes the system as long again.
    let (mut encrypted, mut decrypted) =
        (Vec::with_capacity(message.len()), Vec::with_capacity(message.len()));
    let work = async || {
        encrypted.clear();
        done(envelope.encrypt_into(&plaintext, &context, &mut encrypted).await);
    };
    show("encrypt_into, 50 MB", &waits(rounds, work).await?);
    let work = async || {
        decrypted.clear();
        done(envelope.decrypt_into(&message, &context, &mut decrypted).await);
    };
    show("decrypt_into, 50 MB", &waits(rounds, work).await?);
    let work = async || done(envelope.encrypt_batch(&batch, &context).await);
    show("encrypt_batch, 50,000 of 1 kB", &waits(rounds, work).await?);
    let work = async || done(envelope.decrypt_batch(&messages, &context).await);
    show("decrypt_batch, 50,000 of 1 kB", &waits(rounds, work).await?);
    let blocking = async || done(envelope.try_encrypt(&plaintext, &context));
    let max = waits(rounds, blocking).await?.max();
    println!("try_encrypt, 50 MB, does not yield: {max:.1?}");
    Ok(limits.verdict())
}

/// How long a task that always wants to run waits while the work is done.
async fn waits(rounds: usize, mut work: impl AsyncFnMut()) -> Result<Durations> {
    let is_done = Arc::<AtomicBool>::default();
    let ends = Arc::clone(&is_done);
    let other = task::spawn(async move {
        let (mut waits, mut last) = (Durations::default(), Instant::now());
        while !ends.load(Relaxed) {
            task::yield_now().await;
            let now = Instant::now();
            waits.record(now - last);
            last = now;
        }
        waits
    });
    task::yield_now().await;
    for _ in 0..rounds {
        work().await;
        // Otherwise, work that does not yield would delay the other task for all rounds together.
        task::yield_now().await;
    }
    is_done.store(true, Relaxed);
    Ok(other.await?)
}
