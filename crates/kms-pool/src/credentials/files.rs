//! Detects changes of a principal's files without reading them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::time;

/// File times may lag behind the clock by this much, and two changes within it may have the same
/// time.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// The metadata of a principal's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// Distinguishes the file from another one with the same path, length and time.
    place: Place,
    /// Whether the file was modified just now, so that another change might leave the metadata the
    /// same. Later this is false, the stamps differ, and the file counts as changed once more.
    is_new: bool,
}

/// Where a file is stored, and when its metadata last changed. No program can set that time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    device: u64,
    number: u64,
    changed: (i64, i64),
}

impl Place {
    #[cfg(unix)]
    fn of(found: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            device: found.dev(),
            number: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Unknown on this platform.
    #[cfg(not(unix))]
    fn of(_: &fs::Metadata) -> Self {
        Self::default()
    }
}

impl Stamps {
    /// Reads the metadata of `files`. May block for as long as the disk takes.
    pub(super) fn of(files: &[PathBuf]) -> Self {
        let now = time::of_files();
        Self(files.iter().map(|file| stamp(file, now)).collect())
    }
}

fn stamp(file: &Path, now: SystemTime) -> Option<Stamp> {
    // Follows links: mounted secrets are usually replaced by swapping a link.
    let found = fs::metadata(file).ok()?;
    let modified = found.modified().ok();
    let is_new = modified.is_some_and(|modified| modified + CLOCK_STEP >= now);
    Some(Stamp { length: found.len(), modified, place: Place::of(&found), is_new })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recently_written_file_counts_as_changed_once_more() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let modified = file.as_file().metadata().unwrap().modified().unwrap();
        let at = |millis| stamp(file.path(), modified + Duration::from_millis(millis));
        assert_eq!(at(0), at(20));
        assert_ne!(at(0), at(21));
        assert_eq!(at(21), at(1_000_000));
        assert_eq!(stamp(Path::new("/nowhere"), modified), None);
    }
}
