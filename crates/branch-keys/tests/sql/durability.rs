//! Processes that are killed at any moment.
//!
//! A child process changes branch keys in one file. It prints each shredding before it starts, and
//! each change after it was acknowledged. It is killed, and the file is compared with its output.
//! The number of kills is 30, or `BRANCH_KEYS_KILLS`.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use branch_keys::{Item, ItemType, SqlStorage, Storage};
use futures_executor::block_on;

use crate::items::{item, next};

const FILE: &str = "BRANCH_KEYS_CHILD_FILE";
const IDS: u32 = 6;

#[derive(Default)]
struct Known {
    /// Ids whose creation was acknowledged, or which had items after a kill.
    exists: HashSet<String>,
    /// Versions that were acknowledged or seen, by id.
    versions: HashMap<String, HashSet<String>>,
    /// Ids whose shredding was announced.
    may_be_shredded: HashSet<String>,
    /// Ids whose shredding was acknowledged or seen.
    shredded: HashSet<String>,
}

#[test]
fn a_killed_process_leaves_whole_branch_keys() {
    let kills = std::env::var("BRANCH_KEYS_KILLS").map_or(30, |it| it.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let url = format!("sqlite:{}", file.display());
    let mut known = Known::default();
    let mut acknowledged = 0;
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::child", "--nocapture", "--test-threads=1"])
            .env(FILE, &file)
            .env("BRANCH_KEYS_CHILD_SEED", kill.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // What the test harness prints comes first.
        assert!(lines.any(|line| line.unwrap().ends_with("ready")), "the child did not start");
        std::thread::sleep(Duration::from_micros(fastrand::u64(..30_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            acknowledged += u32::from(known.learn(&line));
        }
        let storage = block_on(SqlStorage::connect(&url)).unwrap();
        for id in ids(kill) {
            known.compare(&id, &block_on(storage.items(&id)).unwrap());
        }
        // From time to time, compare all earlier changes too.
        if kill % 50 == 49 || kill + 1 == kills {
            for id in (0..=kill).flat_map(ids) {
                known.compare(&id, &block_on(storage.items(&id)).unwrap());
            }
        }
    }
    assert!(acknowledged >= kills, "{acknowledged} changes in {kills} processes");
    println!(
        "{kills} kills, {acknowledged} acknowledged changes, {} shredded",
        known.shredded.len()
    );
}

/// The branch keys that a process changes. Those of each tenth process are new.
fn ids(kill: u32) -> impl Iterator<Item = String> {
    (0..IDS).map(move |number| format!("{}-{number}", kill / 10))
}

impl Known {
    /// Returns whether the line acknowledges a change.
    fn learn(&mut self, line: &str) -> bool {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["shredding", id, "."] => {
                self.may_be_shredded.insert(id.to_owned());
                false
            }
            ["put", id, version, "."] => {
                self.exists.insert(id.to_owned());
                self.versions.entry(id.to_owned()).or_default().insert(version.to_owned());
                true
            }
            ["shredded", id, "."] => {
                self.shredded.insert(id.to_owned());
                true
            }
            _ => false,
        }
    }

    fn compare(&mut self, id: &str, items: &[Item]) {
        let types: HashSet<_> = items.iter().map(|it| it.item_type.to_string()).collect();
        assert_eq!(types.len(), items.len());
        if types.contains("envelope:SHREDDED") {
            assert!(self.may_be_shredded.contains(id), "{id} was shredded");
            assert_eq!(types.len(), 1, "{id} was shredded in part: {types:?}");
            self.shredded.insert(id.to_owned());
            return;
        }
        assert!(!self.shredded.contains(id), "{id} came back");
        if items.is_empty() {
            assert!(!self.exists.contains(id), "{id} was lost");
            return;
        }
        assert!(types.contains("beacon:ACTIVE"), "{id} has no beacon");
        let active = items.iter().find(|it| it.item_type == ItemType::Active).unwrap();
        assert!(types.contains(active.version.as_ref().unwrap()), "{id} has no active version");
        let versions = self.versions.entry(id.to_owned()).or_default();
        for version in &*versions {
            assert!(types.contains(version), "{version} of {id} was lost");
        }
        let present = types.into_iter().filter(|it| it.starts_with("branch:version:"));
        versions.extend(present);
        self.exists.insert(id.to_owned());
    }
}

/// The process that is killed. As a test of its own, it does nothing.
#[test]
fn child() {
    let Ok(file) = std::env::var(FILE) else { return };
    let seed: u64 = std::env::var("BRANCH_KEYS_CHILD_SEED").unwrap().parse().unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let storage = block_on(SqlStorage::connect(format!("sqlite:{file}"))).unwrap();
    let say = |line: &str| {
        let mut output = std::io::stdout().lock();
        // The full stop shows that the line is whole.
        writeln!(output, "{line} .").and_then(|()| output.flush()).unwrap();
    };
    println!("\nready");
    let ids: Vec<_> = ids(u32::try_from(seed).unwrap()).collect();
    loop {
        let id = &ids[random.usize(..ids.len())];
        let (active, version) = next(id);
        let name = version.item_type.to_string();
        if random.u8(..40) == 0 {
            say(&format!("shredding {id}"));
            block_on(storage.shred(&item(id, ItemType::Tombstone))).unwrap();
            say(&format!("shredded {id}"));
        } else if let Some(old) = block_on(storage.read(id, ItemType::Active, true)).unwrap() {
            block_on(storage.rotate(&active, &version, &old.ciphertext)).unwrap();
            say(&format!("put {id} {name}"));
        } else {
            let beacon = item(id, ItemType::Beacon);
            if block_on(storage.create(&active, &version, &beacon)).is_ok() {
                say(&format!("put {id} {name}"));
            }
        }
    }
}
