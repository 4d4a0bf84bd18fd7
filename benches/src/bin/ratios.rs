//! How many times the primitives' floor a warm `encrypt` and `decrypt` cost, and the lines that
//! this is held to.
//!
//! Each row alternates floor and library in rounds and takes the medians, so that what else the
//! machine does falls on both. The floor of a row is that of the faster backend, found in the same
//! rounds. `--quick` takes fewer rounds. The line of a file of 1 GiB is `file`'s.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, hint::black_box, process::ExitCode, time::Duration};

use benches::{
    FRAME_LENGTH, Lines, context, finished,
    floor::{self, Backend, Floor},
    rounds::{Call, alternate, median, repeat, throughputs, time},
    warm, warm_for,
};
use clap::Parser;
use envelope::{AlgorithmSuite, EncryptionContext, Envelope, PreparedContext};
use tokio::time::Instant;

const MEGABYTE: usize = 1_048_576;

#[derive(Parser)]
#[command(about = "Prints what sealing and opening cost, as ratios to the bare primitives")]
struct Args {
    /// Finish within a minute, with rougher figures
    #[arg(long)]
    quick: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let quick = Args::parse().quick;
    let rounds = if quick { 201 } else { 1_501 };
    let client = Client::new(warm().await?)?;
    let mut lines = Lines::default();
    println!(
        "0x0478, 4096-byte frames, warm cache, one thread; median of {rounds} alternating rounds, in microseconds and over the floor"
    );
    println!(
        "{:>9}  {:>9} {:>9} {:>9} {:<10} {:>8} {:>6}   {:>9} {:>9} {:<10} {:>6}",
        "bytes",
        "prepared",
        "encrypt",
        "floor",
        "by",
        "prepared",
        "ratio",
        "decrypt",
        "floor",
        "by",
        "ratio"
    );
    for size in [16, 256, 1024, 4096, 65_536, MEGABYTE] {
        client.beside_floor(size, rounds, &mut lines)?;
    }
    let long_frames = Client::new(warm_for(AlgorithmSuite::default(), Some(65_536)).await?)?;
    long_frames.beside_one_call(rounds, &mut lines)?;
    client.two_threads(quick, &mut lines)?;
    client.waiting(rounds, &mut lines).await;
    println!();
    Ok(lines.verdict())
}

/// A warm client, and what it seals for.
struct Client {
    envelope: Envelope,
    context: EncryptionContext,
    prepared: PreparedContext,
}

impl Client {
    fn new(envelope: Envelope) -> Result<Self, envelope::Error> {
        let context = context()?;
        let prepared = envelope.prepare(&context)?;
        Ok(Self { envelope, context, prepared })
    }

    fn plain(&self, plaintext: &[u8]) {
        drop(black_box(finished(self.envelope.encrypt(black_box(plaintext), &self.context))));
    }

    fn prepared(&self, plaintext: &[u8]) {
        drop(black_box(finished(self.prepared.encrypt(black_box(plaintext)))));
    }

    fn open(&self, message: &[u8]) {
        drop(black_box(finished(
            self.prepared.envelope().decrypt(black_box(message), self.prepared.context()),
        )));
    }

    /// A row of the table, and the lines for its size.
    fn beside_floor(
        &self,
        size: usize,
        rounds: usize,
        lines: &mut Lines,
    ) -> Result<(), envelope::Error> {
        let plaintext = vec![0; size];
        let message = self.prepared.try_encrypt(&plaintext)?;
        let floors = Backend::ALL.map(usual_floor);
        let sealed = floors.each_ref().map(|floor| floor.seal(&plaintext));
        let repeat = repeat(time(1, || self.plain(&plaintext)));
        let seals: [&mut dyn FnMut(); 4] = [
            &mut || self.prepared(&plaintext),
            &mut || self.plain(&plaintext),
            &mut || drop(black_box(floors[0].seal(black_box(&plaintext)))),
            &mut || drop(black_box(floors[1].seal(black_box(&plaintext)))),
        ];
        let [prepared, plain, aws_lc, rust_crypto] = alternate(rounds, repeat, seals);
        let (floor, of) = faster([aws_lc, rust_crypto]);
        let opens: [&mut dyn FnMut(); 3] = [
            &mut || drop(black_box(floors[0].open(black_box(&sealed[0])))),
            &mut || drop(black_box(floors[1].open(black_box(&sealed[1])))),
            &mut || self.open(&message),
        ];
        let [aws_lc, rust_crypto, open] = alternate(rounds, repeat, opens);
        let (open_floor, open_of) = faster([aws_lc, rust_crypto]);
        let ratios = [prepared / floor, plain / floor, open / open_floor];
        let micros =
            [prepared, plain, floor, open, open_floor].map(|nanos| format!("{:.2}", nanos / 1e3));
        println!(
            "{size:>9}  {:>9} {:>9} {:>9} {:<10} {:>8.2} {:>6.2}   {:>9} {:>9} {:<10} {:>6.2}",
            micros[0],
            micros[1],
            micros[2],
            of,
            ratios[0],
            ratios[1],
            micros[3],
            micros[4],
            open_of,
            ratios[2]
        );
        match size {
            1024 => {
                lines.at_most("1 KiB, prepared: encrypt over floor", ratios[0], 1.15);
                lines.at_most("1 KiB, plain: encrypt over floor", ratios[1], 1.30);
                lines.at_most("1 KiB: decrypt over floor", ratios[2], 1.20);
            }
            MEGABYTE => {
                lines.at_most("1 MiB: encrypt over floor", ratios[1], 1.10);
                lines.at_most("1 MiB: decrypt over floor", ratios[2], 1.10);
            }
            _ => {}
        }
        Ok(())
    }

    /// A megabyte in long frames, against one AES-GCM call over all of it.
    fn beside_one_call(&self, rounds: usize, lines: &mut Lines) -> Result<(), envelope::Error> {
        let plaintext = vec![0; MEGABYTE];
        let message = self.prepared.try_encrypt(&plaintext)?;
        let sealed = floor::seal_at_once(&plaintext);
        let [seal, seal_at_once, open, open_at_once] = alternate(
            rounds,
            repeat(time(1, || self.plain(&plaintext))),
            [
                &mut || self.plain(&plaintext),
                &mut || drop(black_box(floor::seal_at_once(black_box(&plaintext)))),
                &mut || self.open(&message),
                &mut || drop(black_box(floor::open_at_once(black_box(&sealed)))),
            ],
        );
        println!(
            "\n1 MiB in 65536-byte frames, against one AES-GCM call over a copy of it, in microseconds"
        );
        println!(
            "seal {:.2}, one call {:.2};  open {:.2}, one call {:.2}",
            seal / 1e3,
            seal_at_once / 1e3,
            open / 1e3,
            open_at_once / 1e3
        );
        lines.at_most("1 MiB, 64 KiB frames: encrypt over one call", seal / seal_at_once, 1.10);
        lines.at_most("1 MiB, 64 KiB frames: decrypt over one call", open / open_at_once, 1.10);
        Ok(())
    }

    /// What a second thread brings on one client and one entry; beside it, what it brings to the
    /// floor, which is what the machine has to give.
    fn two_threads(&self, quick: bool, lines: &mut Lines) -> Result<(), envelope::Error> {
        let (rounds, span) =
            if quick { (15, Duration::from_millis(80)) } else { (61, Duration::from_millis(100)) };
        println!(
            "\ntwo threads over one, on one client and one entry; median of {rounds} alternating rounds"
        );
        println!(
            "{:>9}  {:<6} {:>12} {:>12} {:>6} {:>10}",
            "bytes", "", "a second", "with two", "times", "the floor"
        );
        let floor = usual_floor(Backend::AwsLc);
        for (size, name) in [(256, "256 B"), (MEGABYTE, "1 MiB")] {
            let plaintext = vec![0; size];
            let message = self.prepared.try_encrypt(&plaintext)?;
            let sealed = floor.seal(&plaintext);
            let seal = || self.plain(&plaintext);
            let floor_seal = || drop(black_box(floor.seal(black_box(&plaintext))));
            let open = || self.open(&message);
            let floor_open = || drop(black_box(floor.open(black_box(&sealed))));
            let pairs: [(&str, &Call, &Call); 2] =
                [("encrypt", &seal, &floor_seal), ("decrypt", &open, &floor_open)];
            for (what, library, floor) in pairs {
                let [one, two, floor_one, floor_two] =
                    throughputs(rounds, span, [&[library], &[library; 2], &[floor], &[floor; 2]]);
                let times = median(two.iter().zip(&one).map(|(two, one)| two / one).collect());
                let floor_times =
                    median(floor_two.iter().zip(&floor_one).map(|(two, one)| two / one).collect());
                let (one, two) = (median(one), median(two));
                println!(
                    "{size:>9}  {what:<7}{one:>12.0} {two:>12.0} {times:>6.2} {floor_times:>10.2}"
                );
                lines.at_least(format!("{name}: {what}, two threads over one"), times, 1.9);
            }
        }
        Ok(())
    }

    /// What `encrypt(…).await` costs over `try_encrypt`, both inside one runtime.
    async fn waiting(&self, rounds: usize, lines: &mut Lines) {
        const CALLS: u32 = 100;
        let plaintext = [7; 16];
        let (mut waits, mut tries, mut differences) = (vec![], vec![], vec![]);
        for _ in 0..rounds {
            let started = Instant::now();
            for _ in 0..CALLS {
                drop(black_box(self.envelope.encrypt(black_box(&plaintext), &self.context).await));
            }
            let wait = started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS);
            let no_wait = time(CALLS, || {
                drop(black_box(self.envelope.try_encrypt(black_box(&plaintext), &self.context)));
            });
            waits.push(wait);
            tries.push(no_wait);
            differences.push(wait - no_wait);
        }
        let difference = median(differences);
        println!(
            "\n16 bytes: encrypt().await {:.0} ns, try_encrypt() {:.0} ns, median of the differences {difference:.1} ns",
            median(waits),
            median(tries)
        );
        lines.at_most("encrypt().await over try_encrypt(), in nanoseconds", difference, 50.0);
    }
}

fn usual_floor(backend: Backend) -> Floor {
    Floor::new(backend, AlgorithmSuite::default(), Some(FRAME_LENGTH as usize))
}

/// The floor: the time of the faster backend, and its name.
fn faster([aws_lc, rust_crypto]: [f64; 2]) -> (f64, &'static str) {
    if aws_lc <= rust_crypto {
        (aws_lc, Backend::AwsLc.name())
    } else {
        (rust_crypto, Backend::RustCrypto.name())
    }
}
