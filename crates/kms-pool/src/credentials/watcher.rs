//! The task that renews a principal's credentials before anybody needs the next ones.

use std::sync::Weak;
use std::time::Duration;

use super::files::Stamps;
use super::session::Session;

/// No single sleep is longer, so that the time is noticed that the machine was suspended.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// Renews when credentials are due and when a file of the principal has changed, for as long as the
/// session is used by anybody and has anything to watch.
pub(super) async fn watch(session: Weak<Session>) {
    loop {
        let next_look =
            session.upgrade().and_then(|session| session.next_look(session.clock.now()));
        let Some(next_look) = next_look else { return };
        tokio::time::sleep(next_look.min(MAX_SLEEP)).await;
        let Some(session) = session.upgrade() else { return };
        // Until the provider has answered, the files look other than before its last answer.
        if have_files_changed(&session).await || session.is_due(session.clock.now()) {
            // A failure is counted where it happens.
            let _ = session.renew_now(session.clock.now()).await;
        }
    }
}

async fn have_files_changed(session: &Session) -> bool {
    let files = session.principal.files().to_vec();
    if files.is_empty() {
        return false;
    }
    // A file on a slow disk must not hold up the runtime.
    let stamps = tokio::task::spawn_blocking(move || Stamps::of(&files)).await;
    stamps.is_ok_and(|stamps| session.have_changed(&stamps))
}
