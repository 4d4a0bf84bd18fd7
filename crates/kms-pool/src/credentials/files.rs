//! What is known of a principal's files without reading them.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

/// How files look: their lengths and times of modification. A time is compared with nothing but
/// another of the same file, since the file system's clock need not be this machine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<(u64, Option<SystemTime>)>>);

impl Stamps {
    /// Of these files. May block for as long as the disk takes.
    pub(super) fn of(files: &[PathBuf]) -> Self {
        // Follows links: those who mount secrets swap a link.
        let stamp = |file: &PathBuf| {
            fs::metadata(file).ok().map(|found| (found.len(), found.modified().ok()))
        };
        Self(files.iter().map(stamp).collect())
    }
}
