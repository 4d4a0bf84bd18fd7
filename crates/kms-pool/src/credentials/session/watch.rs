//! The task that refreshes a principal's credentials before they are needed.

use std::sync::Weak;
use std::time::Duration;

use super::Session;
use crate::credentials::files::Stamps;

/// The maximum length of one sleep, so that the task notices suspensions of the machine.
const MAX_SLEEP: Duration = Duration::from_mins(1);

impl Session {
    /// Refreshes the credentials when they are due and when a file of the principal has changed,
    /// for as long as the session is used and has anything to watch.
    pub(super) async fn watch(session: Weak<Self>) {
        loop {
            let next_check =
                session.upgrade().and_then(|session| session.next_check(session.clock.now()));
            let Some(next_check) = next_check else { return };
            tokio::time::sleep(next_check.min(MAX_SLEEP)).await;
            let Some(session) = session.upgrade() else { return };
            // The files count as changed until the provider has responded again.
            if session.have_files_changed().await || session.is_due(session.clock.now()) {
                // The load itself records a failure.
                let _ = session.refresh_now(session.clock.now()).await;
            }
        }
    }

    async fn have_files_changed(&self) -> bool {
        let files = self.principal.files().to_vec();
        if files.is_empty() {
            return false;
        }
        // A file on a slow disk must not hold up the runtime.
        let stamps = tokio::task::spawn_blocking(move || Stamps::of(&files)).await;
        stamps.is_ok_and(|stamps| self.have_changed(&stamps))
    }
}
