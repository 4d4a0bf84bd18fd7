//! How fast the `envelope` program encrypts and decrypts a file, compared with copies and with the
//! cipher alone. Linux only.
//!
//! The program syncs a file before it renames it, so it is compared with `cp` and `sync`. All
//! alternate in rounds, with a warm page cache.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use benches::{Result, done, limits::Limits};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    Args,
    load::{count, status_bytes},
    rounds::{median, nanos},
};

/// The minimum share of the reachable speed, in percent.
const MIN_SHARE: f64 = 70.0;
/// The bytes of one call of the cipher, as in `openssl speed`.
const BLOCK: usize = 16 * 1024;
const BLOCKS: u32 = 16 * 1024;
/// How much is written at once, in bytes.
const PIECE: usize = 1024 * 1024;

pub(crate) fn run(args: &Args, mebibytes: Option<u64>, folder: Option<&Path>) -> Result {
    let rounds = args.pick(5, 9);
    let size = mebibytes.unwrap_or(args.pick(128, 1024)) << 20;
    let program = env::current_exe()?.with_file_name("envelope");
    if !program.exists() {
        return Err("the program is missing: cargo build --release -p kms-envelope-cli".into());
    }
    let place = Place::new(folder.or(program.parent()).unwrap_or(Path::new(".")), size, &program)?;
    place.run(&[place.envelope("encrypt", "plain", "encrypted")])?;
    place.run(&[
        place.envelope("decrypt", "encrypted", "decrypted"),
        "cmp plain decrypted".into(),
    ])?;

    println!("{} MiB, warm page cache; median of {rounds} alternating rounds", size >> 20);
    let rows = [
        ("cp", vec!["cp plain again".to_owned()]),
        ("cp and sync", vec!["cp plain again".to_owned(), "sync again".to_owned()]),
        ("envelope encrypt", vec![place.envelope("encrypt", "plain", "again")]),
        ("envelope decrypt", vec![place.envelope("decrypt", "encrypted", "again")]),
    ];
    let (mut speeds, mut memory) = ([const { vec![] }; 4], [0; 4]);
    let mut ciphers = vec![];
    for _ in 0..rounds {
        for (at, (_, commands)) in rows.iter().enumerate() {
            let (time, bytes) = place.run(commands)?;
            speeds[at].push(count(size) / time.as_secs_f64() / 1e9);
            memory[at] = memory[at].max(bytes);
            // Before its bytes are written to the disk while something else is measured.
            fs::remove_file(place.folder.path().join("again"))?;
        }
        ciphers.push(cipher());
    }
    println!("{:<34} {:>7} {:>10}", "", "GB/s", "peak MiB");
    let speeds = speeds.map(median);
    for (at, (name, _)) in rows.iter().enumerate() {
        println!("{name:<34} {:>7.2} {:>10.1}", speeds[at], count(memory[at]) / f64::from(1 << 20));
    }
    let cipher = median(ciphers);
    println!("{:<34} {cipher:>7.2}", "AES-256-GCM of AWS-LC, one core");
    match openssl() {
        Some(speed) => println!("{:<34} {speed:>7.2}", "openssl speed -evp aes-256-gcm"),
        None => println!("{:<34} {:>7}", "openssl speed", "missing"),
    }
    let [_, disk, encrypt, decrypt] = speeds;
    let reachable = disk.min(2.0 * cipher);
    let bound = if disk < 2.0 * cipher { "the disk" } else { "the cipher on two cores" };
    println!("reachable: {reachable:.2} GB/s, as {bound} allows");
    let mut limits = Limits::default();
    for (name, speed) in [("encrypt", encrypt), ("decrypt", decrypt)] {
        let share = 100.0 * speed / reachable;
        limits.at_least(format!("{name}, % of the reachable speed"), share, MIN_SHARE);
    }
    Ok(limits.verdict())
}

/// A folder with a wrapping key, and a file `plain` of random bytes on the disk and in the page
/// cache.
struct Place {
    folder: TempDir,
    program: PathBuf,
}

impl Place {
    fn new(parent: &Path, size: u64, program: &Path) -> Result<Self> {
        let folder = tempfile::tempdir_in(parent)?;
        let mut random = vec![0; PIECE];
        getrandom::fill(&mut random)?;
        fs::write(folder.path().join("wrapping.key"), &random[..32])?;
        let mut file = File::create(folder.path().join("plain"))?;
        for _ in 0..size / PIECE as u64 {
            file.write_all(&random)?;
            // No two pieces are the same.
            random.iter_mut().step_by(509).for_each(|byte| *byte = byte.wrapping_add(1));
        }
        file.sync_all()?;
        Ok(Self { folder, program: program.to_owned() })
    }

    /// A command of `envelope`.
    fn envelope(&self, command: &str, from: &str, to: &str) -> String {
        let key = "raw-aes,namespace=benches,name=key,key-file=wrapping.key";
        format!("{} {command} --wrapping-key {key} -i {from} -o {to}", self.program.display())
    }

    /// Runs commands one after another. Returns how long they took, and the peak of their memory in
    /// bytes, except for their last milliseconds.
    fn run(&self, commands: &[String]) -> io::Result<(Duration, u64)> {
        let (started, mut memory) = (Instant::now(), 0);
        for command in commands {
            let mut words = command.split(' ');
            let mut child = Command::new(words.next().unwrap_or_default());
            child.args(words).current_dir(self.folder.path()).stdin(Stdio::null());
            memory = memory.max(watch(child.spawn()?, command)?);
        }
        Ok((started.elapsed(), memory))
    }
}

/// Waits for a program, and returns the peak of its memory.
fn watch(mut child: Child, command: &str) -> io::Result<u64> {
    let status = format!("/proc/{}/status", child.id());
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut max = 0;
            while !has_ended.load(Relaxed) {
                let status = fs::read_to_string(&status).unwrap_or_default();
                max = max.max(status_bytes(&status, "VmHWM:").unwrap_or(0));
                thread::sleep(Duration::from_millis(5));
            }
            max
        });
        let status = child.wait();
        has_ended.store(true, Relaxed);
        let max = watching.join().unwrap_or(0);
        match status? {
            status if status.success() => Ok(max),
            status => Err(io::Error::other(format!("{command}: {status}"))),
        }
    })
}

/// The speed of the cipher alone, in GB/s.
fn cipher() -> f64 {
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes are a key");
    let key = LessSafeKey::new(key);
    let mut block = vec![0; BLOCK];
    let started = Instant::now();
    for number in 0..BLOCKS {
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&number.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut block);
        done(tag.expect("a block is short"));
    }
    f64::from(BLOCKS) * count(BLOCK as u64) / nanos(started)
}

/// The speed that `openssl` prints, in GB/s.
fn openssl() -> Option<f64> {
    let arguments =
        ["speed", "-elapsed", "-seconds", "1", "-bytes", "16384", "-evp", "aes-256-gcm"];
    let output = Command::new("openssl").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let kilobytes = text.lines().last()?.split_whitespace().last()?.strip_suffix('k')?;
    Some(kilobytes.parse::<f64>().ok()? / 1e6)
}
