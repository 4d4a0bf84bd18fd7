//! How fast the `envelope` program seals and opens a file, beside what copies it and the cipher
//! alone.
//!
//! The program syncs the file before it takes its name, so its equal is `cp` and then `sync` of the
//! copy. All alternate in rounds, on a warm page cache, so that what else the machine and the disk
//! do falls on each.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{
    error::Error,
    hint::black_box,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use benches::{
    file::{Place, Ran},
    verdict,
};
use clap::Parser;
use tokio::time::Instant;

/// The least share of the line, in percent.
const LEAST: f64 = 70.0;
/// What the cipher is given at once, in bytes: the most that `openssl speed` gives it unasked.
const BLOCK: usize = 16 * 1024;
const BLOCKS: u32 = 16 * 1024;

#[derive(Parser)]
#[command(about = "Prints how fast the envelope program is, beside cp and the bare cipher")]
struct Args {
    /// 128 MiB and fewer rounds
    #[arg(long)]
    quick: bool,
    /// How large the file is, in MiB
    #[arg(long, value_name = "MIB")]
    size: Option<u64>,
    /// Where the file is made: on the disk that is measured [default: beside this program]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::parse();
    let (rounds, mebibytes) = if args.quick { (5, 128) } else { (9, 1024) };
    let size = args.size.unwrap_or(mebibytes) << 20;
    let own = std::env::current_exe()?;
    let program = own.with_file_name("envelope");
    if !program.exists() {
        return Err(
            format!("no {}: cargo build --release -p kms-envelope-cli", program.display()).into()
        );
    }
    let beside = own.parent().ok_or("a program is in a folder")?;
    let place = Place::new(args.folder.as_deref().unwrap_or(beside), size)?;
    let encrypt = |to: &str| place.envelope(&program, "encrypt", "plain", to);
    let decrypt = || place.envelope(&program, "decrypt", "sealed", "opened");
    let cp = || command("cp", &["plain", "copy"]);
    place.run(&mut [encrypt("sealed"), decrypt()])?;
    if !place.same("plain", "opened")? {
        return Err("what was opened is not what was sealed".into());
    }
    place.remove("opened")?;

    println!("{} MiB, warm page cache; median of {rounds} alternating rounds", size >> 20);
    let (mut copies, mut synced, mut sealed, mut opened, mut floors) =
        (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        copies.push(place.run(&mut [cp()])?);
        place.remove("copy")?;
        synced.push(place.run(&mut [cp(), command("sync", &["copy"])])?);
        place.remove("copy")?;
        sealed.push(place.run(&mut [encrypt("again")])?);
        place.remove("again")?;
        opened.push(place.run(&mut [decrypt()])?);
        place.remove("opened")?;
        floors.push(floor());
    }

    println!("{:<34} {:>7} {:>9} {:>10}", "", "GB/s", "seconds", "peak MiB");
    row("cp", size, copies);
    let disk = row("cp, then sync", size, synced);
    let sealed = row("envelope encrypt", size, sealed);
    let opened = row("envelope decrypt", size, opened);
    let floor = median(floors);
    println!("{:<34} {floor:>7.2}", "AES-256-GCM of AWS-LC, one core");
    match openssl() {
        Some(speed) => println!("{:<34} {speed:>7.2}", "openssl speed -evp aes-256-gcm"),
        None => println!("{:<34} {:>7}", "openssl speed", "none here"),
    }
    let line = disk.min(2.0 * floor);
    let (sealed, opened) = (100.0 * sealed / line, 100.0 * opened / line);
    let bound = if disk < 2.0 * floor { "the disk" } else { "the cipher on two cores" };
    println!("the line is {line:.2} GB/s: {bound}");
    Ok(verdict(
        sealed >= LEAST && opened >= LEAST,
        format_args!(
            "encrypt at {sealed:.0}% of the line, decrypt at {opened:.0}%, at least {LEAST:.0}% wanted"
        ),
    ))
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Prints what the median run took, and gives its GB/s.
fn row(name: &str, size: u64, mut runs: Vec<Ran>) -> f64 {
    runs.sort_by_key(|ran| ran.time);
    let seconds = runs[runs.len() / 2].time.as_secs_f64();
    let memory = runs.iter().map(|ran| ran.memory).max().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (speed, memory) = (size as f64 / seconds / 1e9, memory as f64 / f64::from(1 << 20));
    println!("{name:<34} {speed:>7.2} {seconds:>9.2} {memory:>10.1}");
    speed
}

/// GB/s of the cipher alone.
fn floor() -> f64 {
    let key =
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes are a key"));
    let mut block = vec![0; BLOCK];
    let started = Instant::now();
    for number in 0..BLOCKS {
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&number.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut block)
            .expect("a block is short");
        let _ = black_box(tag);
    }
    let bytes = f64::from(BLOCKS) * f64::from(u32::try_from(BLOCK).expect("a block is short"));
    bytes / started.elapsed().max(Duration::from_nanos(1)).as_secs_f64() / 1e9
}

/// GB/s as `openssl` tells, where it is installed.
fn openssl() -> Option<f64> {
    let arguments =
        ["speed", "-elapsed", "-seconds", "1", "-bytes", "16384", "-evp", "aes-256-gcm"];
    let told = Command::new("openssl").args(arguments).output().ok()?;
    let text = String::from_utf8(told.stdout).ok()?;
    let kilobytes: f64 =
        text.lines().last()?.split_whitespace().last()?.strip_suffix('k')?.parse().ok()?;
    Some(kilobytes / 1e6)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
