//! The task that renews a principal's credentials before anybody needs the next ones.

use std::fs;
use std::path::PathBuf;
use std::sync::Weak;
use std::time::{Duration, SystemTime};

use super::session::Session;
use crate::time;

/// No single sleep is longer, so that a clock that was set, or a machine that was suspended, is
/// noticed.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// File times may be so much behind the clock.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// Renews when credentials are due and when a file of the principal has changed, for as long as the
/// session is used by anybody and has anything to watch.
pub(super) async fn watch(session: Weak<Session>) {
    let (mut seen, mut is_wanted) = (None, false);
    loop {
        let Some(next_look) = session.upgrade().and_then(|session| session.next_look(time::now()))
        else {
            return;
        };
        tokio::time::sleep(next_look.min(LONGEST_SLEEP)).await;
        let Some(session) = session.upgrade() else { return };
        is_wanted |= have_files_changed(&mut seen, &session).await;
        if is_wanted || session.is_due(time::now()) {
            // A failure is counted where it happens. What changed on disk is asked for until there
            // is an answer.
            is_wanted &= session.renew_now(time::now()).await.is_err();
        }
    }
}

/// What is known of a file without reading it.
type Stamp = Option<(u64, Option<SystemTime>)>;

/// Whether a file looks other than it did the last time; at first, whether it changed after the
/// provider was asked.
async fn have_files_changed(seen: &mut Option<Vec<Stamp>>, session: &Session) -> bool {
    let files: Vec<PathBuf> = session.principal.files().to_vec();
    if files.is_empty() {
        return false;
    }
    // A file on a slow disk must not hold up the runtime.
    let stamps =
        tokio::task::spawn_blocking(move || files.iter().map(stamp).collect::<Vec<_>>()).await;
    let Ok(stamps) = stamps else { return false };
    let asked = session.current().map(|current| current.since);
    match seen.replace(stamps.clone()) {
        Some(last) => last != stamps,
        None => stamps
            .into_iter()
            .flatten()
            .any(|(_, modified)| modified.map(|it| it + CLOCK_STEP) >= asked),
    }
}

fn stamp(file: &PathBuf) -> Stamp {
    // Follows links: those who mount secrets swap a link.
    fs::metadata(file).ok().map(|found| (found.len(), found.modified().ok()))
}
