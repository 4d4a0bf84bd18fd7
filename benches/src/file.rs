//! A file that is copied, sealed and opened by programs, each timed by itself. Linux alone.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// How much is made or compared at once, in bytes.
const PIECE: usize = 1024 * 1024;
/// How often a program's memory is looked at.
const SAMPLE: Duration = Duration::from_millis(5);

/// A folder with a wrapping key and a file of random bytes. Removed when dropped.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
}

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// From its start to its end.
    pub time: Duration,
    /// The most memory that was resident, in bytes, as far as it was seen: its last milliseconds
    /// are not.
    pub memory: u64,
}

impl Place {
    /// Makes the folder in another one, and in it `plain`, of so many bytes, on the disk and in the
    /// page cache.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn new(parent: &Path, size: u64) -> io::Result<Self> {
        let place = Self { folder: parent.join(format!("envelope-file-{}", std::process::id())) };
        fs::create_dir_all(&place.folder)?;
        let mut random = vec![0; PIECE];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        fs::write(place.path("wrapping.key"), &random[..32])?;
        let mut file = File::create(place.path("plain"))?;
        let mut left = size;
        while left > 0 {
            let count = left.min(PIECE as u64);
            file.write_all(&random[..usize::try_from(count).unwrap_or(PIECE)])?;
            left -= count;
            // No two pieces are the same.
            random.iter_mut().step_by(509).for_each(|byte| *byte = byte.wrapping_add(1));
        }
        file.sync_all()?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The command of `envelope` that makes the file `to` of the file `from`.
    #[must_use]
    pub fn envelope(&self, program: &Path, command: &str, from: &str, to: &str) -> Command {
        let mut envelope = Command::new(program);
        envelope.args([
            command,
            "--wrapping-key",
            "raw-aes,namespace=benches,name=key,key-file=wrapping.key",
        ]);
        envelope.args(["-i", from, "-o", to]);
        envelope
    }

    /// Runs commands here, one after the other.
    ///
    /// # Errors
    ///
    /// When one can't be started, or fails.
    pub fn run(&self, commands: &mut [Command]) -> io::Result<Ran> {
        let (started, mut memory) = (Instant::now(), 0);
        for command in commands {
            let child = command.current_dir(&self.folder).stdin(Stdio::null()).spawn()?;
            memory = memory.max(watched(child, command)?);
        }
        Ok(Ran { time: started.elapsed(), memory })
    }

    /// Removes a file, before its bytes go to the disk in another's time.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    /// Whether two files have the same bytes.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn same(&self, one: &str, other: &str) -> io::Result<bool> {
        let (one, other) = (File::open(self.path(one))?, File::open(self.path(other))?);
        let (mut ones, mut others) = (vec![], vec![]);
        loop {
            ones.clear();
            others.clear();
            (&one).take(PIECE as u64).read_to_end(&mut ones)?;
            (&other).take(PIECE as u64).read_to_end(&mut others)?;
            if ones != others || ones.is_empty() {
                return Ok(ones == others);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits for a program, and gives the most memory that it had.
fn watched(mut child: Child, command: &Command) -> io::Result<u64> {
    let status = format!("/proc/{}/status", child.id());
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(Ordering::Relaxed) {
                most = most.max(
                    fs::read_to_string(&status).ok().as_deref().and_then(high_water).unwrap_or(0),
                );
                thread::sleep(SAMPLE);
            }
            most
        });
        let waited = child.wait();
        ended.store(true, Ordering::Relaxed);
        let most = watching.join().unwrap_or(0);
        match waited? {
            status if status.success() => Ok(most),
            status => Err(io::Error::other(format!("{command:?}: {status}"))),
        }
    })
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
