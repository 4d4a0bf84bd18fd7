//! Long work that lets others have their turn.

use crate::{error::Error, message::Slices};

/// Does all of it; between slices, the executor may do something else. So it may while what was
/// done is wiped after a failure.
pub(super) async fn in_turns(work: &mut impl Slices) -> Result<(), Error> {
    loop {
        match work.next_slice() {
            Ok(true) => return Ok(()),
            Ok(false) => pause().await,
            Err(error) => {
                while work.wipe_slice() {
                    pause().await;
                }
                return Err(error);
            }
        }
    }
}

/// Lets the executor do something else.
#[cfg(feature = "tokio")]
pub(super) async fn pause() {
    tokio::task::yield_now().await;
}

/// Lets the executor do something else.
#[cfg(not(feature = "tokio"))]
pub(super) async fn pause() {
    let mut paused = false;
    let pause = std::future::poll_fn(|cx| {
        if std::mem::replace(&mut paused, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    });
    pause.await;
}
