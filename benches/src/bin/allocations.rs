//! Allocations of each warm operation, as the global allocator counts them, and the lines that
//! these are held to.
//!
//! Rust's allocator does not see what AWS-LC allocates in C. `--with-c` runs each operation once
//! and twice as often under Valgrind's memcheck, which sees every `malloc`, and prints the
//! difference.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{alloc::System, env, error::Error, hint::black_box, process::Command, process::ExitCode};

use benches::{Lines, context, finished, warm};
use clap::Parser;
use envelope::{EncryptionContext, Envelope, PreparedContext};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZES: [usize; 3] = [16, 1024, 1_048_576];
const TIMES: u32 = 100;

#[derive(Parser)]
#[command(about = "Prints allocations per warm operation")]
struct Args {
    /// Also count allocations in C, under Valgrind: some twenty seconds for each operation
    #[arg(long)]
    with_c: bool,

    /// Only run this operation, so many times
    #[arg(long, hide = true, num_args = 2)]
    run: Option<Vec<String>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::parse();
    let envelope = warm().await?;
    if let Some([name, times]) = args.run.as_deref() {
        let bed = Bed::new(&envelope, 1024)?;
        let (times, found) = (
            times.parse()?,
            bed.operations().into_iter().find(|operation| operation.name == *name),
        );
        repeat(times, &mut *found.ok_or("no operation is called so")?.call);
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = Lines::default();
    println!(
        "{:<30} {:>9} {:>12} {:>16}",
        "warm operation", "bytes", "allocations", "bytes allocated"
    );
    for size in SIZES {
        let bed = Bed::new(&envelope, size)?;
        for Operation { name, most, mut call } in bed.operations() {
            let (allocations, bytes) = count(&mut *call);
            println!("{name:<30} {size:>9} {allocations:>12.2} {bytes:>16.1}");
            lines.at_most(format!("{name} of {size} bytes: allocations"), allocations, most);
        }
    }
    if args.with_c {
        println!("\nwith those in C, of 1024 bytes, as Valgrind counts them");
        for Operation { name, .. } in Bed::new(&envelope, 1024)?.operations() {
            let ((calls, bytes), (more_calls, more_bytes)) =
                (valgrind(name, TIMES)?, valgrind(name, 2 * TIMES)?);
            let each = |less: f64, more: f64| (more - less) / f64::from(TIMES);
            println!(
                "{name:<30} {:>9} {:>12.2} {:>16.1}",
                1024,
                each(calls, more_calls),
                each(bytes, more_bytes)
            );
        }
    }
    println!();
    Ok(lines.verdict())
}

/// What the operations work on.
struct Bed<'a> {
    envelope: &'a Envelope,
    context: EncryptionContext,
    prepared: PreparedContext,
    plaintext: Vec<u8>,
    message: Vec<u8>,
}

/// An operation, and how often it may allocate.
struct Operation<'a> {
    name: &'static str,
    most: f64,
    call: Box<dyn FnMut() + 'a>,
}

impl<'a> Bed<'a> {
    fn new(envelope: &'a Envelope, size: usize) -> Result<Self, envelope::Error> {
        let (context, plaintext) = (context()?, vec![7; size]);
        let (prepared, message) =
            (envelope.prepare(&context)?, envelope.try_encrypt(&plaintext, &context)?);
        Ok(Self { envelope, context, prepared, plaintext, message })
    }

    fn operations(&self) -> Vec<Operation<'_>> {
        let Self { envelope, context, prepared, plaintext, message } = self;
        let operation = |name, most, call| Operation { name, most, call };
        let buffer = || Vec::with_capacity(message.len());
        let (mut message_into, mut plaintext_into, mut in_place) = (buffer(), buffer(), buffer());
        let (mut prepared_message_into, mut prepared_plaintext_into, mut prepared_in_place) =
            (buffer(), buffer(), buffer());
        vec![
            operation(
                "encrypt",
                1.0,
                Box::new(|| done(finished(envelope.encrypt(plaintext, context)))),
            ),
            operation(
                "try_encrypt",
                1.0,
                Box::new(|| done(envelope.try_encrypt(plaintext, context))),
            ),
            operation(
                "prepared encrypt",
                1.0,
                Box::new(|| done(finished(prepared.encrypt(plaintext)))),
            ),
            operation(
                "prepared try_encrypt",
                1.0,
                Box::new(|| done(prepared.try_encrypt(plaintext))),
            ),
            operation(
                "encrypt_into",
                0.0,
                Box::new(move || {
                    message_into.clear();
                    done(finished(envelope.encrypt_into(plaintext, context, &mut message_into)));
                }),
            ),
            operation(
                "prepared try_encrypt_into",
                0.0,
                Box::new(move || {
                    prepared_message_into.clear();
                    done(prepared.try_encrypt_into(plaintext, &mut prepared_message_into));
                }),
            ),
            operation(
                "decrypt",
                1.0,
                Box::new(|| done(finished(envelope.decrypt(message, context)))),
            ),
            operation(
                "try_decrypt",
                1.0,
                Box::new(|| done(envelope.try_decrypt(message, context))),
            ),
            operation(
                "prepared decrypt",
                1.0,
                Box::new(|| {
                    done(finished(prepared.envelope().decrypt(message, prepared.context())))
                }),
            ),
            operation(
                "prepared try_decrypt",
                1.0,
                Box::new(|| done(prepared.envelope().try_decrypt(message, prepared.context()))),
            ),
            operation(
                "decrypt_into",
                0.0,
                Box::new(move || {
                    plaintext_into.clear();
                    done(finished(envelope.decrypt_into(message, context, &mut plaintext_into)));
                }),
            ),
            operation(
                "prepared try_decrypt_into",
                0.0,
                Box::new(move || {
                    prepared_plaintext_into.clear();
                    done(prepared.envelope().try_decrypt_into(
                        message,
                        prepared.context(),
                        &mut prepared_plaintext_into,
                    ));
                }),
            ),
            operation(
                "decrypt_in_place",
                0.0,
                Box::new(move || {
                    in_place.clone_from(message);
                    done(finished(envelope.decrypt_in_place(&mut in_place, context)));
                }),
            ),
            operation(
                "prepared try_decrypt_in_place",
                0.0,
                Box::new(move || {
                    prepared_in_place.clone_from(message);
                    done(
                        prepared
                            .envelope()
                            .try_decrypt_in_place(&mut prepared_in_place, prepared.context()),
                    );
                }),
            ),
        ]
    }
}

fn done<T>(outcome: T) {
    drop(black_box(outcome));
}

/// Allocations and their bytes, of one call.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn count(call: &mut dyn FnMut()) -> (f64, f64) {
    repeat(TIMES, call);
    let region = Region::new(ALLOCATOR);
    repeat(TIMES, call);
    let change = region.change();
    let each = |count: usize| count as f64 / f64::from(TIMES);
    let grown = change.bytes_reallocated.max(0).unsigned_abs();
    (each(change.allocations + change.reallocations), each(change.bytes_allocated + grown))
}

fn repeat(times: u32, call: &mut dyn FnMut()) {
    (0..times).for_each(|_| call());
}

/// Allocations and their bytes in a process that runs an operation so many times.
fn valgrind(name: &str, times: u32) -> Result<(f64, f64), Box<dyn Error>> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"])
        .arg(env::current_exe()?);
    let output = command.args(["--run", name, &times.to_string()]).output()?;
    let report = String::from_utf8(output.stderr)?;
    let usage = report
        .lines()
        .find_map(|line| line.split_once("total heap usage: "))
        .ok_or(report.clone())?
        .1;
    let mut numbers = usage.split(' ').filter_map(|word| word.replace(',', "").parse::<f64>().ok());
    let (calls, _frees, bytes) = (numbers.next(), numbers.next(), numbers.next());
    Ok(calls.zip(bytes).ok_or("Valgrind counts allocations and bytes")?)
}
